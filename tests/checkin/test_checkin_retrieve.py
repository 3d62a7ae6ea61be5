"""The index as checkpoints come and go, and what its short list leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_catalogue import CATALOGUE, dog

from personalq.checkin.clock import Clock
from personalq.checkin.dialogue import CheckIn
from personalq.checkin.intent import parse
from personalq.checkin.profile import Profile, Profiles
from personalq.checkin.retrieve import Index
from personalq.records import Candidate, Checkpoint, Request, Selection

NEW = dog("waffle", "Waffle", "wfl dog", "A brown dog with a chequered scarf.")


def found(index: Index, text: str, loaded: str | None = None) -> list[Candidate]:
    return index.candidates(parse(Request(text), index.bases, index.nouns), loaded, Clock())


def scores(index: Index, text: str) -> dict[str, tuple[float, ...]]:
    return {c.checkpoint.id: (c.lexical, c.grams, c.dense, c.body) for c in found(index, text)}


@pytest.fixture
def index(cache: Path) -> Index:
    return Index(CATALOGUE, cache)


def test_an_added_checkpoint_is_found_as_if_it_had_always_been_there(index: Index, cache: Path) -> None:
    index.add([NEW])
    fresh = Index([*CATALOGUE, NEW], cache)
    assert found(index, "wfl dog")[0].checkpoint == NEW
    for text in ("wfl dog", "my dog with the scarf", "ember fox"):
        assert {k: pytest.approx(v) for k, v in scores(fresh, text).items()} == scores(index, text)
    assert index.members("waffle") == (NEW,)


def test_a_removed_checkpoint_leaves_nothing_behind(index: Index, cache: Path) -> None:
    index.by_id["star-mug"]
    index.remove(["star-mug", "never-there"])
    fresh = Index([c for c in CATALOGUE if c.id != "star-mug"], cache)
    assert "star-mug" not in index.by_id
    assert "mug" not in index.nouns
    assert index.members("star-mug") == ()
    for text in ("the star mug", "my dog at the beach"):
        assert {k: pytest.approx(v) for k, v in scores(fresh, text).items()} == scores(index, text)
    index.add([c for c in CATALOGUE if c.id == "star-mug"])
    assert found(index, "the star mug")[0].checkpoint.id == "star-mug"


def test_a_known_id_keeps_its_first_record(index: Index) -> None:
    index.add([Checkpoint(id="biscuit", name="Somebody Else")])
    assert index.by_id["biscuit"].checkpoint.name == "Biscuit"


def test_another_base_is_never_in_the_short_list(index: Index) -> None:
    far = Checkpoint(id="far", name="Waffle", base="SDXL 1.0", triggers=("wfl dog",), class_noun="dog")
    index.add([far])
    assert far in [candidate.checkpoint for candidate in found(index, "wfl dog")]
    assert far not in [candidate.checkpoint for candidate in found(index, "wfl dog", "tiny-sd")]


def test_a_store_on_disk_is_brought_up_to_the_catalogue(cache: Path, tmp_path: Path) -> None:
    encoded: list[int] = []

    def opened(checkpoints: tuple[Checkpoint, ...]) -> Index:
        encoded.clear()
        return Index(checkpoints, tmp_path, lambda done, total, what: encoded.append(done), store="disk")

    first = opened(CATALOGUE)
    assert first.store.name.startswith("disk")
    assert len(first.store) == len(CATALOGUE)
    assert len(encoded) > 0
    assert not list((tmp_path / "vectors").rglob("*.segment"))
    renamed = dog("biscuit", "Rusk", "rsk dog", "Our blue dog who wears a red bandana.")
    second = opened((renamed, *CATALOGUE[2:], NEW))
    assert set(second.store.held()) == {c.id for c in CATALOGUE} - {"pepper"} | {"waffle"}
    assert found(second, "rsk dog")[0].checkpoint == renamed
    assert "pepper" not in scores(second, "Pepper")
    again = opened((renamed, *CATALOGUE[2:], NEW))
    assert encoded == []
    assert scores(again, "my dog with the scarf") == scores(second, "my dog with the scarf")
    in_memory = Index((renamed, *CATALOGUE[2:], NEW), cache)
    for text in ("wfl dog", "ember fox"):
        assert found(again, text)[0].checkpoint == found(in_memory, text)[0].checkpoint


def test_profiles_are_read_when_asked_for_and_forgotten_when_many(monkeypatch: pytest.MonkeyPatch) -> None:
    records = {str(at): Checkpoint(id=str(at), name=f"Fox {at}") for at in range(5)}
    read: list[str] = []
    whole = Profile.of
    monkeypatch.setattr(Profile, "of", lambda checkpoint: read.append(checkpoint.id) or whole(checkpoint))
    monkeypatch.setattr(Profiles, "KEPT", 2)
    profiles = Profiles(records)
    assert "4" in profiles
    assert "5" not in profiles
    assert read == []
    for identifier in ("0", "0", "1", "2", "0"):
        assert profiles[identifier].checkpoint.id == identifier
    assert read == ["0", "1", "2", "0"]
    with pytest.raises(KeyError):
        profiles["5"]


def test_decisions_follow_the_catalogue(cache: Path) -> None:
    checkin = CheckIn(CATALOGUE, cache)
    request = Request("the brown dog with the chequered scarf", as_of="2026-01-15")
    checkin.add([NEW])
    decision = checkin.ask(request)
    assert isinstance(decision, Selection)
    assert decision.checkpoints == (NEW,)
    checkin.remove([NEW.id])
    assert NEW not in [candidate.checkpoint for candidate in checkin.ask(request).candidates]
