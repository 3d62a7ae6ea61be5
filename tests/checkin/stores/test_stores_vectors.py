"""The cache of vectors: exact, shared, merged, and whole after a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from personalq.checkin.stores import vectors as module
from personalq.checkin.stores.vectors import VectorCache


def drawn(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 4)).astype(np.float32)


def texts(count: int, what: str = "text") -> list[str]:
    return [f"{what} {number}" for number in range(count)]


def test_what_was_put_comes_back_and_nothing_else(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, 4)
    assert cache.get(["text 1"]) == {}
    cache.put(texts(50), drawn(50))
    cache.put(["\ud800 odd", ""], drawn(2))
    for opened in (cache, VectorCache(tmp_path, 4)):
        found = opened.get([*texts(60), ""])
        assert set(found) == {*texts(50), ""}
        np.testing.assert_array_equal(np.stack([found[text] for text in texts(50)]), drawn(50))
        np.testing.assert_array_equal(found[""], drawn(2)[1])


def test_many_small_segments_become_one_and_large_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SMALL", 10)
    monkeypatch.setattr(module, "_MANY", 4)
    cache = VectorCache(tmp_path, 4)
    cache.put(texts(12, "large"), drawn(12))
    for number in range(7):
        cache.put([f"small {number}"], drawn(7)[number : number + 1])
    assert len(list(tmp_path.iterdir())) < 5
    for opened in (cache, VectorCache(tmp_path, 4)):
        found = opened.get([*texts(7, "small"), *texts(12, "large")])
        np.testing.assert_array_equal(np.stack([found[text] for text in texts(7, "small")]), drawn(7))
        np.testing.assert_array_equal(np.stack([found[text] for text in texts(12, "large")]), drawn(12))


def test_an_unfinished_or_foreign_segment_counts_as_absent(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, 4)
    cache.put(["whole"], drawn(1))
    (tmp_path / "torn.unfinished").mkdir()
    (tmp_path / "torn.segment").mkdir()
    (tmp_path / "torn.segment" / "keys.npy").write_bytes(b"half")
    assert set(VectorCache(tmp_path, 4).get(["whole", "torn"])) == {"whole"}
    assert VectorCache(tmp_path, 5).get(["whole"]) == {}


def test_where_nothing_can_be_written_vectors_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY", 2)
    (tmp_path / "file").write_text("no folder")
    cache = VectorCache(tmp_path / "file" / "vectors", 4)
    for number in range(5):
        cache.put([f"text {number}"], drawn(5)[number : number + 1])
    found = cache.get(texts(6))
    np.testing.assert_array_equal(np.stack([found[text] for text in texts(5)]), drawn(5))


def test_a_disk_that_is_full_loses_nothing_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = VectorCache(tmp_path, 4)
    cache.put(["old"], drawn(1))
    monkeypatch.setattr(module, "_MANY", 2)
    monkeypatch.setattr(module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space")))
    cache.put(["new"], drawn(1))
    assert set(cache.get(["old", "new"])) == {"old", "new"}
    assert set(VectorCache(tmp_path, 4).get(["old", "new"])) == {"old"}
