"""The rows that differ in nothing but which text rows are kept exact, and how attention is rounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from personalq.bench.peers.levels import LEVELS, Peer, peer, recipe_at
from personalq.bench.peers.top_mass import TOP_MASS, TopMass
from personalq.quant.formats import LINEAR4, LINEAR8, LOG4, LOG8, NF4
from personalq.quant.recipe import GROUP, RECIPES, rules_for
from personalq.records import Protected, QType, Recipe, Rule

KEPT: dict[str, tuple[Protected, ...]] = {
    "rtn": (),
    "taq": ("trigger",),
    "start": ("start",),
    "random": ("random",),
    "end": ("end",),
    "suffix": ("suffix",),
    "all": ("all",),
    "taq+start": ("trigger", "start"),
    "taq+noun": ("trigger", "noun"),
}
"""What each control keeps. "rtn" is round-to-nearest with nothing kept, "taq" the method itself."""

QUANTISERS: dict[int, tuple[QType, ...]] = {8: (LINEAR4, LOG4, LOG8), 4: (LINEAR4, LINEAR8)}
"""By the bits of a level's own probabilities, the others that "rtn", "taq", "start" and "random" are run with too."""


def controls() -> Iterator[Peer]:
    """Every control at every level, "<kept>-<level>"; with another attention quantiser "<kept>-<level>-<format>"."""
    top_mass = TopMass()
    for level, bits in LEVELS.items():
        for kept, protect in KEPT.items():
            yield peer(recipe_at(level, protect, name=f"{kept}-{level}"), level)
        plain = peer(recipe_at(level, name=f"{TOP_MASS}-{level}"), level)
        yield plain._replace(variant=replace(plain.variant, mask=top_mass))
        for format in QUANTISERS[bits.probabilities.bits]:
            for kept in ("rtn", "taq", "start", "random"):
                yield peer(recipe_at(level, KEPT[kept], format, name=f"{kept}-{level}-{format.name}"), level)


def on_nf4() -> Iterator[Peer]:
    """bitsandbytes' NF4 linears: as they are, and under trigger-aware attention at eight and at four bits."""
    yield peer(RECIPES["nf4"], "w4a16")
    rules = rules_for(Rule(r".*", NF4, group=GROUP))
    for name, level in (("nf4", "w4a8"), ("nf4-attn4", "w4attn4")):
        bits = LEVELS[level]
        for kept in ("rtn", "taq"):
            recipe = Recipe(f"{kept}-{name}", rules, bits.rows, bits.probabilities, KEPT[kept])
            yield peer(recipe, "w4a16")
