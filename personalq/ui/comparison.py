"""Events of the comparison: widget values turned into a job, frames turned into pictures and readings.

No denoising happens here, and nothing of a visitor is kept but whether a run is under way.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import gradio as gr

from personalq.errors import PersonalQError
from personalq.records import Job, MemoryReading, Precision
from personalq.ui import panels, present
from personalq.ui.desk import Desk
from personalq.ui.handlers import KEEP
from personalq.ui.present import Message, Session

LAST_SEED = 2**31 - 1
LONGEST_STEP = 120
"""Seconds a stopped run may take to end before the buttons are freed anyway."""
PRECISIONS: dict[Precision, str] = {
    "taq-w8a8": "TAQ 8-bit",
    "taq-w4a8": "TAQ 4-bit",
    "rtn-w8a8": "Plain 8-bit",
    "rtn-w4a8": "Plain 4-bit",
    "nf4": "NF4 4-bit",
}
REFERENCE: Precision = "reference"


class Pictures(NamedTuple):
    """What a comparison changes, step by step."""

    outputs: Any = KEEP
    reference: Any = KEEP
    quantised: Any = KEEP
    progress: Any = KEEP
    memory: Any = KEEP
    seed: Any = KEEP
    go: Any = KEEP
    stop: Any = KEEP
    chat: Any = KEEP


class Comparison:
    """Generate and Stop, over one desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._runs: dict[str, threading.Event] = {}
        """The run each browser has under way, by its session; set when it has really ended."""

    def on_compare(
        self,
        chat: list[Message],
        sess: Session,
        prompt: str,
        seed: float | None,
        steps: float,
        guidance: float,
        precision: Precision,
        browser: gr.Request,
    ) -> Iterator[Pictures]:
        """Both pictures, a step at a time. An empty seed is drawn and written back, so the pictures can be repeated."""
        visitor = str(browser.session_hash)
        ended = self._runs[visitor] = threading.Event()
        try:
            yield from self._compare(chat, sess, prompt, seed, steps, guidance, precision)
        finally:
            ended.set()
            if self._runs.get(visitor) is ended:
                del self._runs[visitor]

    def _compare(
        self,
        chat: list[Message],
        sess: Session,
        prompt: str,
        seed: float | None,
        steps: float,
        guidance: float,
        precision: Precision,
    ) -> Iterator[Pictures]:
        chosen_seed = random.randint(0, LAST_SEED) if seed is None else int(seed)
        try:
            job = present.job(sess.get("chosen"), self.desk.known, prompt, chosen_seed, int(steps), guidance)
            yield Pictures(
                outputs=gr.update(visible=True),
                reference=gr.update(value=None),
                quantised=gr.update(value=None, label=PRECISIONS[precision]),
                progress=panels.progress("Loading the model"),
                memory="",
                seed=chosen_seed,
                go=gr.update(interactive=False),
                stop=gr.update(visible=True),
            )
            yield from self._frames(job, precision)
        except PersonalQError as error:
            said = [*chat, present.replied(str(error))]
            yield Pictures(chat=said, progress=panels.progress("Failed: see the chat"), **_at_rest())
            raise gr.Error(present.safe(str(error))) from error

    def _frames(self, job: Job, precision: Precision) -> Iterator[Pictures]:
        pair: Sequence[Precision] = (REFERENCE, precision)
        labels = [self.desk.label(one) for one in pair]
        readings: list[MemoryReading] = []
        end = f"Both pictures from seed {job.seed}"
        with closing(self.desk.compare(job, pair)) as frames:
            for frame in frames:
                end = f"{end}. {frame.warning}" if frame.warning and frame.variant == REFERENCE else end
                side = "reference" if frame.variant == REFERENCE else "quantised"
                title = "Full precision" if frame.variant == REFERENCE else PRECISIONS[precision]
                readings += [frame.memory] if frame.memory else []
                yield Pictures(
                    progress=panels.progress(title, frame.step, frame.total),
                    memory=panels.memory(readings, labels) if frame.memory else KEEP,
                    **({side: frame.image} if frame.image else {}),
                )
        yield Pictures(progress=panels.progress(end), **_at_rest())

    def on_stop(self, browser: gr.Request) -> Iterator[tuple[Any, Any, Any]]:
        """After a stop: what stays on the page, and the buttons once the denoiser has let go."""
        text = "Stopped. A finished picture stays; an unfinished one shows its last step."
        run = self._runs.get(str(browser.session_hash))
        yield panels.progress("Stopping after this step"), KEEP, gr.update(interactive=False)
        if run:
            run.wait(LONGEST_STEP)
        yield panels.progress(text), gr.update(interactive=True), gr.update(visible=False, interactive=True)


def _at_rest() -> dict[str, Any]:
    return {"go": gr.update(interactive=True), "stop": gr.update(visible=False)}


def new_seed() -> int:
    """Another seed."""
    return random.randint(0, LAST_SEED)
