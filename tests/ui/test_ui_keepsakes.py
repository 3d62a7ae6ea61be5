"""What a browser kept: it comes back whole when it is ours, and harmless when it is not."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from scripted_desk import PIP, made

from personalq.records import Job
from personalq.ui import pictures
from personalq.ui.keepsakes import LONGEST, MOST_FAVOURITES, MOST_HISTORY, MOST_NAME, MOST_VOTES, Kept, remembered

WEBP = "data:image/webp;base64,AAAA"
BIG = "x" * 1_000_000
STRANGE: list[Any] = [None, True, 0, -1, 1.5, float("nan"), "", BIG, "\ud800", [], [[]], {}, {"a": {}}, b"x", object()]
"""One of every shape."""


def entry(seed: int = 1, **given: Any) -> dict[str, Any]:
    return {
        **remembered(made(Job("zwx dog", seed=seed, checkpoints=((PIP, 1.0),)), "reference", 0), WEBP, "nf4"),
        **given,
    }


def full(favourites: int = 0) -> Kept:
    kept = Kept()
    for seed in range(MOST_HISTORY + favourites):
        kept = kept.with_entry(entry(seed))
        if seed < favourites:
            kept = kept.loved(0)
    return kept


def seeds(kept: Kept) -> list[int]:
    return [one["data"]["seed"] for one in kept.history]


def stored(**given: Any) -> dict[str, Any]:
    return {"history": [entry()], "tally": {"nf4": {"same": 1}}, "settings": {"theme": "Dark"}, **given}


def is_sound(kept: Kept) -> bool:
    """Whether it can be shown, kept, sent and read again; and is small."""
    text = json.dumps(kept.plain())
    text.encode()
    pictures.history(kept.history)
    pictures.tally(kept.tally)
    return Kept.of(json.loads(text)) == kept and len(text) < 100_000


# --- what is ours ------------------------------------------------------------------------------


def test_what_was_kept_comes_back_as_it_was() -> None:
    kept = Kept().with_entry(entry(1)).with_entry(entry(2)).loved(1).with_vote("nf4", "same")
    kept = kept.with_settings(theme="Dark", blind=True, previews=False, protect="Every word", precision="nf4")
    assert Kept.of(json.loads(json.dumps(kept.plain()))) == kept
    assert seeds(kept) == [2, 1] and [one["favourite"] for one in kept.history] == [False, True]


def test_an_entry_says_how_a_picture_was_made_but_not_what_was_measured() -> None:
    data = made(Job("zwx dog", seed=4), "reference", 0)
    one = remembered({**data, "memory": {"weights_bytes": 1}}, WEBP, "taq-w4a8")
    assert one["data"] == {name: value for name, value in data.items() if name != "memory"}
    assert (one["thumb"], one["precision"], one["favourite"]) == (WEBP, "taq-w4a8", False)
    assert len(one["when"]) == len("2026-01-31 12:00")


def test_the_newest_comes_first_and_the_oldest_goes() -> None:
    kept = full().with_entry(entry(1000))
    assert seeds(kept) == [1000, *range(MOST_HISTORY - 1, 0, -1)]


def test_favourites_are_never_dropped() -> None:
    kept = full(MOST_FAVOURITES)
    for seed in range(1000, 1100):
        kept = Kept.of(kept.with_entry(entry(seed)).plain())
    loved = [one["data"]["seed"] for one in kept.history if one["favourite"]]
    assert loved == list(range(MOST_FAVOURITES - 1, -1, -1))
    assert len(kept.history) == MOST_HISTORY + MOST_FAVOURITES


def test_one_favourite_too_many_changes_nothing() -> None:
    kept = full(MOST_FAVOURITES)
    ordinary = next(i for i, one in enumerate(kept.history) if not one["favourite"])
    assert kept.loved(ordinary) is kept
    freed = kept.loved(next(i for i, one in enumerate(kept.history) if one["favourite"]))
    assert sum(one["favourite"] for one in freed.loved(ordinary).history) == MOST_FAVOURITES


def test_of_equal_entries_only_the_oldest_goes() -> None:
    kept = Kept()
    for _ in range(MOST_HISTORY + 5):
        kept = kept.with_entry(entry())
    assert len(kept.history) == MOST_HISTORY


def test_an_entry_is_removed_by_its_place() -> None:
    kept = full()
    assert seeds(kept.without(1)) == [MOST_HISTORY - 1, *range(MOST_HISTORY - 3, -1, -1)]


def test_nothing_is_changed_in_place() -> None:
    kept = full(1)
    before = json.dumps(kept.plain())
    kept.with_entry(entry(5)).with_vote("nf4", "same").with_settings(theme="Dark").loved(0).without(0)
    assert json.dumps(kept.plain()) == before


def test_votes_are_counted_by_precision_and_side() -> None:
    kept = Kept().with_vote("nf4", "same").with_vote("nf4", "same").with_vote("nf4", "reference")
    assert kept.with_vote("rtn-w4a8", "quantised").tally == {
        "nf4": {"same": 2, "reference": 1},
        "rtn-w4a8": {"quantised": 1},
    }


# --- what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:20])
def test_anything_at_all_is_nothing_kept(value: Any) -> None:
    assert Kept.of(value) == Kept()
    assert Kept.of({"history": value, "tally": value, "settings": value}) == Kept()


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", ["data", "thumb", "precision", "when", "favourite"])
def test_an_entry_with_one_strange_field_is_left_out_or_harmless(name: str, value: Any) -> None:
    kept = Kept.of(stored(history=[entry(1, **{name: value}), entry(2)]))
    assert seeds(kept)[-1] == 2 and is_sound(kept)


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize(
    "name", ["prompt", "seed", "steps", "concepts", "width", "spans", "protect", "base", "guidance"]
)
def test_a_strange_picture_is_left_out_or_harmless(name: str, value: Any) -> None:
    kept = Kept.of(stored(history=[entry(1, data={**entry()["data"], name: value}), entry(2)]))
    assert seeds(kept)[-1] == 2 and is_sound(kept)


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", ["id", "name", "kind", "sha256", "weight", "more"])
def test_a_strange_concept_is_harmless(name: str, value: Any) -> None:
    data = entry()["data"]
    kept = Kept.of(stored(history=[entry(data={**data, "concepts": [{**data["concepts"][0], name: value}, value]})]))
    assert len(kept.history) == 1 and is_sound(kept)


@pytest.mark.parametrize("missing", ["data", "thumb", "precision", "when", "favourite"])
def test_an_entry_without_a_field_is_left_out(missing: str) -> None:
    one = {name: value for name, value in entry(1).items() if name != missing}
    assert seeds(Kept.of(stored(history=[one, entry(2)]))) == [2]


@pytest.mark.parametrize("missing", ["prompt", "seed", "steps"])
def test_a_picture_that_cannot_be_told_is_left_out(missing: str) -> None:
    data = {name: value for name, value in entry()["data"].items() if name != missing}
    assert Kept.of(stored(history=[entry(data=data)])).history == ()


@pytest.mark.parametrize("name", LONGEST)
def test_texts_of_an_entry_are_short(name: str) -> None:
    assert len(Kept.of(stored(history=[entry(**{name: "x" * LONGEST[name]})])).history) == 1
    assert len(Kept.of(stored(history=[entry(**{name: "x" * (LONGEST[name] + 1)})])).history) == 0


@pytest.mark.parametrize("name", ["prompt", "negative", "concepts", "spans"])
def test_a_picture_larger_than_any_made_here_is_left_out(name: str) -> None:
    many = (
        "x" * 2001 if name in ("prompt", "negative") else [{"id": "x", "start": 0, "end": 3, "role": "trigger"}] * 2001
    )
    assert Kept.of(stored(history=[entry(1, data={**entry()["data"], name: many}), entry(2)])).history == (entry(2),)
    few = many[:20] if name == "concepts" else many[:1000]
    assert len(Kept.of(stored(history=[entry(1, data={**entry()["data"], name: few})])).history) == 1


def test_fields_that_are_not_known_are_not_kept() -> None:
    kept = Kept.of(stored(history=[entry(more=BIG, data={**entry()["data"], "more": BIG})], more=BIG))
    assert kept.history == Kept.of(stored()).history and is_sound(kept)


def test_too_many_entries_and_votes_are_cut() -> None:
    kept = Kept.of(stored(history=[entry(i) for i in range(500)], tally={str(i): {"same": 1} for i in range(500)}))
    assert seeds(kept) == list(range(MOST_HISTORY + MOST_FAVOURITES)) and len(kept.tally) == 20
    assert Kept.of(stored(history=[None] * 100_000 + [entry(3)])).history[0]["data"]["seed"] == 3


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:20])
def test_strange_votes_do_not_count(value: Any) -> None:
    assert is_sound(Kept.of(stored(tally={"nf4": value})))
    tally = {"nf4": {"same": 3, "reference": value}}
    assert Kept.of(stored(tally=tally)).tally == {"nf4": {"same": 3}}


def test_votes_without_end_stop_at_a_number_that_can_be_tested() -> None:
    kept = Kept.of(stored(tally={"nf4": {"reference": 10**30, "quantised": MOST_VOTES, "same": 1}}))
    assert kept.tally["nf4"] == {"reference": MOST_VOTES, "quantised": MOST_VOTES, "same": 1}
    assert Kept.of(kept.with_vote("nf4", "reference").plain()).tally == kept.tally


@pytest.mark.parametrize("name", ["", "x" * MOST_NAME, "<b>"])
def test_a_short_name_of_votes_is_kept(name: str) -> None:
    assert Kept.of(stored(tally={name: {"same": 1}})).tally[name]["same"] == 1


@pytest.mark.parametrize("name", ["x" * (MOST_NAME + 1), "\ud800", 3, None])
def test_another_name_of_votes_is_not(name: Any) -> None:
    assert Kept.of(stored(tally={name: {"same": 1}})).tally == {}


@pytest.mark.parametrize("value", [value for value in STRANGE if value is not True], ids=lambda value: repr(value)[:20])
def test_settings_of_another_type_are_left_out(value: Any) -> None:
    names = ("protect", "blind", "previews", "theme", "precision", "more")
    kept = Kept.of(stored(settings=dict.fromkeys(names, value)))
    assert set(kept.settings) <= ({"protect", "theme", "precision"} if value == "" else set())


def test_switches_and_texts_are_not_taken_for_each_other() -> None:
    kept = Kept.of(stored(settings={"blind": "no", "previews": "", "theme": True, "protect": False}))
    assert kept.settings == {}


def test_random_rubbish_is_always_sound() -> None:
    dice = random.Random(5)
    names = ["history", "tally", "settings", *entry(), *entry()["data"], "same", "reference", "name"]

    def rubbish(depth: int = 0) -> Any:
        if depth > 4 or dice.random() < 0.3:
            return dice.choice(STRANGE[:9])
        if dice.random() < 0.3:
            return [rubbish(depth + 1) for _ in range(3)]
        return {dice.choice(names): rubbish(depth + 1) for _ in range(4)}

    for _ in range(300):
        mixed = {**stored(), dice.choice(["history", "tally", "settings"]): rubbish()}
        one = {**entry(), dice.choice([*entry()]): rubbish()}
        assert is_sound(Kept.of(rubbish())) and is_sound(Kept.of(mixed)) and is_sound(Kept.of(stored(history=[one])))
