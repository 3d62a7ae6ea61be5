"""A desk that answers from a script, for the events of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

from personalq.catalog.scan import Catalog, Problem
from personalq.errors import PersonalQError
from personalq.records import (
    Checkpoint,
    Decision,
    Frame,
    Job,
    MemoryReading,
    Question,
    Request,
    Selection,
    Span,
)
from personalq.ui import present

PIP = Checkpoint("pip", "Pip", triggers=("zwx dog",), class_noun="dog", group_id="pip")
REX = Checkpoint("rex", "Rex", triggers=("rx dog",), class_noun="dog", group_id="rex")


def selection(one: Checkpoint, text: str) -> Selection:
    trigger = one.triggers[0]
    prompt = text.replace("my dog", trigger)
    start = prompt.find(trigger)
    return Selection((one,), prompt, (Span(start, start + len(trigger), "trigger", one.id),), 1.0, f"{one.name}.")


class Desk:
    """Answers from a script, and writes down what it was asked."""

    def __init__(self, *script: Decision | PersonalQError, fails: PersonalQError | None = None) -> None:
        self.catalog = Catalog((PIP, REX), (), (Problem("bad.json", "no JSON"),))  # type: ignore[arg-type]
        self.known = {one.id: one for one in self.catalog.checkpoints}
        self.base_name = "tiny-sd"
        self.script, self.fails = list(script), fails
        self.heard: list[Any] = []
        self.job: Job | None = None
        self.closed = False

    def next(self, *heard: Any) -> Decision:
        self.heard.append(heard)
        item = self.script.pop(0)
        if isinstance(item, PersonalQError):
            raise item
        return item

    def ask(self, request: Request) -> Decision:
        return self.next("ask", request)

    def answer(self, pending: dict[str, Any], text: str) -> tuple[Request, Decision]:
        return present.request(pending["request"]), self.next("answer", text)

    def choose(self, request: Request, id_: str) -> Decision:
        self.heard.append(("choose", request, id_))
        return selection(self.known[id_], request.text)

    def pending(self, request: Request, question: Question) -> dict[str, Any]:
        return {"request": present.plain(request), "text": question.text}

    def ready(self) -> str:
        if self.fails:
            raise self.fails
        return "cpu"

    def label(self, precision: str) -> str:
        return f"{precision} here"

    def compare(self, job: Job, precisions: tuple[str, ...]) -> Iterator[Frame]:
        self.job = job
        try:
            for variant in precisions:
                for step in range(1, job.steps + 1):
                    if self.fails:
                        raise self.fails
                    done = step == job.steps
                    reading = MemoryReading("cpu", 100, 1, None, None, 10, 1.0, "counted") if done else None
                    yield Frame(variant, step, job.steps, Image.new("RGB", (8, 8)) if done else None, reading)
        finally:
            self.closed = True
