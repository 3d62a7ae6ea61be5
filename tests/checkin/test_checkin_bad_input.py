"""What nobody should send: every odd request, answer, session and catalogue ends in a decision or a typed error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_catalogue import CATALOGUE

from personalq.checkin.dialogue import CheckIn, Pending, pending
from personalq.checkin.intent import LONGEST
from personalq.errors import RequestError
from personalq.records import Decision, NoMatch, Question, Request, Selection

NOW = "2026-01-15"
DOGS = {"biscuit", "pepper", "mango"}


def ask(checkin: CheckIn, text: str) -> Decision:
    return checkin.ask(Request(text, as_of=NOW))


def chosen(decision: Decision) -> list[str]:
    assert isinstance(decision, Selection), decision
    return [checkpoint.id for checkpoint in decision.checkpoints]


def offered(decision: Decision) -> set[str]:
    assert isinstance(decision, Question), decision
    return {each for option in decision.options for each in option.checkpoint_ids}


@pytest.fixture(scope="module")
def waiting(checkin: CheckIn) -> Pending:
    """A question about three dogs."""
    request = Request("my dog at the beach", as_of=NOW)
    question = checkin.ask(request)
    assert offered(question) == DOGS
    assert isinstance(question, Question)
    return pending(request, question)


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\t\r", "\u3000\u00a0"])
def test_an_empty_request_is_refused(checkin: CheckIn, text: str) -> None:
    with pytest.raises(RequestError, match="no words"):
        ask(checkin, text)


@pytest.mark.parametrize("text", ["🐶", "🐶🏖️👩‍👩‍👧", "?!…", "\x00\x07\x1b", "\u200b\u200e\u202e", "\ufeff"])
def test_a_request_of_signs_alone_is_refused(checkin: CheckIn, text: str) -> None:
    with pytest.raises(RequestError, match="no words"):
        ask(checkin, text)


def test_a_request_is_read_up_to_its_limit_and_refused_beyond(checkin: CheckIn) -> None:
    with pytest.raises(RequestError, match=f"10000 characters; shorten it to {LONGEST}"):
        ask(checkin, "a dog " * 1666 + "a do")
    longest = ("Biscuit in the snow, " + "very " * LONGEST)[:LONGEST]
    assert chosen(ask(checkin, longest)) == ["biscuit"]
    assert isinstance(ask(checkin, "x" * LONGEST), NoMatch)


def test_control_and_direction_characters_do_not_reach_the_prompt(checkin: CheckIn) -> None:
    decision = ask(checkin, "\u202ebskt\x00 dog\u202c on\x1b\x07 the\u2028 beach\u200f")
    assert chosen(decision) == ["biscuit"]
    assert isinstance(decision, Selection)
    assert decision.prompt.isprintable()
    assert "bskt dog" in decision.prompt


def test_a_lone_surrogate_is_no_trouble(checkin: CheckIn) -> None:
    assert offered(ask(checkin, "my \ud800 dog")) == DOGS


@pytest.mark.parametrize("text", ["הכלב שלי על החוף", "الكلب على الشاطئ", "סוסים בלילה"])
def test_right_to_left_requests_get_a_decision(checkin: CheckIn, text: str) -> None:
    assert isinstance(ask(checkin, text), NoMatch | Question)


def test_a_name_is_found_in_a_right_to_left_request(checkin: CheckIn) -> None:
    decision = ask(checkin, "Biscuit על החוף")
    assert chosen(decision) == ["biscuit"]
    assert isinstance(decision, Selection)
    assert decision.prompt == "bskt dog על החוף"
    assert [decision.prompt[span.start : span.end] for span in decision.spans] == ["bskt dog"]


@pytest.mark.parametrize("text", ["bskt dog", "BSKT DOG", "bskt dog!", "(bskt dog)"])
def test_a_request_that_is_a_trigger_selects_and_does_not_repeat_it(checkin: CheckIn, text: str) -> None:
    decision = ask(checkin, text)
    assert chosen(decision) == ["biscuit"]
    assert isinstance(decision, Selection)
    assert decision.prompt.count("bskt dog") == 1


@pytest.mark.parametrize("text", ["bskt dog and plmcr car", "plmcr car, bskt dog", "bskt dog plmcr car"])
def test_of_two_triggers_no_third_is_meant(checkin: CheckIn, text: str) -> None:
    decision = ask(checkin, text)
    if isinstance(decision, Question):
        assert {option.label for option in decision.options[:2]} == {"Biscuit", "Plum Car"}
    else:
        assert set(chosen(decision)) <= {"biscuit", "plum-car"}


@pytest.mark.parametrize("text", ["Biscuit en la playa al atardecer", "Biscuit am Strand", "Biscuit がビーチで走る"])
def test_a_name_is_found_in_another_language(checkin: CheckIn, text: str) -> None:
    decision = ask(checkin, text)
    assert chosen(decision) == ["biscuit"]
    assert isinstance(decision, Selection)
    assert "bskt dog" in decision.prompt


@pytest.mark.parametrize("text", ["mi perro en la playa", "ein Hund am Strand", "我的狗在海滩", "собака на пляже"])
def test_another_language_never_picks_what_is_no_dog(checkin: CheckIn, text: str) -> None:
    decision = ask(checkin, text)
    if isinstance(decision, Question):
        assert offered(decision) <= DOGS
    else:
        assert isinstance(decision, NoMatch)


def test_a_question_is_read_as_a_request(checkin: CheckIn) -> None:
    assert offered(ask(checkin, "which dogs do you have?")) == DOGS
    assert chosen(ask(checkin, "can you draw Biscuit on a bike?")) == ["biscuit"]
    for text in ("what can you do?", "why is the sky blue?", "who are you"):
        assert isinstance(ask(checkin, text), NoMatch)


def test_a_date_that_is_none_is_refused(checkin: CheckIn) -> None:
    with pytest.raises(RequestError, match="is no date"):
        checkin.ask(Request("my dog", as_of="yesterday"))


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "  ", "...", "🤷", "\x00", "\u202e", "?"])
def test_an_answer_without_words_is_refused_as_an_answer(checkin: CheckIn, waiting: Pending, text: str) -> None:
    with pytest.raises(RequestError, match="The answer is empty"):
        checkin.answer(waiting, text)


def test_an_endless_answer_is_refused_as_an_answer(checkin: CheckIn, waiting: Pending) -> None:
    with pytest.raises(RequestError, match="The answer has 10000 characters"):
        checkin.answer(waiting, "pepper " * 1428 + "pepp")


@pytest.mark.parametrize("text", ["hm", "I don't know", "whatever", "yes"])
def test_an_answer_that_leaves_it_open_takes_the_likeliest(checkin: CheckIn, waiting: Pending, text: str) -> None:
    assert set(chosen(checkin.answer(waiting, text))) <= DOGS


@pytest.mark.parametrize("text", ["asdf", "maybe", "what?", "why is the sky blue?", "狗"])
def test_an_answer_that_answers_nothing_picks_nothing(checkin: CheckIn, waiting: Pending, text: str) -> None:
    assert isinstance(checkin.answer(waiting, text), NoMatch)


def test_an_answer_may_hold_invisible_characters(checkin: CheckIn, waiting: Pending) -> None:
    assert chosen(checkin.answer(waiting, "\u202ePepper\u202c\x00")) == ["pepper"]


# --- lost sessions -------------------------------------------------------------------------------


def lost(waiting: Pending, **changed: object) -> object:
    return json.loads(json.dumps({**waiting.as_json(), **changed}))


@pytest.mark.parametrize("stored", [None, {}, [], "gone", 3, {"request": None, "text": "", "options": []}])
def test_a_lost_session_asks_for_the_request_again(stored: object) -> None:
    with pytest.raises(RequestError, match="type the request again"):
        Pending.from_json(stored)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"request": {"text": "my dog"}},
        {"request": {"text": 5, "history": []}},
        {"request": {"text": "my dog", "history": [], "as_of": 20260115}},
        {"request": {"text": "my dog", "history": [7]}},
        {"request": {"text": "my dog", "history": [], "admin": True}},
        {"options": None},
        {"options": [None]},
        {"options": [{"id": "name-1"}]},
    ],
)
def test_a_damaged_session_asks_for_the_request_again(waiting: Pending, changed: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="type the request again"):
        Pending.from_json(lost(waiting, **changed))  # type: ignore[arg-type]


def test_a_session_whose_checkpoints_are_gone_asks_for_the_request_again(cache: Path, waiting: Pending) -> None:
    without = CheckIn([one for one in CATALOGUE if one.id not in DOGS], cache)
    for text in ("Pepper", "2", "the grey one"):
        with pytest.raises(RequestError, match="no longer in the catalogue; type the request again"):
            without.answer(waiting, text)
    empty = replace(waiting, options=())
    with pytest.raises(RequestError, match="type the request again"):
        without.answer(empty, "Pepper")


def test_a_session_from_before_a_restart_is_taken_up(cache: Path, waiting: Pending) -> None:
    restarted = CheckIn(CATALOGUE, cache)
    kept = Pending.from_json(lost(waiting))  # type: ignore[arg-type]
    assert chosen(restarted.answer(kept, "Pepper")) == ["pepper"]


# --- catalogues ----------------------------------------------------------------------------------


def test_of_two_records_with_one_id_the_first_counts(cache: Path) -> None:
    biscuit, pepper = CATALOGUE[0], CATALOGUE[1]
    doubled = CheckIn((biscuit, pepper, replace(pepper, id="biscuit")), cache)
    decision = ask(doubled, "Biscuit on the beach")
    assert chosen(decision) == ["biscuit"]
    assert isinstance(decision, Selection)
    assert "bskt dog" in decision.prompt
    assert len([one for one in decision.candidates if one.checkpoint.id == "biscuit"]) == 1


def test_a_catalogue_without_triggers_selects_and_inserts_nothing(cache: Path) -> None:
    bare = CheckIn([replace(one, triggers=(), trigger_sources=()) for one in CATALOGUE], cache)
    decision = ask(bare, "Biscuit on the beach")
    assert chosen(decision) == ["biscuit"]
    assert isinstance(decision, Selection)
    assert decision.prompt == "Biscuit on the beach"
    assert not [span for span in decision.spans if span.role == "trigger"]
    assert any("no trigger" in warning for warning in decision.warnings)
    assert offered(ask(bare, "my dog at the beach")) == DOGS


def test_a_catalogue_of_one(cache: Path) -> None:
    one = CheckIn(CATALOGUE[:1], cache)
    assert chosen(ask(one, "Biscuit on the beach")) == ["biscuit"]
    absent = ask(one, "a teapot on a shelf")
    assert isinstance(absent, NoMatch)
    assert [nearest.checkpoint.id for nearest in absent.nearest] == ["biscuit"]


def test_a_catalogue_of_none(cache: Path) -> None:
    nothing = CheckIn((), cache)
    for text in ("my dog at the beach", "v2", "no lora please"):
        decision = ask(nothing, text)
        assert isinstance(decision, NoMatch)
        assert decision.nearest == ()
    assert "empty" in decision.why or "no checkpoint" in decision.why
    with pytest.raises(RequestError):
        ask(nothing, "")
