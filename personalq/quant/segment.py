"""Which layers of a denoiser have inputs put together from parts, or outputs taken apart, and what comes before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

After = Literal["silu", "gelu", "geglu"]


@dataclass(frozen=True)
class Segments:
    """The parts of one layer's input and output along its channels, and the activation function directly before it."""

    inputs: tuple[int, ...] = ()
    """Widths of the parts that were concatenated, or merged from heads, to make the input; empty is a whole input."""
    outputs: tuple[int, ...] = ()
    """Widths of the parts that the output is split into; empty is a whole output."""
    after: After | None = None
    """What the input, or a part of it, comes from."""


WHOLE = Segments()
