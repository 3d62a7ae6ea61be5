"""The bits that rows of the table are matched in, as recipes. It knows no peers, models or pictures.

A level says what all of its rows share; a row adds which text rows stay exact, and how attention is rounded.

    level      weights          inputs of layers   text K/V rows   cross-attention probabilities
    w8a8       int8             int8               int8            8 bits
    w4a8       int4, group 64   int8               int8            8 bits
    w8a4       int8             15 levels          4 bits          4 bits
    w4a4       int4, group 64   15 levels          4 bits          4 bits
    w8attn4    int8             int8               4 bits          4 bits
    w4attn4    int4, group 64   int8               4 bits          4 bits

So "a4" puts every activation at four bits, and "attn4" only those that trigger-aware attention is about. Weights and
K/V rows are stored at these bits at every level. Four-bit inputs are held in bytes and multiplied exactly: their
arithmetic is real and their speed is not, so they are tagged simulated, as are probabilities of four bits, which are
rounded and then multiplied in fp32. Self-attention is computed in 16 bits everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import nn

from personalq.backend.variants import REFERENCE, Variant, variant_from
from personalq.quant.apply import Report
from personalq.quant.formats import INT4, INT4_ACT, INT4_ROWS, INT8, LINEAR8, LOG4
from personalq.quant.recipe import GROUP, rules_for
from personalq.records import Protected, QType, Recipe, Rule


@dataclass(frozen=True)
class Level:
    """The formats of one precision level."""

    name: str
    weight: QType
    group: int | None
    activation: QType | None
    rows: QType
    probabilities: QType


LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level("w8a8", INT8, None, INT8, INT8, LINEAR8),
        Level("w4a8", INT4, GROUP, INT8, INT8, LINEAR8),
        Level("w8a4", INT8, None, INT4_ACT, INT4_ROWS, LOG4),
        Level("w4a4", INT4, GROUP, INT4_ACT, INT4_ROWS, LOG4),
        Level("w8attn4", INT8, None, INT8, INT4_ROWS, LOG4),
        Level("w4attn4", INT4, GROUP, INT8, INT4_ROWS, LOG4),
    )
}


def recipe_at(
    level: str,
    protect: tuple[Protected, ...] = (),
    probabilities: QType | Literal["level"] | None = "level",
    *,
    name: str,
    segments: bool = False,
    dual: bool = False,
) -> Recipe:
    """The recipe of a row at a level; probabilities are the level's own unless another format, or None, is given.

    Layers are left in 16 bits where the product's own recipes leave them, for every row alike.
    """
    bits = LEVELS[level]
    everything = Rule(r".*", bits.weight, bits.activation, bits.group, segments, dual)
    chosen = bits.probabilities if probabilities == "level" else probabilities
    return Recipe(name, rules_for(everything), bits.rows, chosen, protect)


@dataclass(frozen=True)
class Tag:
    """What a row computes with, of which nothing needs a model to be known."""

    level: str
    """A name in `LEVELS`, or such as "w4a16" for a row with formats of its own."""
    activation_bits: int
    """Of the inputs of packed layers; 16 is weight-only."""
    text_bits: int = 16
    """Of the unprotected K/V rows of cross-attention."""
    attention_bits: int = 16
    """Of the unprotected probabilities of cross-attention."""
    simulated: str = ""
    """What is computed in a wider type than it is said to be in; empty for a row that is real throughout."""

    @property
    def real(self) -> bool:
        """Whether all is stored and computed at the bits named, so that its bytes and its time mean something."""
        return not self.simulated


class Peer(NamedTuple):
    """A row of the table."""

    variant: Variant
    tag: Tag
    missing: Callable[[], str] = str
    """Why the row cannot be run here; empty where it can."""


Pack = Callable[[nn.Module], Report]


def peer(recipe: Recipe, level: str, pack: Pack | None = None, also: str = "") -> Peer:
    """A row with our attention by a recipe, its layers packed by the recipe too, or by `pack`."""
    variant = variant_from(recipe)
    return Peer(replace(variant, quantize=pack) if pack else variant, tag_of(recipe, level, also))


def library(name: str, pack: Pack, tag: Tag, missing: Callable[[], str] = str) -> Peer:
    """A row of a library that packs layers and leaves attention as it is."""
    return Peer(replace(REFERENCE, name=name, quantize=pack), tag, missing)


def tag_of(recipe: Recipe, level: str, also: str = "") -> Tag:
    """The tag of a row that our packed layers and our attention run by a recipe; `also` is simulated besides."""
    activation = recipe.rules[-1].activation
    rows, probabilities = recipe.text_rows, recipe.probabilities
    simulated = [also] if also else []
    if activation == INT4_ACT:
        simulated.append("four-bit inputs in int8 products")
    if probabilities is not None and probabilities.bits < 8:
        simulated.append("four-bit probabilities in fp32 products")
    return Tag(
        level=level,
        activation_bits=activation.bits if activation else 16,
        text_bits=rows.bits if rows else 16,
        attention_bits=probabilities.bits if probabilities else 16,
        simulated=", ".join(simulated),
    )
