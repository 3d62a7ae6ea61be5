"""Events of the grid: one picture at several concept weights and precisions. No denoising happens here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import gradio as gr
from PIL.Image import Image

from personalq.errors import PersonalQError, RequestError
from personalq.records import Precision
from personalq.ui import panels, pictures
from personalq.ui.controls import PRECISIONS, REFERENCE, Controls
from personalq.ui.events.comparison import Comparison, failed
from personalq.ui.events.conversation import KEEP, failure
from personalq.ui.limits import visitor_of
from personalq.ui.present import Session
from personalq.ui.runs import Pace, Runs

MOST_ROWS = 6
SIDE = 256
"""Pixels of a picture in the table; the file to download has them whole."""


class Grid(NamedTuple):
    """What a grid changes; the names are the widgets' names."""

    grid_out: Any = KEEP
    grid_go: Any = KEEP
    grid_stop: Any = KEEP
    grid_file: Any = KEEP
    seed: Any = KEEP
    failed: Any = KEEP


AT_REST: dict[str, Any] = {
    "grid_go": gr.update(interactive=True),
    "grid_stop": gr.update(visible=False, interactive=True),
}


class Grids:
    """Make the grid and Stop, with the comparison's desk, limits and folders."""

    def __init__(self, comparison: Comparison) -> None:
        self.page, self.desk = comparison, comparison.desk
        self.runs = Runs()

    def on_grid(
        self,
        browser: gr.Request,
        sess: Session,
        weights: str,
        precisions: list[Precision],
        *controls: Any,
    ) -> Iterator[Grid]:
        """The table, a picture at a time."""
        visitor = visitor_of(browser)
        try:
            with self.runs.begun(visitor):
                yield Grid(grid_go=gr.update(interactive=False))  # Gradio cannot stop what has not yielded yet
                with self.page.limits.slot(visitor):
                    yield from self._grid(visitor, sess, weights, precisions, Controls(*controls))
        except PersonalQError as error:
            yield Grid(failed={**failed(error), "options": {}}, **AT_REST)
            raise failure(str(error)) from error
        except Exception:
            yield Grid(**AT_REST)
            raise

    def _grid(
        self, visitor: str, sess: Session, typed: str, precisions: list[Precision], controls: Controls
    ) -> Iterator[Grid]:
        seed = controls.chosen_seed()
        job = self.page.job(visitor, sess, controls._replace(batch=1), seed)
        weights = rows(typed)
        columns = (REFERENCE, *(one for one in PRECISIONS if one in precisions))
        names = ["Full precision", *(PRECISIONS[one] for one in columns[1:])]
        self.page.limits.take(visitor, "picture", len(weights) * len(columns))
        done: dict[tuple[int, int], Image] = {}
        small: dict[tuple[int, int], str] = {}
        pace = Pace()
        busy = {"grid_go": gr.update(interactive=False), "grid_stop": gr.update(visible=True)}
        yield Grid(pictures.grid({}, weights, names), **busy, grid_file=gr.update(visible=False), seed=seed)
        with closing(self.desk.grid(job, weights, columns)) as cells:
            for row, column, frame in cells:
                if frame.image and frame.memory:
                    done[row, column] = frame.image
                    small[row, column] = pictures.inline(frame.image, SIDE)
                    count = panels.progress(f"{len(done)} of {len(weights) * len(columns)} pictures")
                    yield Grid(pictures.grid(small, weights, names) + count)
                    pace.begin()
                elif pace.is_due():
                    yield Grid()  # Gradio stops a run where it yields
                    pace.begin()
        path = self.page.visitors.run(visitor) / f"personalq-grid-{seed}.png"
        self.desk.sheet(done, weights, names).save(path)
        yield Grid(pictures.grid(small, weights, names), grid_file=gr.update(value=str(path), visible=True), **AT_REST)

    def on_away(self) -> Grid:
        """All data were cleared, and the run was stopped: nothing of the grid stays."""
        return Grid("", grid_file=gr.update(value=None, visible=False), **AT_REST)

    def on_stop(self, browser: gr.Request) -> Iterator[Grid]:
        """After a stop: what is there stays, and the buttons are free once the denoiser has let go."""
        yield Grid(grid_stop=gr.update(interactive=False))
        self.runs.wait(visitor_of(browser))
        yield Grid(**AT_REST)


def rows(typed: str) -> Sequence[float]:
    """The weights in a text such as "0, 0.5, 1". Raises RequestError unless they are one to six numbers."""
    words = [word for word in re.split(r"[,;\s]+", typed.strip()) if word]
    try:
        weights = [float(word) for word in words]
    except ValueError:
        weights = []
    if not 1 <= len(weights) <= MOST_ROWS or not all(math.isfinite(weight) for weight in weights):
        raise RequestError(
            f"The weights {typed[:40]!r} are not understood: write up to six numbers, such as 0, 0.5, 1."
        )
    return weights
