"""What every store promises, held against a plain count of the same few checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from personalq.checkin.clock import Clock
from personalq.checkin.lexical import okapi, query_words
from personalq.checkin.profile import spaced
from personalq.checkin.stores import disk
from personalq.checkin.stores.choose import IN_MEMORY, Server, configured, open_store
from personalq.checkin.stores.protocol import Entry, Filter, Found, Query, Store, Vectors
from personalq.checkin.words import words
from personalq.errors import SettingsError
from personalq.settings import Settings

WIDTH = 8
SAID = "ember fox grey dog bandana mug star comet rocket moss house plum car penguin ink print of the old sea"
WORDS = SAID.split()
BASES = ("SD 1.5", "SDXL 1.0", None)
KINDS = ("lora", "ti", "dreambooth")
KINDS_OF_STORE = ("memory", "disk", "disk, late", "qdrant")

Opened = Callable[[], Store]


def entry(number: int) -> Entry:
    draw = np.random.default_rng(number)
    text = " ".join(draw.choice(WORDS, 12))
    return Entry(
        f"id-{number}", text, (spaced(f"trg{number} fox"), spaced(f"Name {number}")), BASES[number % 3],
        KINDS[number % 2], f"print {number}",
    )  # fmt: skip


def unit(number: int, what: int) -> Vectors:
    drawn = np.random.default_rng([number, what]).standard_normal(WIDTH).astype(np.float32)
    return drawn / np.linalg.norm(drawn)


def fill(store: Store, numbers: range) -> None:
    titles = np.stack([unit(number, 1) for number in numbers])
    bodies = np.stack([unit(number, 2) for number in numbers])
    store.add([entry(number) for number in numbers], titles, bodies)


def search(store: Store, text: str, wanted: Filter | None = None) -> Found:
    return store.search(Query(text, unit(999, 3), wanted or Filter()), Clock())


def ids(store: Store, rows: np.ndarray) -> list[str]:
    return [store.id(row) for row in rows.tolist()]


@pytest.fixture(params=KINDS_OF_STORE)
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """ "disk, late" keeps what is added after the first 30 waiting for the text index."""
    if request.param == "qdrant":
        pytest.importorskip("qdrant_client")
        return lambda: open_store(Server(folder=tmp_path / "store"), 0, WIDTH, "an encoder", None)
    monkeypatch.setattr(disk, "SHARE", 1 if request.param == "disk, late" else disk.SHARE)
    return lambda: open_store(request.param.partition(",")[0], 0, WIDTH, "an encoder", tmp_path / "store")


@pytest.fixture
def store(opened: Opened) -> Store:
    filled = opened()
    fill(filled, range(30))
    fill(filled, range(30, 40))
    return filled


def test_dense_lists_are_the_exact_cosines_best_first(store: Store) -> None:
    found = search(store, "fox")
    for what, ranked in zip((1, 2), found.lists[2:], strict=True):
        cosines = np.array([unit(number, what) @ unit(999, 3) for number in range(40)])
        best = [f"id-{number}" for number in np.argsort(-cosines)[:15]]
        assert ids(store, ranked.rows)[:15] == best
        np.testing.assert_allclose(ranked.scores[:15], np.sort(cosines)[::-1][:15], atol=1e-6)


def test_words_rank_as_bm25_does_and_grams_find_pieces(store: Store) -> None:
    documents = [words(entry(number).text) for number in range(40)]
    expected = okapi(documents).get_scores(query_words("grey penguin"))
    ranked = search(store, "grey penguin").lists[0]
    mine = dict(zip(ids(store, ranked.rows), ranked.scores.tolist(), strict=True))
    for number, score in enumerate(expected):
        assert (mine.get(f"id-{number}", 0) > 0) == (score > 0)
    leader = f"id-{int(np.argmax(expected))}"
    assert ids(store, ranked.rows[:1]) == [leader]
    assert 0 < ranked.scores[0] < store.ceilings("grey penguin")[0]
    misspelt = search(store, "pengui")
    assert (misspelt.lists[0].scores > 0).sum() == 0
    best = store.id(int(misspelt.lists[1].rows[0]))
    assert "penguin" in entry(int(best[3:])).text


def test_exact_hits_are_whole_phrases(store: Store) -> None:
    assert ids(store, search(store, "a TRG7 fox by the sea").hits) == ["id-7"]
    assert ids(store, search(store, "trg7 foxes").hits) == []
    assert ids(store, search(store, "name 3 with name 31").hits) == ["id-3", "id-31"]


def test_a_filter_leaves_only_what_fits_above_zero(store: Store) -> None:
    for wanted in (Filter(loaded="SDXL 1.0"), Filter(asked="SD 1.5", kind="ti"), Filter(kind="dreambooth")):
        for ranked in search(store, "grey fox", wanted).lists:
            for identifier in ids(store, ranked.rows[ranked.scores > 0]):
                number = int(identifier[3:])
                assert wanted.base(BASES[number % 3])
                assert wanted.allows(KINDS[number % 2])


def test_scores_of_any_rows_agree_with_the_lists(store: Store) -> None:
    found = search(store, "grey fox star")
    rows = np.array(store.rows(["id-5", "id-31", "id-0", "nobody"]))
    table = found.scores(rows)
    assert table.shape == (3, 4)
    for column, ranked in enumerate(found.lists):
        listed = dict(zip(ranked.rows.tolist(), ranked.scores.tolist(), strict=True))
        for row, score in zip(rows.tolist(), table[:, column], strict=True):
            assert score == pytest.approx(listed.get(row, 0.0), abs=1e-5)
    assert found.scores(rows[:0]).shape == (0, 4)


def test_additions_are_found_at_once_and_removals_never_again(store: Store) -> None:
    fill(store, range(40, 43))
    assert len(store) == 43
    assert ids(store, search(store, "trg41 fox").hits) == ["id-41"]
    store.remove(["id-41", "id-3"])
    assert len(store) == 41
    found = search(store, "trg41 fox name 3 grey dog star")
    assert set(ids(store, found.hits)).isdisjoint({"id-41", "id-3"})
    for ranked in found.lists:
        assert set(ids(store, ranked.rows)).isdisjoint({"id-41", "id-3"})
    assert store.rows(["id-41"]) == []
    fill(store, range(41, 42))
    assert ids(store, search(store, "trg41 fox").hits) == ["id-41"]
    assert store.held()["id-41"] == "print 41"


def test_rare_words_weigh_more_and_unknown_ones_most(store: Store) -> None:
    often = [word for number in range(40) for word in set(words(entry(number).text))]
    common, rare = max(WORDS, key=often.count), min(WORDS, key=lambda word: often.count(word) or 99)
    assert 0 < store.rarity(common) < store.rarity(rare) < store.rarity("zzyzx")


def test_an_empty_store_finds_nothing(opened: Opened) -> None:
    store = opened()
    found = search(store, "grey fox")
    assert [len(ranked.rows) for ranked in found.lists] == [0, 0, 0, 0]
    assert len(found.hits) == 0
    assert len(store) == store.size == 0


def test_the_size_of_a_catalogue_chooses_its_store(tmp_path: Path) -> None:
    names = [
        open_store("auto", count, WIDTH, "e", folder).name
        for count, folder in ((IN_MEMORY, tmp_path), (IN_MEMORY + 1, tmp_path), (IN_MEMORY + 1, None))
    ]
    assert names == ["memory", "disk: tantivy and FAISS", "memory"]
    with pytest.raises(SettingsError, match="choose one of"):
        open_store("cloud", 1, WIDTH, "e", tmp_path)
    with pytest.raises(SettingsError, match="cache folder"):
        open_store("disk", 1, WIDTH, "e", None)


def test_settings_name_a_store_and_its_server() -> None:
    assert configured(Settings(store="memory")) == "memory"
    chosen = configured(Settings(store="qdrant", qdrant_url="http://host:6333", qdrant_key="secret"))
    assert chosen == Server("http://host:6333", "secret", "personalq")
    assert "secret" not in repr(chosen)
    with pytest.raises(SettingsError, match="PERSONALQ_QDRANT_URL"):
        configured(Settings(store="qdrant"))
