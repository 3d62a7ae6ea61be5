"""What a visitor sets for a picture, checked: widget values to a `Job` and back. It knows no widget."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from personalq.errors import RequestError
from personalq.records import Checkpoint, Job, Precision, Span

REFERENCE: Precision = "reference"
PRECISIONS: dict[Precision, str] = {
    "taq-w8a8": "TAQ 8-bit",
    "taq-w4a8": "TAQ 4-bit",
    "rtn-w8a8": "Plain 8-bit",
    "rtn-w4a8": "Plain 4-bit",
    "nf4": "NF4 4-bit",
}
"""What full precision is compared with, by the names that visitors read."""
LAST_SEED = 2**31 - 1
"""Of new seeds."""
MOST_SEED = 2**53 - 1
"""The largest whole number that a browser holds exactly."""
MOST_PROMPT, MOST_NEGATIVE = 2000, 1000
"""Characters."""
MOST_STEPS, MOST_COUNT, MOST_SIDE, MOST_GUIDANCE, MOST_WEIGHT = 50, 4, 2048, 30.0, 4.0
WEIGHTS, GUIDANCE = (-1.0, 2.0), (1.0, 12.0)
"""The usual ranges of the sliders."""
SHAPES: dict[str, tuple[float, float]] = {
    "Square": (1, 1),
    "Portrait": (0.75, 1),
    "Landscape": (1, 0.75),
    "Smaller": (0.75, 0.75),
}
"""Named sizes, as shares of the base's own width and height."""
PIXELS = re.compile(r"\s*(\d{2,4})\s*[x×*,\s]\s*(\d{2,4})\s*")
ROWS: dict[str, tuple[Any, ...]] = {
    "The trigger": ("trigger",),
    "The trigger and its class noun": ("trigger", "noun"),
    "Every word": ("all",),
    "The start token only": ("start",),
}
"""What TAQ may keep in full precision."""


class Controls(NamedTuple):
    """The values of the widgets that describe a picture; the names are the widgets' names."""

    picked: str = ""
    """What stands for the choice of concepts, as it was on the page when the picture was asked for."""
    prompt_box: str = ""
    negative: str = ""
    seed: float | None = None
    locked: bool = True
    steps: float = 20
    guidance: float = 3.5
    size: str = "Square"
    batch: float = 1
    weight_a: float = 1.0
    weight_b: float = 1.0
    precision: Precision = "taq-w8a8"
    protect: str = "The trigger"
    blind: bool = False
    previews: bool = True

    def chosen_seed(self) -> int:
        """The seed that is locked, or else a new one. Raises RequestError for one that cannot be."""
        if self.seed is None or not self.locked:
            return new_seed()
        if not 0 <= self.seed <= MOST_SEED:
            raise RequestError(f"Choose a seed from 0 to {MOST_SEED}.")
        return int(self.seed)

    def job(
        self, prompt: str, spans: Sequence[Span], checkpoints: Sequence[tuple[Checkpoint, float]], seed: int
    ) -> Job:
        """The picture they describe, of the base's own size. Raises RequestError for values that cannot be."""
        if len(prompt) > MOST_PROMPT or len(self.negative) > MOST_NEGATIVE:
            raise RequestError(
                f"The prompt has {len(prompt)} characters, the negative prompt {len(self.negative)}: shorten them to "
                f"{MOST_PROMPT} and {MOST_NEGATIVE}."
            )
        if not 1 <= self.steps <= MOST_STEPS or not 1 <= self.batch <= MOST_COUNT:
            raise RequestError(f"Choose 1 to {MOST_STEPS} steps and 1 to {MOST_COUNT} pictures.")
        if not 0 <= self.guidance <= MOST_GUIDANCE:
            raise RequestError(f"Choose a guidance from 0 to {MOST_GUIDANCE:.0f}.")
        if not all(math.isfinite(weight) and abs(weight) <= MOST_WEIGHT for _, weight in checkpoints):
            raise RequestError(f"Choose weights from -{MOST_WEIGHT:.0f} to {MOST_WEIGHT:.0f}.")
        return Job(
            prompt=prompt,
            negative=self.negative.strip(),
            spans=tuple(spans),
            checkpoints=tuple(checkpoints),
            seed=seed,
            steps=int(self.steps),
            guidance=float(self.guidance),
            count=int(self.batch),
            protect=ROWS.get(self.protect),
        )

    def pixels(self, own: tuple[int, int]) -> tuple[int, int] | None:
        """Width and height asked for, where `own` are the base's; None leaves them to it. Raises RequestError."""
        if self.size == "Square":
            return None
        if self.size in SHAPES:
            unit = _unit(own)
            wide, tall = (round(side * share / unit) * unit for side, share in zip(own, SHAPES[self.size], strict=True))
            return max(unit, wide), max(unit, tall)
        typed = PIXELS.fullmatch(self.size or "")
        if not typed:
            raise RequestError(
                f"The size {str(self.size)[:40]!r} is not understood: choose a shape, or write 512 x 768."
            )
        width, height = int(typed[1]), int(typed[2])
        if max(width, height) > MOST_SIDE:
            raise RequestError(f"{width} x {height} is too large: no side over {MOST_SIDE} pixels.")
        return width, height


def new_seed() -> int:
    """Another seed."""
    return random.randint(0, LAST_SEED)


def shown(job: Job, own: tuple[int, int]) -> str:
    """A job's size as the size widget shows it."""
    asked = (job.width or own[0], job.height or own[1])
    names = {Controls(size=name).pixels(own) or own: name for name in SHAPES}
    return names.get(asked, f"{asked[0]} x {asked[1]}")


def smaller(size: str, own: tuple[int, int]) -> str:
    """The size with sides three quarters as long, as the size widget shows it; the same where that is too small.

    Raises RequestError for a size that cannot be.
    """
    unit = _unit(own)
    sides = Controls(size=size).pixels(own) or own
    wide, tall = (max(unit, side * 3 // 4 // unit * unit) for side in sides)
    return shown(Job("", width=wide, height=tall), own) if (wide, tall) != sides else size


def _unit(own: tuple[int, int]) -> int:
    """Pixels that a side grows and shrinks by."""
    return 64 if min(own) >= 256 else 32


def kept_rows(protect: Sequence[str] | None) -> str:
    """The name of the rows that a job protects, as the widget shows it."""
    return next((name for name, rows in ROWS.items() if rows == tuple(protect or ())), next(iter(ROWS)))
