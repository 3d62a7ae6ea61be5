"""The store on disk: it is found again, survives a crash at any write, and lets one process write at a time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from personalq.checkin.clock import Clock
from personalq.checkin.profile import spaced
from personalq.checkin.stores import disk, textual
from personalq.checkin.stores.disk import DiskStore
from personalq.checkin.stores.manifest import Manifest
from personalq.checkin.stores.protocol import Entry, Query, Vectors
from personalq.checkin.stores.squeezed import SqueezedVectors
from personalq.checkin.stores.textual import TextIndex
from personalq.errors import CatalogError, SettingsError

WIDTH = 16


def drawn(count: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def entries(start: int, stop: int) -> list[Entry]:
    return [
        Entry(f"id-{n}", f"common word{n}", (spaced(f"phrase {n}"),), None, "lora", "p") for n in range(start, stop)
    ]


def opened(folder: Path, encoder: str = "e") -> DiskStore:
    return DiskStore(folder, WIDTH, encoder)


def filled(folder: Path) -> DiskStore:
    store = opened(folder)
    store.add(entries(0, 30), drawn(30), drawn(30, 1))
    return store


def seen(store: DiskStore) -> tuple[set[str], set[str], set[str]]:
    """The ids that words, titles and phrases find."""
    found = store.search(Query("common phrase 3 phrase 30", drawn(1, 9)[0]), Clock())
    lists = found.lists[0].rows, found.lists[2].rows, found.hits
    words, titles, hits = ({store.id(row) for row in rows.tolist()} for rows in lists)
    return words, titles, hits


def all_ids(count: int) -> set[str]:
    return {f"id-{n}" for n in range(count)}


def test_a_closed_store_is_found_again_as_it_was(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.remove(["id-3", "id-7"])
    again = opened(tmp_path)
    assert dict(again.held()) == dict(store.held())
    assert seen(again) == seen(store) == (all_ids(30) - {"id-3", "id-7"},) * 2 + (set(),)
    again.add(entries(30, 31) + entries(3, 4), drawn(2), drawn(2))
    assert seen(again)[2] == seen(opened(tmp_path))[2] == {"id-30", "id-3"}
    assert len(opened(tmp_path)) == 30


@pytest.mark.parametrize("stage", ["titles", "bodies", "text", "commit", "manifest"])
def test_an_addition_that_fails_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    store = filled(tmp_path)
    before = seen(store)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    count = iter(range(2))
    whole = SqueezedVectors.append
    with monkeypatch.context() as broken:
        if stage in ("titles", "bodies"):
            which = ("titles", "bodies").index(stage)
            broken.setattr(SqueezedVectors, "append", lambda *a: fail() if next(count) == which else whole(*a))
        elif stage == "manifest":
            broken.setattr(Manifest, "write", fail)
        else:
            broken.setattr(TextIndex, {"text": "add", "commit": "commit"}[stage], fail)
        with pytest.raises(OSError, match="no space"):
            store.add(entries(30, 33), drawn(3), drawn(3))
    assert seen(store) == before
    assert seen(opened(tmp_path)) == before
    store.add(entries(30, 31), drawn(1, 5), drawn(1, 6))
    assert seen(store)[0] == seen(opened(tmp_path))[0] == all_ids(31)
    top = store.search(Query("phrase 30", drawn(1, 5)[0]), Clock())
    assert store.id(int(top.lists[2].rows[0])) == "id-30"
    assert top.lists[2].scores[0] == pytest.approx(1, abs=1e-5)


def test_a_process_killed_between_writes_is_mended_when_opened(tmp_path: Path) -> None:
    store = filled(tmp_path)
    kept = {file: (tmp_path / file).read_bytes() for file in ("manifest.json",)}
    before = seen(store)
    store.add(entries(30, 33), drawn(3), drawn(3))
    (tmp_path / "manifest.json").write_bytes(kept["manifest.json"])
    assert seen(opened(tmp_path)) == before
    cut = json.loads(kept["manifest.json"])
    cut["removed"] = [3]
    (tmp_path / "manifest.json").write_text(json.dumps(cut))
    assert seen(opened(tmp_path))[0] == all_ids(30) - {"id-3"}
    (tmp_path / "manifest.unfinished").write_text('{"half')
    assert len(opened(tmp_path)) == 29


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to ten additions or removals wait for the text index of 30 rows."""
    monkeypatch.setattr(disk, "SHARE", 3)


@pytest.mark.usefixtures("waiting")
def test_what_waits_for_the_text_index_is_found_at_once_and_after_a_restart(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.add(entries(30, 34), drawn(4), drawn(4))
    store.remove(["id-3", "id-31"])
    text = TextIndex(tmp_path / "text")
    assert len(text) == 30
    for each in (store, opened(tmp_path)):
        assert len(each) == 32
        assert seen(each) == (all_ids(34) - {"id-3", "id-31"},) * 2 + ({"id-30"},)
        assert each.rarity("word33") == pytest.approx(each.rarity("word5"))
        found = each.search(Query("common word33 word5", drawn(1)[0]), Clock())
        rows = found.lists[0].rows
        assert {each.id(row) for row in rows[:2].tolist()} == {"id-33", "id-5"}
        assert found.scores(rows)[:, 0] == pytest.approx(found.lists[0].scores)
        assert found.lists[0].scores[0] == pytest.approx(found.lists[0].scores[1], rel=0.1)


@pytest.mark.usefixtures("waiting")
def test_when_enough_waits_it_reaches_the_text_index(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for number in range(30, 41):
        store.add(entries(number, number + 1), drawn(1), drawn(1))
    assert len(TextIndex(tmp_path / "text")) == 41
    assert seen(store)[0] == seen(opened(tmp_path))[0] == all_ids(41)
    for number in range(14):
        store.remove([f"id-{number}"])
    assert len(TextIndex(tmp_path / "text")) == 27
    store.add(entries(0, 1), drawn(1), drawn(1))
    assert seen(store)[0] == seen(opened(tmp_path))[0] == all_ids(41) - {f"id-{n}" for n in range(1, 14)}


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("change", ["add", "remove"])
def test_a_kill_between_text_index_and_manifest_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    store = filled(tmp_path)
    store.add(entries(30, 31), drawn(1), drawn(1))
    store.remove(["id-25"])
    manifest: list[bytes] = []
    whole = TextIndex.commit

    def killed(self: TextIndex) -> None:
        whole(self)
        manifest.append((tmp_path / "manifest.json").read_bytes())

    with monkeypatch.context() as watched:
        watched.setattr(TextIndex, "commit", killed)
        if change == "add":
            store.add(entries(31, 60), drawn(29), drawn(29))
        else:
            store.remove([f"id-{number}" for number in range(15)])
    (tmp_path / "manifest.json").write_bytes(manifest[0])
    left = all_ids(31) - {"id-25"} - (set() if change == "add" else all_ids(15))
    assert seen(opened(tmp_path))[0] == seen(opened(tmp_path))[0] == left
    opened(tmp_path).add(entries(60, 61), drawn(1), drawn(1))
    assert seen(opened(tmp_path))[0] == left | {"id-60"}


def test_a_store_that_changes_while_it_is_opened_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    whole = SqueezedVectors.__init__
    other = iter([True])

    def interrupted(self: SqueezedVectors, *rest: object) -> None:
        if next(other, False):
            store.add(entries(30, 33), drawn(3), drawn(3))
        whole(self, *rest)

    monkeypatch.setattr(SqueezedVectors, "__init__", interrupted)
    assert seen(opened(tmp_path))[0] == all_ids(33)
    assert seen(opened(tmp_path))[0] == all_ids(33)


def test_another_encoder_or_a_broken_manifest_starts_anew(tmp_path: Path) -> None:
    filled(tmp_path)
    assert len(opened(tmp_path, "another")) == 0
    filled(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    assert len(opened(tmp_path)) == 0


def test_files_that_lost_their_end_are_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    vectors = tmp_path / "titles.f32"
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(CatalogError, match="delete"):
        opened(tmp_path)


def test_a_store_changed_elsewhere_does_not_write_over_it(tmp_path: Path) -> None:
    mine = filled(tmp_path)
    theirs = opened(tmp_path)
    theirs.add(entries(30, 31), drawn(1), drawn(1))
    with pytest.raises(CatalogError, match="open the catalogue again"):
        mine.remove(["id-3"])
    assert seen(mine)[0] == all_ids(30)
    assert seen(opened(tmp_path))[0] == all_ids(31)


def test_only_one_writes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    other = TextIndex(tmp_path / "text")
    other.open_writer()
    monkeypatch.setattr(textual, "PATIENCE", 0.0)
    with pytest.raises(CatalogError, match="Another process"):
        store.add(entries(30, 31), drawn(1), drawn(1))
    other.close()
    monkeypatch.undo()
    store.add(entries(30, 31), drawn(1), drawn(1))
    assert len(store) == 31


def test_squeezed_search_finds_the_exact_best_of_many(tmp_path: Path) -> None:
    store = SqueezedVectors(tmp_path / "v", WIDTH, 0)
    vectors = drawn(5000)
    for start in range(0, 5000, 500):
        store.append(vectors[start : start + 500])
    query = drawn(1, 77)[0]
    exact = vectors @ query
    allowed = np.arange(5000) % 3 > 0
    for mask in (np.ones(5000, dtype=bool), allowed):
        ranked = store.top(query, mask)
        expected = [row for row in np.argsort(-exact) if mask[row]][:20]
        assert ranked.rows[:20].tolist() == expected
        np.testing.assert_allclose(ranked.scores, exact[ranked.rows], atol=1e-6)


@pytest.mark.parametrize(("module", "command"), [("tantivy", "pip install tantivy=="), ("faiss", "pip install faiss-")])
def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError, match=command):
        opened(tmp_path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CatalogError, match="another cache folder"):
        opened(tmp_path / "file" / "store")
