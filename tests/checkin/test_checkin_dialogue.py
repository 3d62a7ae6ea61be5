"""Whole turns over a small made-up folder: which decision, which checkpoint, which prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_catalogue import CATALOGUE, dog

from personalq.checkin.dialogue import CheckIn, Pending, pending
from personalq.errors import RequestError, UnknownCheckpointError
from personalq.records import Checkpoint, Decision, NoMatch, Question, Request, Selection

NOW = "2026-01-15"
DOGS = {"biscuit", "pepper", "mango"}


def ask(checkin: CheckIn, text: str) -> Decision:
    return checkin.ask(Request(text, as_of=NOW))


def chosen(decision: Decision) -> list[str]:
    assert isinstance(decision, Selection), decision
    for span in decision.spans:
        piece = decision.prompt[span.start : span.end]
        triggers = [checkpoint.triggers[0] for checkpoint in decision.checkpoints if checkpoint.id == span.id]
        assert piece in triggers or span.role == "concept"
    return [checkpoint.id for checkpoint in decision.checkpoints]


def dog_question(checkin: CheckIn) -> tuple[Request, Question]:
    request = Request("my dog at the beach", as_of=NOW)
    decision = checkin.ask(request)
    assert isinstance(decision, Question)
    return request, decision


def test_an_ambiguous_dog_is_asked_about_by_name(checkin: CheckIn) -> None:
    _, question = dog_question(checkin)
    assert {option.label for option in question.options} == {"Biscuit", "Pepper", "Mango", "None of these"}
    assert question.options[-1].id == "none"
    assert "dog" in question.text
    assert {each for option in question.options for each in option.checkpoint_ids} == DOGS


@pytest.mark.parametrize("reply", ["Pepper", "pepper please", "the grey one with the white ear", "not biscuit, pepper"])
def test_a_typed_answer_settles_it(checkin: CheckIn, reply: str) -> None:
    assert chosen(checkin.answer(pending(*dog_question(checkin)), reply)) == ["pepper"]


def test_a_click_and_an_ordinal_pick_the_shown_option(checkin: CheckIn) -> None:
    request, question = dog_question(checkin)
    for number, option in enumerate(question.options[:3], start=1):
        assert chosen(checkin.answer(pending(request, question), option.id)) == list(option.checkpoint_ids)
        assert chosen(checkin.answer(pending(request, question), f"number {number}")) == list(option.checkpoint_ids)


def test_the_answer_keeps_the_words_of_the_request(checkin: CheckIn) -> None:
    decision = checkin.answer(pending(*dog_question(checkin)), "Mango")
    assert isinstance(decision, Selection)
    assert decision.prompt == "mng dog at the beach"


def test_indifference_takes_the_likeliest_and_none_of_these_takes_none(checkin: CheckIn) -> None:
    waiting = pending(*dog_question(checkin))
    assert set(chosen(checkin.answer(waiting, "I don't know"))) <= DOGS
    assert isinstance(checkin.answer(waiting, "none of these"), NoMatch)


def test_an_unrelated_answer_is_a_new_request(checkin: CheckIn) -> None:
    waiting = pending(*dog_question(checkin))
    assert chosen(checkin.answer(waiting, "the star mug on the table")) == ["star-mug"]
    assert isinstance(checkin.answer(waiting, "qwertyuiop zxcvbnm"), NoMatch)


def test_pending_survives_json_and_a_lost_one_says_so(checkin: CheckIn) -> None:
    waiting = pending(*dog_question(checkin))
    assert Pending.from_json(json.loads(json.dumps(waiting.as_json()))) == waiting
    with pytest.raises(RequestError, match="type the request again"):
        Pending.from_json({"request": None})


def test_expired_options_and_empty_answers_are_refused(checkin: CheckIn, cache: Path) -> None:
    waiting = pending(*dog_question(checkin))
    with pytest.raises(RequestError, match="no longer"):
        CheckIn(CATALOGUE[3:], cache).answer(waiting, "Pepper")
    with pytest.raises(RequestError, match="empty"):
        checkin.answer(waiting, "  ")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("the blue dog with the red bandana on the snow", ["biscuit"]),
        ("Biscuit on the moon", ["biscuit"]),
        ("bskt dog", ["biscuit"]),
        ("ember fox in the forest", ["ember-fox-v3"]),
        ("ember fox v2 in the forest", ["ember-fox-v2"]),
        ("the first version of ember fox", ["ember-fox-v1"]),
        ("ember fox from april 2025", ["ember-fox-v2"]),
        ("biscuit in the duotone style", ["duotone", "biscuit"]),
        ("a lighthouse in the duotone style", ["duotone"]),
    ],
)
def test_distinctive_requests_are_settled_at_once(checkin: CheckIn, text: str, wanted: list[str]) -> None:
    assert chosen(ask(checkin, text)) == wanted


@pytest.mark.parametrize("text", ["my horse on the moon", "a motorbike", "what's the weather tomorrow", "a giraffe"])
def test_what_is_not_there_is_no_match_and_names_the_nearest(checkin: CheckIn, text: str) -> None:
    decision = ask(checkin, text)
    assert isinstance(decision, NoMatch)
    assert decision.nearest
    assert decision.nearest[0].checkpoint.name in decision.why


def test_a_version_that_does_not_exist_is_no_match(checkin: CheckIn) -> None:
    decision = ask(checkin, "ember fox v7 in the forest")
    assert isinstance(decision, NoMatch)
    assert "no version 7" in decision.why
    assert decision.nearest[0].checkpoint.group_id == "ember-fox"


def test_an_open_subject_beside_a_clear_style_is_asked_and_then_composed(checkin: CheckIn) -> None:
    request = Request("my dog in the duotone style", as_of=NOW)
    question = checkin.ask(request)
    assert isinstance(question, Question)
    assert chosen(checkin.answer(pending(request, question), "Mango")) == ["duotone", "mango"]


def test_a_request_for_no_checkpoint_gets_none(checkin: CheckIn) -> None:
    decision = ask(checkin, "don't use any lora, just a mountain")
    assert isinstance(decision, NoMatch)
    assert "no checkpoint" in decision.why


def test_without_a_trigger_nothing_is_inserted_and_it_is_said(checkin: CheckIn) -> None:
    decision = ask(checkin, "comet rocket over the desert")
    assert chosen(decision) == ["comet-rocket"]
    assert isinstance(decision, Selection)
    assert decision.prompt == "comet rocket over the desert"
    assert decision.spans == ()
    assert "no trigger" in decision.warnings[0]


def test_a_clicked_candidate_is_taken(checkin: CheckIn) -> None:
    decision = checkin.choose(Request("my dog at the beach"), "pepper")
    assert chosen(decision) == ["pepper"]
    assert decision.prompt == "ppr dog at the beach"
    with pytest.raises(UnknownCheckpointError):
        checkin.choose(Request("my dog"), "nobody")


def test_every_decision_tells_its_timings(checkin: CheckIn) -> None:
    stages = {"intent", "lexical", "dense", "fuse", "rerank", "decide", "rewrite", "total"}
    for text in ("my dog at the beach", "ember fox", "a motorbike"):
        assert stages <= set(ask(checkin, text).timings_ms)


@pytest.mark.parametrize("text", ["", "  \n\t", "🐶🏖️", "\x00\x07", "a dog " * 2000])
def test_unusable_requests_are_refused(checkin: CheckIn, text: str) -> None:
    with pytest.raises(RequestError):
        ask(checkin, text)


@pytest.mark.parametrize(
    "text", ["الكلب على الشاطئ", "bskt dog and plmcr car", "dog\x00 on\x07 the beach", "?dog?", "狗", "v2"]
)
def test_odd_requests_get_a_decision(checkin: CheckIn, text: str) -> None:
    assert isinstance(ask(checkin, text), Selection | Question | NoMatch)


def test_empty_single_and_doubled_catalogues(cache: Path) -> None:
    empty = CheckIn((), cache).ask(Request("my dog"))
    assert isinstance(empty, NoMatch)
    assert "empty" in empty.why
    biscuit = CATALOGUE[0]
    assert chosen(CheckIn((biscuit,), cache).ask(Request("biscuit on the beach"))) == ["biscuit"]
    assert isinstance(CheckIn((biscuit,), cache).ask(Request("a teapot")), NoMatch)
    assert chosen(CheckIn((biscuit, biscuit), cache).ask(Request("biscuit on the beach"))) == ["biscuit"]


def test_a_catalogue_of_bare_ids(cache: Path) -> None:
    bare = CheckIn([Checkpoint(id="one"), Checkpoint(id="two", name="Emerald Turtle")], cache)
    decision = bare.ask(Request("emerald turtle in the sea"))
    assert chosen(decision) == ["two"]


def test_checkpoints_of_another_base_are_left_out(cache: Path) -> None:
    other = Checkpoint(
        id="far", name="Waffle", base="SDXL 1.0", triggers=("wfl dog",), class_noun="dog", role="subject"
    )
    catalogue = (other, dog("near", "Crumb", "crmb dog", "A brown dog."))
    assert chosen(CheckIn(catalogue, cache).ask(Request("my dog in the park", base="tiny-sd"))) == ["near"]
    only = CheckIn((other,), cache).ask(Request("my dog in the park", base="tiny-sd"))
    assert isinstance(only, NoMatch)
    assert "tiny-sd" in only.why


def test_a_model_that_another_thread_reads_meanwhile_changes_nothing(checkin: CheckIn, cache: Path) -> None:
    request, expected = dog_question(checkin)
    fresh = CheckIn(CATALOGUE, cache)
    torch.set_default_dtype(torch.bfloat16)  # as transformers and diffusers do for as long as they read a model
    try:
        decision = fresh.ask(request)
    finally:
        torch.set_default_dtype(torch.float32)
    assert isinstance(decision, Question)
    assert [one.id for one in decision.options] == [one.id for one in expected.options]
    assert [c.probability for c in decision.candidates] == pytest.approx([c.probability for c in expected.candidates])
