"""Which version is meant: said, described, dated, or asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_catalogue import CATALOGUE, thing

from personalq.checkin.dialogue import CheckIn, Pending, pending
from personalq.checkin.intent import parse
from personalq.errors import RequestError
from personalq.records import Checkpoint, Decision, NoMatch, Question, Request, Selection

NOW = "2026-01-15"
NOTES = {
    1: ("2025-01-10", "Tuned on studio shots, with a red scarf."),
    2: ("2025-04-12", "Candlelight, with a green scarf."),
    3: ("2025-08-20", "Studio light, with a red scarf."),
    11: ("2025-11-02", "Neon light, no scarf at all."),
}


def fox(number: int) -> Checkpoint:
    day, notes = NOTES[number]
    return Checkpoint(
        id=f"fox-v{number}", name="Ember Fox", base="tiny-sd", triggers=("embrfx fox",), class_noun="fox",
        category="animal", role="subject", description=f"An orange fox. {notes}", version=f"v{number}",
        version_ordinal=float(number), group_id="fox", created_at=day,
    )  # fmt: skip


@pytest.fixture(scope="module")
def asking(cache: Path) -> CheckIn:
    others = [each for each in CATALOGUE if each.group_id != "ember-fox"]
    return CheckIn([*map(fox, NOTES), *others], cache, version_policy="ask")


def request(text: str) -> Request:
    return Request(text, as_of=NOW)


def ids(decision: Decision) -> list[str]:
    assert isinstance(decision, Selection), decision
    return [each.id for each in decision.checkpoints]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("version two of my ember fox in the snow", "fox-v2"),
        ("version eleven of my ember fox in the snow", "fox-v11"),
        ("ember fox in the snow, the first i ever trained", "fox-v1"),
        ("the newest ember fox in the snow", "fox-v11"),
        ("the ember fox from the 20th of August 2025, at a lake", "fox-v3"),
        ("the ember fox from April 12, 2025, at a lake", "fox-v2"),
        ("the ember fox in candlelight with the green scarf", "fox-v2"),
        ("the ember fox with the red scarf in studio light", "fox-v3"),
        ("the ember fox with the red scarf in stuido light", "fox-v3"),
    ],
)
def test_a_version_that_is_told_is_not_asked_for(asking: CheckIn, text: str, wanted: str) -> None:
    assert ids(asking.ask(request(text))) == [wanted]


@pytest.mark.parametrize(
    "text",
    ["version 12 of my ember fox", "the 77th version of my ember fox", "ember fox, the one i trained in March 2015"],
)
def test_a_version_that_does_not_exist_is_no_match(asking: CheckIn, text: str) -> None:
    decision = asking.ask(request(text))
    assert isinstance(decision, NoMatch)
    assert "Ember Fox" in decision.why


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("v2", "fox-v2"),
        ("i meant version 1", "fox-v1"),
        ("the one from august 2025", "fox-v3"),
        ("neon light", "fox-v11"),
        ("edition-2", "fox-v3"),
        ("the last one", "fox-v11"),
        ("you choose", "fox-v11"),
        ("the star mug on the table", "star-mug"),
    ],
)
def test_versions_left_open_are_asked_for_once(asking: CheckIn, answer: str, wanted: str) -> None:
    question = asking.ask(request("my ember fox in the snow"))
    assert isinstance(question, Question)
    assert [option.label for option in question.options][:2] == ["v11 (2025-11-02)", "v3 (2025-08-20)"]
    waiting = Pending.from_json(pending(request("my ember fox in the snow"), question).as_json())
    assert ids(asking.answer(waiting, answer)) == [wanted]


def test_none_of_the_versions_takes_one_that_was_not_shown(asking: CheckIn) -> None:
    question = asking.ask(request("my ember fox in the snow"))
    assert isinstance(question, Question)
    assert isinstance(asking.answer(pending(request("my ember fox in the snow"), question), "none of these"), NoMatch)


def test_the_newest_is_taken_where_versions_are_not_intents(cache: Path) -> None:
    checkin = CheckIn([*map(fox, NOTES), *CATALOGUE[:3]], cache)
    decision = checkin.ask(request("my ember fox in the snow"))
    assert ids(decision) == ["fox-v11"]
    assert isinstance(decision, Selection) and "newest" in decision.why


def test_two_models_named_by_the_same_words_are_asked_for(cache: Path) -> None:
    twins = [
        thing("lamp-a", "Moss Lantern", "mslntrn", "lantern", "object", "A lantern full of moss, on oak."),
        thing("lamp-b", "Moss Lantern (glass)", "glssmss", "lantern", "object", "Mossy light by another author."),
    ]
    checkin = CheckIn([*CATALOGUE, *twins], cache)
    question = checkin.ask(request("moss lantern on a pier"))
    assert isinstance(question, Question)
    assert {each for option in question.options for each in option.checkpoint_ids} == {"lamp-a", "lamp-b"}
    assert ids(checkin.ask(request("moss lantern with the oak stand"))) == ["lamp-a"]


def test_what_an_answer_denies_is_not_picked(checkin: CheckIn) -> None:
    asked = request("my dog at the beach")
    question = checkin.ask(asked)
    assert isinstance(question, Question)
    assert ids(checkin.answer(pending(asked, question), "not biscuit")) != ["biscuit"]
    assert ids(checkin.answer(pending(asked, question), "neither biscuit nor pepper")) == ["mango"]
    with pytest.raises(RequestError, match="no option"):
        checkin.answer(pending(asked, question), "option 7")


def test_the_same_request_is_never_asked_about_twice(checkin: CheckIn) -> None:
    asked = request("my dog at the beach")
    question = checkin.ask(asked)
    assert isinstance(question, Question)
    for answer in ("a grey animal", "the one with the hat", "something in ink", "dog"):
        assert not isinstance(checkin.answer(pending(asked, question), answer), Question)


@pytest.mark.parametrize("answer", ["asdf qwer", "banana spaceship", "the nice one", "the fox"])
def test_an_answer_that_tells_no_version_takes_none(asking: CheckIn, answer: str) -> None:
    asked = request("my ember fox in the snow")
    question = asking.ask(asked)
    assert isinstance(question, Question)
    decision = asking.answer(pending(asked, question), answer)
    assert not isinstance(decision, Selection) or "fox" not in ids(decision)[0]
    with pytest.raises(RequestError, match="no option"):
        asking.answer(pending(asked, question), "-1")


@pytest.mark.parametrize(
    ("text", "version", "days"),
    [
        ("version thirty-four of Waldo", "34", None),
        ("the 12th version of Waldo", "12", None),
        ("Waldo from January 10, 2023", None, ("2023-01-10", "2023-01-10")),
        ("Waldo from the 29th of September 2022", None, ("2022-09-29", "2022-09-29")),
        ("a harbour in September 1985", None, None),
    ],
)
def test_numbers_and_days_are_read(text: str, version: str | None, days: tuple[str, str] | None) -> None:
    found = parse(request(text))
    assert (found.version, found.time_range) == (version, days)
