"""A desk that answers from a script, for the events of the page; and what its tests say to those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from starlette.datastructures import Headers

from personalq.backend.provenance.claims import validated
from personalq.backend.provenance.metadata import read_png, save_png
from personalq.backend.provenance.recall import recalled
from personalq.catalog.scan import Catalog, Problem
from personalq.errors import PersonalQError
from personalq.records import (
    Checkpoint,
    Decision,
    Difference,
    Frame,
    Job,
    MemoryReading,
    Question,
    Recalled,
    Request,
    Selection,
    Span,
)
from personalq.ui import present
from personalq.ui.controls import PRECISIONS, Controls
from personalq.ui.limits import Allowance

PIP = Checkpoint("pip", "Pip", triggers=("zwx dog",), class_noun="dog", group_id="pip", weight_sha256="a" * 64)
REX = Checkpoint("rex", "Rex", triggers=("rx dog",), class_noun="dog", group_id="rex", weight_sha256="b" * 64)
OWN = Checkpoint("own-1", "Mine", triggers=("qvz cat",), class_noun="cat", group_id="own:1", base="tiny-sd")
PLENTY = Allowance(turns_per_minute=1000, pictures_per_hour=1000, uploads_per_hour=1000, at_once=1, crowd=10)
FEW = Allowance(turns_per_minute=1, pictures_per_hour=1, uploads_per_hour=1, at_once=1, crowd=1)
BASE_SIZE = (512, 512)
COLOURS = {"reference": (200, 40, 40)}
"""Of the reference's pictures; all others are blue."""
BLUE = (40, 40, 200)
Own = tuple[Checkpoint, ...]


def browser(session: str = "one", host: str = "127.0.0.1") -> Any:
    """One visitor's browser."""
    return SimpleNamespace(headers=Headers(), client=SimpleNamespace(host=host), session_hash=session)


def event(value: Any = None, index: Any = 0) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": value})


def settle(values: Iterable[Any]) -> Any:
    """All of what an event yields together, later values winning, as the widgets would have them."""
    shown: Any = None
    for new in values:
        skipped = new if shown is None else [old if _is_skip(one) else one for old, one in zip(shown, new, strict=True)]
        shown = type(new)(*skipped)
    return shown


def _is_skip(value: Any) -> bool:
    return isinstance(value, dict) and value == gr.skip()


def selection(one: Checkpoint, text: str) -> Selection:
    trigger = one.triggers[0]
    prompt = text.replace("my dog", trigger)
    start = prompt.find(trigger)
    return Selection((one,), prompt, (Span(start, start + len(trigger), "trigger", one.id),), 1.0, f"{one.name}.")


def session(one: Checkpoint = PIP, text: str = "my dog", **more: Any) -> present.Session:
    """A session in which a concept was chosen."""
    return {"visitor": "127.0.0.1 one", "chosen": present.chosen(selection(one, text)), **more}


def controls(sess: Mapping[str, Any] | None = None, **given: Any) -> Controls:
    """What the page shows for the concept that is chosen in a session."""
    chosen = (session() if sess is None else sess).get("chosen")
    given = {"picked": present.token(chosen) if chosen else "", **given}
    return Controls(**{"prompt_box": "zwx dog", "seed": 7, "steps": 3, "precision": "taq-w4a8", **given})


def made(job: Job, precision: str, index: int) -> dict[str, Any]:
    """How a picture was made, in the form that the real desk writes."""
    concepts = [
        {"id": c.id, "name": c.name, "kind": c.kind, "sha256": c.weight_sha256, "weight": w} for c, w in job.checkpoints
    ]
    marks = [{"start": s.start, "end": s.end, "role": s.role, "id": s.id} for s in job.spans]
    said = {"prompt": job.prompt, "negative": job.negative, "seed": job.seed + index, "steps": job.steps}
    sizes = {"guidance": job.guidance, "width": job.width or BASE_SIZE[0], "height": job.height or BASE_SIZE[1]}
    protect = {"chosen": None if job.protect is None else list(job.protect), "rows": [], "kept": "trigger"}
    more = {"precision": precision, "concepts": concepts, "spans": marks, "protect": protect}
    return validated({**said, **sizes, **more, "base": {"name": "tiny-sd"}, "versions": {"personalq": "0"}})


class Clock:
    """Goes on by the same seconds whenever it is looked at."""

    def __init__(self, tick: float) -> None:
        self.tick, self.now = tick, 100.0

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now

    @staticmethod
    def of_slow_steps(monkeypatch: pytest.MonkeyPatch) -> Clock:
        """The clock by which runs are shown, so that every step is."""
        clock = Clock(1000.0)
        monkeypatch.setattr("personalq.ui.runs.time", clock)
        return clock


class Desk:
    """Answers from a script, and writes down what it was asked."""

    def __init__(self, *script: Decision | PersonalQError, fails: Exception | None = None) -> None:
        self.catalog = Catalog((PIP, REX), (), (Problem("bad.json", "no JSON"),))  # type: ignore[arg-type]
        self.known = {one.id: one for one in self.catalog.checkpoints}
        self.hidden: Mapping[str, int] = {}
        self.base_name: str | None = "tiny-sd"
        self.script, self.fails = list(script), fails
        self.heard: list[Any] = []
        self.job: Job | None = None
        self.asked: Any = None
        """Of the latest grid, its weights and precisions."""
        self.closed = False
        self.busy: list[str] = []
        """What it says that it is doing, one look after the other."""
        self.forgotten: list[str] = []

    def next(self, *heard: Any) -> Decision:
        self.heard.append(heard)
        item = self.script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    # --- Check-in ------------------------------------------------------------------------------

    def ask(self, request: Request, own: Own = ()) -> Decision:
        return self.next("ask", request, *([own] if own else []))

    def answer(self, pending: dict[str, Any], text: str, own: Own = ()) -> tuple[Request, Decision]:
        return present.request(pending["request"]), self.next("answer", text, *([own] if own else []))

    def choose(self, request: Request, id_: str, own: Own = ()) -> Decision:
        self.heard.append(("choose", request, id_))
        return selection({**self.known, **{one.id: one for one in own}}[id_], request.text)

    def pending(self, request: Request, question: Question) -> dict[str, Any]:
        return {"request": present.plain(request), "text": question.text}

    # --- the engine ----------------------------------------------------------------------------

    def waiting_for(self) -> str:
        return self.busy.pop(0) if self.busy else ""

    def loading(self) -> str:
        return self.waiting_for()

    def ready(self) -> str:
        if self.fails:
            raise self.fails
        return "cpu"

    def size(self) -> tuple[int, int]:
        if self.fails:
            raise self.fails
        return BASE_SIZE

    def label(self, precision: str) -> str:
        return f"{precision} here"

    def compare(self, job: Job, precisions: Sequence[str], on_progress: Any = None) -> Iterator[Frame]:
        self.job = job
        try:
            for variant in precisions:
                if on_progress:
                    on_progress(1, 2, "Loading")
                for index in range(job.count):
                    yield from self._frames(job, variant, index)
        finally:
            self.closed = True

    def _frames(self, job: Job, variant: str, index: int) -> Iterator[Frame]:
        for step in range(1, job.steps + 1):
            if self.fails:
                raise self.fails
            done = step == job.steps
            reading = MemoryReading("cpu", 100, 1, None, None, 10, 1.0, "counted") if done else None
            picture = Image.new("RGB", (8 + index, 8), COLOURS.get(variant, BLUE)) if done or step % 2 == 0 else None
            at, total = index * job.steps + step, job.steps * job.count
            yield Frame(variant, at, total, picture, reading, "Cut off." if done else None, "trigger", index)

    def grid(
        self, job: Job, weights: Sequence[float], precisions: Sequence[str], on_progress: Any = None
    ) -> Iterator[tuple[int, int, Frame]]:
        self.job, self.asked = job, (list(weights), list(precisions))
        try:
            for column, precision in enumerate(precisions):
                for row in range(len(weights)):
                    for frame in self._frames(job, precision, 0):
                        yield row, column, frame
        finally:
            self.closed = True

    def sheet(self, pictures: Mapping[tuple[int, int], Image.Image], weights: Any, names: Any) -> Image.Image:
        return Image.new("RGB", (len(names), len(weights)))

    def difference(self, a: Image.Image, b: Image.Image) -> tuple[Image.Image, Difference]:
        return Image.new("RGB", a.size, "black"), Difference(31.4, 1.5, 200, 40)

    def memory(self) -> dict[str, Any]:
        return {"device": "cpu", "peak_allocated": None}

    def forget(self, own: Own) -> None:
        self.forgotten += [one.id for one in own]

    # --- pictures that say how they were made, read and written as the real desk does ----------

    def save(
        self, image: Image.Image, path: Path, job: Job, precision: str, index: int, frame: Frame
    ) -> dict[str, Any]:
        data = made(job, precision, index)
        save_png(image, path, data)
        return data

    def read(self, path: Path) -> dict[str, Any]:
        return read_png(path)

    def recalled(self, data: Mapping[str, Any], own: Own = ()) -> Recalled:
        here = {**self.known, **{one.id: one for one in own}}
        return recalled(data, here, ("reference", *PRECISIONS), self.base_name)

    def recall(self, path: Path, own: Own = ()) -> tuple[dict[str, Any], Recalled]:
        data = self.read(path)
        return data, self.recalled(data, own)
