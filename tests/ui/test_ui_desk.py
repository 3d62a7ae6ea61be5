"""The desk over a real catalogue and the real Check-in; it has no base model, which it says when one is needed."""

import json
from collections.abc import Iterator

import pytest

from personalq.errors import RequestError, SettingsError, UnknownCheckpointError
from personalq.records import Checkpoint, Job, NoMatch, Question, Request, Selection
from personalq.settings import Settings
from personalq.ui.desk import Desk

DOGS = [("Pip the corgi", "zwx dog", "dog"), ("Rusty the terrier", "rst dog", "dog"), ("Star mug", "strm mug", "mug")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("catalogue")
    rows = [
        {
            "id": f"c{i}",
            "name": name,
            "kind": "lora",
            "triggers": [trigger],
            "tags": [noun],
            "description": f"A {noun}.",
        }
        for i, (name, trigger, noun) in enumerate(DOGS)
    ]
    (folder / "catalog.jsonl").write_text("\n".join(map(json.dumps, rows)))
    yield Desk(Settings(repo=folder / "catalog.jsonl", cache=folder / "cache"))


def ask(desk: Desk) -> tuple[Request, Question]:
    request = Request("my dog on the beach")
    decision = desk.ask(request)
    assert isinstance(decision, Question)
    return request, decision


def test_a_question_is_kept_as_plain_data_and_answered(desk: Desk) -> None:
    request, question = ask(desk)
    pending = json.loads(json.dumps(desk.pending(request, question)))
    for text in (question.options[0].id, question.options[0].label, "1"):
        kept, decision = desk.answer(pending, text)
        assert kept == request and isinstance(decision, Selection)
        assert decision.checkpoints[0].id in question.options[0].checkpoint_ids
        assert decision.checkpoints[0].triggers[0] in decision.prompt and "beach" in decision.prompt


def test_an_unrelated_answer_is_a_request_of_its_own(desk: Desk) -> None:
    request, question = ask(desk)
    kept, decision = desk.answer(desk.pending(request, question), "the star mug in the snow")
    assert kept.text == "the star mug in the snow"
    assert isinstance(decision, Selection) and decision.checkpoints[0].name == "Star mug"


def test_an_answer_that_means_nothing_keeps_the_request(desk: Desk) -> None:
    request, question = ask(desk)
    kept, decision = desk.answer(desk.pending(request, question), "banana spaceship")
    assert isinstance(decision, NoMatch) and kept == request
    chosen = desk.choose(kept, decision.nearest[0].checkpoint.id)
    assert "beach" in chosen.prompt and "banana" not in chosen.prompt


def test_a_lost_question_and_an_unknown_checkpoint_are_typed_errors(desk: Desk) -> None:
    with pytest.raises(RequestError):
        desk.answer({"text": "?"}, "1")
    with pytest.raises(UnknownCheckpointError):
        desk.choose(Request("a dog"), "nobody")


def test_a_visitors_own_checkpoint_is_found_by_that_visitor_alone(desk: Desk) -> None:
    own = (Checkpoint("own-1", "Bello the poodle", triggers=("blo dog",), class_noun="dog", tags=("dog",)),)
    request = Request("my dog on the beach")
    mine, others = desk.ask(request, own), desk.ask(request)
    assert isinstance(mine, Question) and "own-1" in str(mine.options) and "own-1" not in str(others)
    pending = json.loads(json.dumps(desk.pending(request, mine)))
    chosen = desk.answer(pending, "Bello the poodle", own)[1]
    assert isinstance(chosen, Selection) and "blo dog" in chosen.prompt
    assert desk.choose(request, "own-1", own).checkpoints == own
    with pytest.raises(RequestError, match="no longer in the catalogue"):
        desk.answer(pending, "Bello the poodle")
    with pytest.raises(UnknownCheckpointError):
        desk.choose(request, "own-1")
    assert "own-1" not in desk.known


def test_forgetting_needs_no_base(desk: Desk) -> None:
    desk.forget((Checkpoint("own-1"),))
    assert isinstance(desk.ask(Request("my dog on the beach"), (Checkpoint("own-2", "Rex"),)), Question)


def test_without_a_base_selecting_works_and_making_says_what_to_pass(desk: Desk) -> None:
    assert desk.base_name is None
    for needs_one in (desk.ready, lambda: desk.label("nf4"), lambda: next(desk.compare(Job("x"), ("nf4",)))):
        with pytest.raises(SettingsError, match="--base"):
            needs_one()
