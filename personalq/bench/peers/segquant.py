"""TAQ with SegQuant's two parts (arXiv 2507.14811): scales per input segment, and per sign after SiLU or GELU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

from personalq.backend.variants import Variant
from personalq.bench.peers.controls import KEPT
from personalq.bench.peers.levels import Peer, recipe_at, tag_of
from personalq.quant.apply import Report, quantize_unet
from personalq.quant.segment import find_segments
from personalq.quant.trigger import TriggerAware
from personalq.records import Recipe

PARTS = {"seg": (True, False), "dual": (False, True), "seg+dual": (True, True)}


def segquant() -> Iterator[Peer]:
    """Each part alone and both together, with nothing kept exact and with the trigger."""
    for level in ("w8a8", "w4a8", "w8a4", "w4a4"):
        for part, (segments, dual) in PARTS.items():
            for kept in ("rtn", "taq"):
                name = f"{kept}+{part}-{level}"
                recipe = recipe_at(level, KEPT[kept], name=name, segments=segments, dual=dual)
                pack = partial(quantize, recipe=recipe)
                yield Peer(Variant(name, pack, TriggerAware(recipe), recipe.protect), tag_of(recipe, level))


def quantize(model: nn.Module, recipe: Recipe) -> Report:
    """Pack a denoiser with the segments that its modules have. Raises QuantizationError as `quantize_unet` does."""
    return quantize_unet(model, recipe, segments=find_segments(model))
