"""A made-up catalogue, decisions and a scripted system, for the tests of the selection benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from personalq.bench.queries import Query, QueryKind
from personalq.checkin.dialogue import Pending
from personalq.records import Candidate, Checkpoint, Decision, NoMatch, Option, Question, Request, Selection, Span


def made(identifier: str, group: str, trigger: str = "", base: str | None = "SD 1.5") -> Checkpoint:
    return Checkpoint(
        id=identifier,
        name=identifier.replace("-", " "),
        group_id=group,
        triggers=(trigger,) if trigger else (),
        base=base,
    )


DOG1, DOG2 = made("dog-v1", "dog", "zwx dog"), made("dog-v2", "dog", "zwx dog")
CAT, INK = made("cat", "cat", "qrt cat"), made("ink", "ink", "inkwsh", base=None)
MUTE = made("mute", "mute")
CATALOGUE = (DOG1, DOG2, CAT, INK, MUTE)


def query(kind: QueryKind, *targets: str, text: str = "my dog", **more: object) -> Query:
    return Query(id="q", text=text, kind=kind, targets=targets, **more)  # type: ignore[arg-type]


def candidates(*shares: tuple[Checkpoint, float]) -> tuple[Candidate, ...]:
    return tuple(Candidate(checkpoint, rerank=share, probability=share) for checkpoint, share in shares)


def picked(*checkpoints: Checkpoint, warnings: tuple[str, ...] = (), ranked: tuple[Candidate, ...] = ()) -> Selection:
    """A selection whose prompt is the triggers one after another, each under its span."""
    prompt, spans = "", []
    for checkpoint in checkpoints:
        for trigger in checkpoint.triggers[:1]:
            spans.append(Span(len(prompt), len(prompt) + len(trigger), "trigger", checkpoint.id))
            prompt += f"{trigger}, "
    return Selection(checkpoints, prompt + "on the beach", tuple(spans), 0.9, "", ranked, warnings, {"total": 5.0})


def asked(ranked: tuple[Candidate, ...] = ()) -> Question:
    options = (Option("name-1", "Dog", ("dog-v2",)), Option("name-2", "Cat", ("cat",)), Option("none", "None", ()))
    return Question("Which one: Dog or Cat?", options, ranked)


def refused(ranked: tuple[Candidate, ...] = ()) -> NoMatch:
    return NoMatch(ranked[:3], "nothing fits", ranked)


class Scripted:
    """A system that says what it is told: by request text, then by answer text. Anything else is a KeyError."""

    def __init__(self, asks: Mapping[str, Decision], answers: Mapping[str, Decision] | None = None) -> None:
        self._asks, self._answers = asks, answers or {}
        self.dates: list[str | None] = []

    def ask(self, request: Request) -> Decision:
        self.dates.append(request.as_of)
        return self._asks[request.text]

    def answer(self, pending: Pending, text: str) -> Decision:
        assert [option.id for option in pending.options] == ["name-1", "name-2", "none"]
        return self._answers[text]


def ids(ranked: Sequence[Candidate]) -> list[str]:
    return [candidate.checkpoint.id for candidate in ranked]
