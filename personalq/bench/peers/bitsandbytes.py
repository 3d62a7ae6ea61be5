"""bitsandbytes' LLM.int8() (Dettmers et al., arXiv 2208.07339): its own layers, linears only.

Input columns with a value above the threshold are multiplied in 16 bits, all others in int8 with a scale per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

from personalq.bench.peers.levels import Peer, Tag, library
from personalq.bench.peers.swap import Layer, swap
from personalq.quant.decide import NF4_REASON
from personalq.quant.formats import INT8
from personalq.quant.pack import check_finite
from personalq.quant.recipe import EDGES
from personalq.quant.rules_joint import EDGES_JOINT
from personalq.records import Recipe, Rule

THRESHOLD = 6.0
RECIPE = Recipe("llm-int8", (EDGES_JOINT, EDGES, Rule(r".*", INT8, INT8)))


def llm_int8() -> Iterator[Peer]:
    """The one row."""
    yield library(RECIPE.name, partial(swap, recipe=RECIPE, make=_made), Tag("w8a8", 8))


def _made(name: str, layer: Layer, rule: Rule) -> nn.Module | str:
    return int8_linear(layer) if isinstance(layer, nn.Linear) else NF4_REASON


def int8_linear(layer: nn.Linear) -> nn.Module:
    """The library's layer made from `layer`, on its device. Raises QuantizationError for NaN or infinite weights."""
    from bitsandbytes.nn import Int8Params, Linear8bitLt  # seconds to import, and only the peers need it

    weight = layer.weight.detach()
    check_finite(weight)
    packed = Linear8bitLt(1, 1, bias=False, has_fp16_weights=False, threshold=THRESHOLD)
    packed.in_features, packed.out_features = layer.in_features, layer.out_features
    packed.weight = Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False).to(weight.device)
    packed.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
    packed.register_buffer("row_scale", packed.weight.SCB, persistent=False)  # or it would be counted nowhere
    module: nn.Module = packed
    return module
