"""A reranker that fails: the built-in one decides the turn, and the decision, the page and the command line say so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scripted_endpoint import KEY, Answer, Scripted, closed_port, favouring, scores, scripted
from typer.testing import CliRunner

from personalq.__main__ import app
from personalq.checkin.dialogue import CheckIn, pending
from personalq.checkin.posterior import posterior
from personalq.checkin.rerank.chat import Chat
from personalq.checkin.rerank.endpoint import Url
from personalq.checkin.rerank.fallback import Fallback
from personalq.checkin.rerank.protocol import Calibration
from personalq.errors import RerankerError
from personalq.records import Candidate, Checkpoint, Decision, Intent, Question, Request, Selection
from personalq.ui import present

DOGS = tuple(
    Checkpoint(id=name.casefold(), name=name, triggers=(f"{name[:3]}x dog",), class_noun="dog", description=told)
    for name, told in (("Biscuit", "A blue dog."), ("Pepper", "A grey dog."), ("Mango", "A yellow dog with a hat."))
)
OTHERS = (
    Checkpoint(id="soot", name="Soot", triggers=("sootx cat",), class_noun="cat", description="A black cat."),
    Checkpoint(id="ink", name="Duotone Ink", triggers=("duotn ink",), role="style", description="Two colours of ink."),
)
BUILT_IN = "built-in reranker was used"


@pytest.fixture(scope="module")
def running() -> Iterator[Scripted]:
    with scripted(Answer()) as server:
        yield server


@pytest.fixture(scope="module")
def asked(running: Scripted, cache: Path) -> CheckIn:
    """Check-in over the scripted endpoint."""
    chat = Chat(Url(running.url, "m", KEY), "m", Calibration(1.0, 0.0, fitted=True), seconds=20, pause=0.01)
    return CheckIn((*DOGS, *OTHERS), cache, chat)


@pytest.fixture(scope="module")
def alone(cache: Path) -> CheckIn:
    """The same with the built-in reranker."""
    return CheckIn((*DOGS, *OTHERS), cache)


def outcome(decision: Decision) -> tuple[object, ...]:
    options = tuple(option.label for option in decision.options) if isinstance(decision, Question) else ()
    ids = tuple(one.id for one in decision.checkpoints) if isinstance(decision, Selection) else ()
    return (
        type(decision),
        ids,
        options,
        tuple((one.checkpoint.id, round(one.probability, 6)) for one in decision.candidates if one.probability > 1e-3),
    )


def test_the_language_model_decides_where_it_answers(running: Scripted, asked: CheckIn) -> None:
    running.answers(favouring("Pepper"))
    decision = asked.ask(Request("my dog at the beach"))
    assert isinstance(decision, Selection)
    assert [one.id for one in decision.checkpoints] == ["pepper"]
    assert decision.remarks == ()
    assert len(running.calls) == 1  # Slots are the built-in reranker's.


def test_an_answer_reads_the_request_again_without_asking_again(running: Scripted, asked: CheckIn) -> None:
    running.answers(favouring("Biscuit", "Mango"))
    request = Request("my dog in the rain")
    question = asked.ask(request)
    assert isinstance(question, Question)
    assert [option.label for option in question.options] == ["Biscuit", "Mango", "None of these"]
    told = asked.answer(pending(request, question), "number 2")
    assert isinstance(told, Selection)
    assert [one.id for one in told.checkpoints] == ["mango"]
    assert len(running.calls) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(status=500), "failed"),
        (Answer(status=429, headers={"Retry-After": "600"}), "over its limit"),
        (Answer(status=401), "PERSONALQ_LLM_KEY"),
        (Answer("I think it is Biscuit."), "no JSON"),
        (Answer(json.dumps({"scores": [{"index": 99, "score": 9}], "none": 0})), "does not exist"),
        (Answer(json.dumps({"pick": "biscuit"})), "no object"),
        (Answer(scores([1] * 5), finish="length"), "breaks off"),
    ],
    ids=["500", "429", "401", "prose", "index", "outside", "cut"],
)
@pytest.mark.parametrize("text", ["my dog at the pond", "Soot in the duotone ink style"])
def test_every_failure_leaves_the_built_in_decision_and_says_why(
    running: Scripted, asked: CheckIn, alone: CheckIn, answer: Answer, says: str, text: str
) -> None:
    running.answers(answer)
    decision = asked.ask(Request(text))
    assert outcome(decision) == outcome(alone.ask(Request(text)))
    assert len(decision.remarks) == 1
    assert says in decision.remarks[0]
    assert BUILT_IN in decision.remarks[0]
    assert running.host not in decision.remarks[0]
    assert f"Note: {decision.remarks[0]}" in present.reply(decision)


def test_a_slow_endpoint_is_not_waited_for(running: Scripted, alone: CheckIn, cache: Path) -> None:
    running.answers(Answer(hang=True))
    hasty = CheckIn((*DOGS, *OTHERS), cache, Chat(Url(running.url, "m", KEY), "m", seconds=0.3))
    decision = hasty.ask(Request("my dog at the pond"))
    assert outcome(decision) == outcome(alone.ask(Request("my dog at the pond")))
    assert "did not answer within 0.3 seconds" in decision.remarks[0]
    assert BUILT_IN in decision.remarks[0]


def test_the_next_turn_asks_the_language_model_again(running: Scripted, asked: CheckIn) -> None:
    running.answers(Answer("no"), favouring("Biscuit"))
    assert BUILT_IN in asked.ask(Request("my dog on a sledge")).remarks[0]
    assert asked.ask(Request("my dog on a sledge")).remarks == ()


def test_an_answer_survives_an_endpoint_that_has_gone(running: Scripted, asked: CheckIn) -> None:
    running.answers(favouring("Biscuit", "Mango"))
    request = Request("my dog in a boat")
    question = asked.ask(request)
    assert isinstance(question, Question)
    running.answers(Answer(status=401))
    told = asked.answer(pending(request, question), "the yellow dog with a hat")
    assert isinstance(told, Selection)
    assert [one.id for one in told.checkpoints] == ["mango"]
    assert BUILT_IN in told.remarks[0]


def test_an_assumed_calibration_is_remarked_on(running: Scripted) -> None:
    running.answers(Answer(scores([1, 2, 3])))
    for calibration, remarks in ((None, 1), (Calibration(1.0, 0.0, fitted=True), 0)):
        turn = Fallback(Chat(Url(running.url, "m"), "m", calibration), Stub([0.0] * 3))
        turn.score(ASKED, SHOWN)
        assert sum("not calibrated" in remark for remark in turn.remarks) == remarks


@dataclass
class Stub:
    """A reranker that gives what it is told, or fails."""

    logits: list[float] | None
    temperature: float = 1.0
    none_logit: float = 0.0
    name: str = "stub"
    calls: list[int] = field(default_factory=list)

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> tuple[list[float], list[str]]:
        self.calls.append(len(candidates))
        if self.logits is None:
            raise RerankerError("It broke.")
        return list(self.logits), ["told"] * len(self.logits)


SHOWN = [Candidate(one) for one in DOGS]
ASKED = Intent("a dog", "dog")


def test_logits_come_out_calibrated_whoever_gave_them() -> None:
    chosen, default = Stub([4.0, 1.0, -2.0], 2.5, 0.75), Stub([0.0, 0.0, 0.0])
    turn = Fallback(chosen, default)
    logits, _ = turn.score(ASKED, SHOWN)
    groups = [one.id for one in DOGS]
    wanted, none = posterior(chosen.logits or [], groups, 2.5, 0.75)
    found, other = posterior(logits, groups, turn.temperature, turn.none_logit)
    assert found == pytest.approx(wanted)
    assert other == pytest.approx(none)


@pytest.mark.parametrize("broken", [None, [1.0], [1.0, float("nan"), 2.0], [float("inf"), 0.0, 0.0]])
def test_errors_and_numbers_that_are_none_fall_back_once_a_turn(broken: list[float] | None) -> None:
    chosen, default = Stub(broken), Stub([3.0, 2.0, 1.0])
    turn = Fallback(chosen, default)
    assert turn.score(ASKED, SHOWN)[0] == [3.0, 2.0, 1.0]
    turn.score(ASKED, SHOWN)
    assert len(chosen.calls) == 1
    assert BUILT_IN in turn.remarks[0]


def test_the_built_in_reranker_has_none_to_fall_back_on() -> None:
    broken = Stub(None)
    with pytest.raises(RerankerError, match="broke"):
        Fallback(broken, broken).score(ASKED, SHOWN)


def test_the_command_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALQ_CACHE", str(tmp_path))
    monkeypatch.setenv("PERSONALQ_LLM_KEY", KEY)
    monkeypatch.setenv("PERSONALQ_LLM_SECONDS", "0.4")
    catalog = tmp_path / "catalog.jsonl"
    records = [{"id": one.id, "name": one.name, "kind": "lora", "triggers": list(one.triggers)} for one in DOGS]
    catalog.write_text("\n".join(json.dumps(record) for record in records))
    url = f"http://127.0.0.1:{closed_port()}/v1"
    words = ["select", "Biscuit on the moon", "--repo", str(catalog), "--reranker", "chat", "--llm-url", url]
    run = CliRunner().invoke(app, [*words, "--llm-model", "m", "--json"], catch_exceptions=False)
    found = json.loads(run.stdout)
    assert found["checkpoints"] == ["biscuit"]
    assert BUILT_IN in found["remarks"][0]
    assert BUILT_IN in CliRunner().invoke(app, [*words, "--llm-model", "m"], catch_exceptions=False).stdout
