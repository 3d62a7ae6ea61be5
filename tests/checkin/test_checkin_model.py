"""The fitted model and the vectors: what is packaged loads, what is fitted learns, what is cached is reused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from personalq.checkin.dense import WIDTH, Encoder
from personalq.checkin.rerank.embedded import Coefficients, logits
from personalq.checkin.rerank.features import EVIDENCE, NAMES, compare
from personalq.checkin.rerank.fit import Example, fit
from personalq.errors import RerankerError


def example(right: int, present: bool) -> Example:
    table = np.zeros((5, len(NAMES)))
    table[:, NAMES.index("title")] = 0.2
    if present:
        table[right, NAMES.index("title")] = 0.8
        table[right, NAMES.index("subject_anywhere")] = 0.9
    groups = tuple(f"g{at}" for at in range(5))
    kind = "single" if present else "no_match"
    return Example(compare(table), groups, frozenset({f"g{right}"} if present else ()), kind)


def test_a_fit_learns_which_and_whether() -> None:
    rows = [example(at % 5, at % 3 > 0) for at in range(30)]
    found = fit(rows)
    for row in rows:
        scores = logits(row.table, row.groups, found)
        if row.targets:
            assert row.groups[int(np.argmax(scores))] in row.targets
            assert scores.max() > 0
        else:
            assert np.exp(scores).sum() < 1


def test_the_packaged_coefficients_fit_the_features(tmp_path: Path) -> None:
    packaged = Coefficients.read()
    assert packaged.weights.shape == (len(NAMES),)
    assert packaged.evidence.shape == (len(EVIDENCE),)
    assert packaged.weights[NAMES.index("negative")] < 0 < packaged.weights[NAMES.index("version")]
    (tmp_path / "other.json").write_text('{"weights": {}}')
    with pytest.raises(RerankerError, match="fit"):
        Coefficients.read(tmp_path / "other.json")


def test_vectors_are_unit_length_meaningful_and_cached(tmp_path: Path) -> None:
    texts = ["a small dog", "a puppy", "a steam engine"]
    seen: list[int] = []
    first = Encoder(tmp_path).documents(texts, lambda done, total, what: seen.append(total))
    assert first.shape == (3, WIDTH)
    assert seen == [3]
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    assert first[0] @ first[1] > first[0] @ first[2]
    seen.clear()
    again = Encoder(tmp_path).documents([*texts, "a new one"], lambda done, total, what: seen.append(total))
    assert seen == [1]
    np.testing.assert_array_equal(again[:3], first)


def test_a_broken_cache_is_computed_anew(tmp_path: Path) -> None:
    (tmp_path / "all-MiniLM-L6-v2.npz").write_bytes(b"not a zip")
    assert Encoder(tmp_path).documents(["a dog"]).shape == (1, WIDTH)
