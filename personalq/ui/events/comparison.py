"""Events of the comparison: widget values turned into a job, frames turned into pictures and readings.

No denoising happens here. A visitor's data lies in the session and the folder it is handed. What is made has a state
of its own: pictures take long, and whatever else of the session changes meanwhile must not be put back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from personalq.catalog.hub_weights import fetched
from personalq.errors import PersonalQError, RequestError
from personalq.records import Frame, Job, MemoryReading, Precision
from personalq.ui import panels, pictures, present
from personalq.ui.controls import PRECISIONS, REFERENCE, Controls
from personalq.ui.desk import Desk
from personalq.ui.events.conversation import KEEP, failure
from personalq.ui.keepsakes import Kept, remembered
from personalq.ui.limits import Limits, visitor_of
from personalq.ui.present import Message, Session
from personalq.ui.runs import Pace, Runs
from personalq.ui.visitors import Visitors
from personalq.ui.widgets.draw import VIEWS

SIDES = ("picture_a", "picture_b")
TOLD = 80
"""Characters of a prompt above its pictures."""
Failed = dict[str, Any]
Made = dict[str, Any]
"""What `Run.plain` gives, as a session keeps it; empty before the first comparison."""


class Pictures(NamedTuple):
    """What a comparison changes, step by step; the names are the widgets' names."""

    outputs: Any = KEEP
    picture_a: Any = KEEP
    picture_b: Any = KEEP
    heat: Any = KEEP
    legend: Any = KEEP
    strip: Any = KEEP
    views: Any = KEEP
    votes: Any = KEEP
    verdict: Any = KEEP
    progress: Any = KEEP
    memory: Any = KEEP
    seed: Any = KEEP
    go: Any = KEEP
    stop: Any = KEEP
    view: Any = KEEP
    failed: Any = KEEP
    made: Any = KEEP
    kept: Any = KEEP


@dataclass
class Run:
    """One comparison while it is made."""

    job: Job
    precision: Precision
    blind: bool
    folder: Path
    names: tuple[str, str]
    labels: tuple[str, str]
    readings: list[MemoryReading] = field(default_factory=list)
    paths: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    """Of the finished pictures on each side."""
    heats: list[tuple[str, str]] = field(default_factory=list)
    """Of each pair, the heat map's path and its legend."""
    thumbs: list[str] = field(default_factory=list)
    data: list[dict[str, Any]] = field(default_factory=list)
    """How the pictures of full precision were made."""
    warning: str = ""

    def plain(self) -> dict[str, Any]:
        """What the visitor's session keeps of it.

        The history shows the picture on the left, so that before a blind vote it tells nothing either.
        """
        order = random.sample((0, 1), 2) if self.blind else [0, 1]
        with Image.open(self.paths[order[0]][0]) as left:
            thumb = pictures.inline(left)
        return {
            "paths": [list(side) for side in self.paths],
            "heats": self.heats,
            "thumbs": self.thumbs,
            "names": list(self.names),
            "memory": panels.memory(self.readings, self.labels),
            "precision": self.precision,
            "order": order,
            "hidden": self.blind,
            "entry": remembered(self.data[0], thumb, self.precision),
        }


class Comparison:
    """Generate and Stop, over one desk."""

    def __init__(self, desk: Desk, limits: Limits, visitors: Visitors) -> None:
        self.desk, self.limits, self.visitors = desk, limits, visitors
        self.runs = Runs()

    def on_compare(
        self,
        browser: gr.Request,
        sess: Session,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - Gradio finds it by its default
        *controls: Any,
    ) -> Iterator[Pictures]:
        """Both pictures, a step at a time. An open seed is drawn and written back, so the pictures can be repeated."""
        visitor = visitor_of(browser)
        try:
            with self.runs.begun(visitor):
                yield Pictures(progress=panels.progress("Getting ready"))  # Gradio cannot stop what has not yielded yet
                with self.limits.slot(visitor):
                    yield from self._compare(visitor, sess, progress, Controls(*controls))
        except PersonalQError as error:
            words = panels.progress("Failed: see the conversation")
            yield Pictures(outputs=gr.update(visible=True), progress=words, failed=failed(error), **_at_rest())
            raise failure(str(error)) from error
        except Exception:
            yield Pictures(progress=panels.progress("Failed: try again"), **_at_rest())
            raise

    def _compare(self, visitor: str, sess: Session, progress: gr.Progress, controls: Controls) -> Iterator[Pictures]:
        seed = controls.chosen_seed()
        job = self.job(visitor, sess, controls, seed)
        if controls.precision not in PRECISIONS:
            raise RequestError("Choose what to compare full precision with.")
        self.limits.take(visitor, "picture", 2 * job.count)
        blind = bool(controls.blind)
        right = PRECISIONS[controls.precision]
        names = ("A", "B") if blind else ("Full precision", right)
        yield Pictures(
            outputs=gr.update(visible=True),
            picture_a=gr.update(value=None, label=names[0]),
            picture_b=gr.update(value=None, label=names[1]),
            heat=gr.update(value=None),
            views=gr.update(visible=False),
            votes=gr.update(visible=False),
            strip=gr.update(visible=False),
            legend="",
            verdict="",
            progress=panels.progress("Loading the model"),
            memory="",
            seed=seed,
            go=gr.update(interactive=False),
            stop=gr.update(visible=True),
            view=VIEWS[0] if blind else KEEP,  # a vote needs both
        )
        labels = (self.desk.label(REFERENCE), self.desk.label(controls.precision))
        run = Run(job, controls.precision, blind, self.visitors.run(visitor), ("Full precision", right), labels)
        yield from self._frames(run, controls.previews and not blind, _loading(progress))
        made = run.plain()
        pairs = f" This is the first of {job.count} pairs." if job.count > 1 else ""
        end = f"Both pictures are there. Which one is better?{pairs}" if blind else _words(job)
        yield Pictures(
            progress=panels.progress(f"{end}. {run.warning}" if run.warning else end),
            made=made,
            votes=gr.update(visible=blind),
            views=gr.update(visible=True),
            **_shown(made, 0),
            **_at_rest(),
        )

    def job(self, visitor: str, sess: Session, controls: Controls, seed: int) -> Job:
        """The picture that widgets and session describe; weights of a visitor's own that lie on the Hub are fetched.

        Raises RequestError or HubError.
        """
        job = present.job(present.choice(sess, controls.picked), present.known(self.desk.known, sess), controls, seed)
        own = {one.id for one in present.own(sess)}
        here = [
            (fetched(one, cache=self.visitors.folder(visitor) / "hub") if one.id in own else one, weight)
            for one, weight in job.checkpoints
        ]
        job = replace(job, checkpoints=tuple(here))
        if controls.size == "Square":
            return job
        size = controls.pixels(self.desk.size())
        return replace(job, width=size[0], height=size[1]) if size else job

    def _frames(self, run: Run, previews: bool, on_progress: Any) -> Iterator[Pictures]:
        pair: Sequence[Precision] = (REFERENCE, run.precision)
        values: dict[str, Any] = {}
        pace = Pace()
        with closing(self.desk.compare(run.job, pair, on_progress)) as frames:
            for frame in frames:
                side = int(frame.variant != REFERENCE)
                words = "Both pictures" if run.blind else run.names[side]
                step = (frame.step + side * frame.total, 2 * frame.total) if run.blind else (frame.step, frame.total)
                values["progress"] = panels.progress(words, *step)
                if frame.image and frame.memory:
                    values |= self._finished(run, side, frame)
                elif frame.image and previews:
                    values[SIDES[side]] = frame.image
                if frame.memory or pace.is_due():
                    yield Pictures(**values)
                    values = {}
                    pace.begin()

    def _finished(self, run: Run, side: int, frame: Frame) -> dict[str, Any]:
        """A picture is done: its file is written, and once both of a pair are there, what tells them apart."""
        assert frame.image and frame.memory
        index = len(run.paths[side])
        precision = run.precision if side else REFERENCE
        path = run.folder / f"personalq-{run.job.seed + index}-{precision}.png"
        data = self.desk.save(frame.image, path, run.job, precision, index, frame)
        run.paths[side].append(str(path))
        if index == 0:
            run.readings.append(frame.memory)
        if side == 0:
            run.data.append(data)
            run.warning = frame.warning or run.warning
            run.thumbs.append(pictures.inline(frame.image))
        else:
            run.heats.append(self._difference(run, index))
        if run.blind:
            return {}
        shown: dict[str, Any] = {SIDES[side]: str(path), "memory": panels.memory(run.readings, run.labels)}
        if side:
            shown[SIDES[0]] = run.paths[0][index]
        return shown

    def _difference(self, run: Run, index: int) -> tuple[str, str]:
        with Image.open(run.paths[0][index]) as a, Image.open(run.paths[1][index]) as b:
            heat, how = self.desk.difference(a.convert("RGB"), b.convert("RGB"))
        path = run.folder / f"personalq-{run.job.seed + index}-difference.png"
        heat.save(path)
        return str(path), pictures.legend(how.psnr, how.mean, how.largest, how.scale_max)

    # --- after it ------------------------------------------------------------------------------

    def on_failed(self, failed: Failed, chat: list[Message]) -> list[Message]:
        """What went wrong, said in the conversation as it is now: it may have gone on since Generate."""
        return [*chat, present.replied(failed["text"], failed["options"])] if failed else KEEP

    def on_away(self) -> Pictures:
        """The conversation or all data were cleared, and the run was stopped: nothing of the pictures stays."""
        hidden = gr.update(visible=False)
        return Pictures(
            outputs=hidden,
            picture_a=None,
            picture_b=None,
            heat=None,
            legend="",
            strip=hidden,
            views=hidden,
            votes=hidden,
            verdict="",
            progress="",
            memory="",
            made={},
            **_at_rest(),
        )

    def on_made(self, made: Made, sess: Session, kept: Any, browser: gr.Request) -> tuple[Any, Any]:
        """A comparison is finished: its entry in the history.

        An event of its own, with session and history as they are now: both may have changed while pictures were made.
        """
        if not made.get("entry"):
            return KEEP, KEEP
        mine = Kept.of(kept).with_entry(made["entry"])
        return {**sess, "visitor": visitor_of(browser)}, mine.plain()

    def on_strip(self, made: Made, evt: gr.SelectData) -> Pictures:
        """Another pair of a batch."""
        if made.get("hidden") or not 0 <= evt.index < len(made.get("thumbs", ())) or not _is_there(made):
            raise failure(present.EXPIRED)
        return Pictures(**_shown(made, evt.index))

    def on_vote(self, made: Made, kept: Any, chosen: int | None) -> Pictures:
        """A blind vote for the side shown as A (0) or B (1), or for neither; then all is told."""
        if not made.get("hidden") or not _is_there(made):
            raise failure(present.EXPIRED)
        side = "same" if chosen is None else ("reference", "quantised")[made["order"][chosen]]
        told = {**made, "hidden": False, "entry": None}
        names = [made["names"][which] for which in made["order"]]
        verdict = "No difference seen." if chosen is None else f"You preferred: {made['names'][made['order'][chosen]]}."
        return Pictures(
            made=told,
            kept=Kept.of(kept).with_vote(made["precision"], side).plain(),
            votes=gr.update(visible=False),
            progress=panels.progress("You have voted: all is told now"),
            verdict=panels.progress(f"{verdict} A was {names[0]}, B was {names[1]}."),
            **_shown(told, 0),
        )

    def on_stop(self, browser: gr.Request) -> Iterator[tuple[Any, Any, Any]]:
        """After a stop: what stays on the page, and the buttons once the denoiser has let go."""
        yield panels.progress("Stopping after this step"), KEEP, gr.update(interactive=False)
        self.runs.wait(visitor_of(browser))
        yield panels.progress("Stopped"), gr.update(interactive=True), gr.update(visible=False, interactive=True)


def failed(error: PersonalQError) -> Failed:
    """What went wrong, and what can be clicked then; never the same twice."""
    return {"text": str(error), "options": present.ways_out(error), "at": time.time_ns()}


def _words(job: Job) -> str:
    """Which pictures these are: the conversation may have gone on to another concept."""
    prompt = job.prompt if len(job.prompt) <= TOLD else f"{job.prompt[:TOLD]}…"
    return f"Both pictures from seed {job.seed}: {prompt}"


def _is_there(made: Made) -> bool:
    """Whether the pictures are: of many comparisons the oldest go."""
    return all(Path(path).exists() for side in made["paths"] for path in side)


def _shown(made: Made, index: int) -> dict[str, Any]:
    """A pair as the widgets show it: while sides are hidden in shuffled order, under names that tell nothing."""
    order, hidden = made["order"], made["hidden"]
    paths = [made["paths"][which][index] for which in order]
    names = ("A", "B") if hidden else tuple(made["names"][which] for which in order)
    files = [_bare(path, name) if hidden else path for path, name in zip(paths, "AB", strict=True)]
    heat, legend = made["heats"][index]
    strip = pictures.strip(made["thumbs"], index) if len(made["thumbs"]) > 1 and not hidden else ""
    return {
        "picture_a": gr.update(value=files[0], label=names[0]),
        "picture_b": gr.update(value=files[1], label=names[1]),
        "heat": gr.update(value=heat),
        "legend": legend,
        "strip": gr.update(value=strip, visible=bool(strip)),
        "memory": "" if hidden else made["memory"],
    }


def _bare(path: str, name: str) -> str:
    """A copy of a picture that says nothing about how it was made."""
    bare = Path(path).with_name(f"{Path(path).stem.split('-')[1]}-{name}.png")
    with Image.open(path) as picture:
        picture.convert("RGB").save(bare)
    return str(bare)


def _loading(progress: gr.Progress) -> Any:
    """Shows what is read and packed, as Gradio's own bar."""

    def tell(done: int, total: int, what: str) -> None:
        progress((done, total), desc=what, unit="parts")

    return tell


def _at_rest() -> dict[str, Any]:
    return {"go": gr.update(interactive=True), "stop": gr.update(visible=False)}
