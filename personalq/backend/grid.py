"""The same picture at every weight of a LoRA and at every precision, and a sheet of them. Knows no widgets or files."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from PIL import Image, ImageDraw, ImageFont

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.backend.variants import variant_named
from personalq.diffusion.lazy import Progress
from personalq.errors import GenerationError
from personalq.records import Frame, Job, Precision

MOST_CELLS = 24
STRONGEST = 4.0
"""The largest weight, of either sign: beyond it pictures fall apart."""

Cell = tuple[int, int]
"""Row and column: the place of a weight and of a precision."""


# --- the pictures ------------------------------------------------------------------------------


def cells(
    engine: Engine,
    job: Job,
    weights: Sequence[float],
    precisions: Sequence[Precision],
    on_progress: Progress | None = None,
    checkpoint_id: str | None = None,
) -> Generator[tuple[int, int, Frame], None, None]:
    """Row, column and frame of one picture at each of `weights` (rows) and `precisions` (columns), from one noise.

    The weight is that of the job's LoRA `checkpoint_id`, or its first; other checkpoints keep theirs. One precision
    is finished before the next is loaded. `job.count` is taken as 1. Close the generator to stop within a step.
    Raises GenerationError for a grid that cannot be made, and what `generate` raises.
    """
    jobs = weighted(job, weights, checkpoint_id)
    if not 0 < len(jobs) * len(precisions) <= MOST_CELLS:
        raise GenerationError(
            f"A grid of {len(jobs)} weights and {len(precisions)} precisions cannot be made: choose at least one of "
            f"each, and no more than {MOST_CELLS} pictures in all."
        )
    for precision in precisions:
        variant_named(precision, engine.variants)  # before time is spent on the others
    for column, precision in enumerate(precisions):
        for row, each in enumerate(jobs):
            with closing(generate(engine, each, precision, on_progress=on_progress)) as frames:
                for frame in frames:
                    yield row, column, frame


def weighted(job: Job, weights: Sequence[float], checkpoint_id: str | None = None) -> list[Job]:
    """The job of one picture at each weight of its LoRA. Raises GenerationError without one, or for wild weights."""
    loras = [c.id for c, _ in job.checkpoints if c.kind == "lora" and checkpoint_id in (None, c.id)]
    if not loras:
        which = "no LoRA" if checkpoint_id is None else f"no LoRA {checkpoint_id}"
        raise GenerationError(f"This picture has {which}, and so no weight to vary: choose a LoRA that is in it.")
    for weight in weights:
        if not math.isfinite(weight) or abs(weight) > STRONGEST:
            raise GenerationError(f"A weight of {weight} cannot be used: choose from {-STRONGEST:g} to {STRONGEST:g}.")
    return [
        replace(job, count=1, checkpoints=tuple((c, weight if c.id == loras[0] else w) for c, w in job.checkpoints))
        for weight in weights
    ]


# --- the sheet ---------------------------------------------------------------------------------

PAPER, INK = (255, 255, 255), (24, 24, 27)
SMALLEST_LABEL = 13
"""Pixels; labels are a sixteenth of the pictures' height otherwise."""


def sheet(
    pictures: Mapping[Cell, Image.Image], weights: Sequence[float], precision_labels: Sequence[str]
) -> Image.Image:
    """The pictures, each at its own size, in labelled rows and columns; the place of a missing one stays blank.

    Raises ValueError when there is no picture, or one outside the rows and columns.
    """
    if not pictures or not all(0 <= r < len(weights) and 0 <= c < len(precision_labels) for r, c in pictures):
        raise ValueError("A sheet needs at least one picture, and a weight and a label for the place of each.")
    width, height = (max(picture.size[axis] for picture in pictures.values()) for axis in (0, 1))
    size = max(SMALLEST_LABEL, height // 16)
    font = ImageFont.load_default(size)
    gap, rows = size // 2, [f"weight {weight:g}" for weight in weights]
    width = max(width, *(_wide(font, label) for label in precision_labels))
    left, top = gap + max(_wide(font, label) for label in rows) + gap, gap + 5 * size // 4 + gap
    page = Image.new("RGB", (left + (width + gap) * len(precision_labels), top + (height + gap) * len(rows)), PAPER)
    draw = ImageDraw.Draw(page)
    for column, label in enumerate(precision_labels):
        draw.text((left + column * (width + gap) + width / 2, top - gap), label, INK, font, anchor="md")
    for row, label in enumerate(rows):
        draw.text((left - gap, top + row * (height + gap) + height / 2), label, INK, font, anchor="rm")
    for (row, column), picture in pictures.items():
        at = left + column * (width + gap) + (width - picture.width) // 2
        page.paste(picture, (at, top + row * (height + gap) + (height - picture.height) // 2))
    return page


def _wide(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, label: str) -> int:
    return math.ceil(font.getlength(label))
