"""torchao's weight-only and dynamic formats, by its own `quantize_`: linears only, and only where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import nn

from personalq.bench.peers.levels import Peer, Tag, library
from personalq.bench.peers.swap import Layer, swap
from personalq.errors import QuantizationError
from personalq.quant.apply import Report
from personalq.quant.formats import INT4, INT8
from personalq.quant.pack import check_finite
from personalq.quant.recipe import EDGES, GROUP
from personalq.quant.rules_joint import EDGES_JOINT
from personalq.records import Recipe, Rule

PIN = "torchao==0.16.0"
"""The newest whose four-bit weights run packed on an x86 processor; later ones keep them in bytes there."""

LINEARS = "torchao quantises linear layers"
GROUPS = f"torchao's int4 takes inputs that are multiples of {GROUP}, and outputs of 16"
RULES = {"int8-weight-only": Rule(r".*", INT8), "int8-dynamic": Rule(r".*", INT8, INT8)}
RULES["int4-weight-only"] = Rule(r".*", INT4, group=GROUP)


def torchao() -> Iterator[Peer]:
    """Int8 and int4 weights with 16-bit inputs, and int8 weights with int8 inputs per token."""
    for kind, rule in RULES.items():
        assert rule.weight is not None
        recipe, bits = (
            Recipe(f"torchao-{kind}", (EDGES_JOINT, EDGES, rule)),
            rule.activation.bits if rule.activation else 16,
        )
        pack = partial(quantize, recipe=recipe, kind=kind)
        yield library(recipe.name, pack, Tag(f"w{rule.weight.bits}a{bits}", bits), missing)


def missing() -> str:
    """Why the rows cannot be run; empty where they can."""
    return "" if find_spec("torchao") else f"torchao is not installed: pip install {PIN}"


def quantize(model: nn.Module, recipe: Recipe, kind: str) -> Report:
    """Pack a denoiser's linears. Raises QuantizationError where torchao is not installed or refuses a layer."""
    if why := missing():
        raise QuantizationError(f"{recipe.name}: {why}.")
    config = config_for(kind, next(model.parameters()).device.type)

    def make(name: str, layer: Layer, rule: Rule) -> nn.Module | str:
        if not isinstance(layer, nn.Linear):
            return LINEARS
        if rule.weight == INT4 and (layer.in_features % GROUP or layer.out_features % 16):
            return GROUPS
        return packed(layer, config)

    return swap(model, recipe, make)


def config_for(kind: str, device: str) -> Any:
    """torchao's configuration of a row on a kind of device, as its version has it."""
    from torchao import quantization as ao

    if kind == "int8-weight-only":
        return ao.Int8WeightOnlyConfig()
    if kind == "int8-dynamic":
        return ao.Int8DynamicActivationInt8WeightConfig()
    if device == "cuda":
        return ao.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    try:
        from torchao.prototype.int4_opaque_tensor import Int4WeightOnlyOpaqueTensorConfig
    except ImportError as error:
        raise QuantizationError(f"This torchao has no packed four-bit weights for {device}: install {PIN}.") from error
    return Int4WeightOnlyOpaqueTensorConfig(group_size=GROUP)


def packed(layer: nn.Linear, config: Any) -> nn.Linear:
    """The same layer with torchao's weight. Raises QuantizationError for weights that it left as they were."""
    from torchao.quantization import quantize_

    check_finite(layer.weight)
    before = type(layer.weight.data)
    try:
        quantize_(layer, config, filter_fn=lambda *_: True)
    except (AssertionError, ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        raise QuantizationError(f"torchao cannot pack it here: {error}") from error
    if type(layer.weight.data) is before:
        raise QuantizationError("torchao left this layer as it was: keep it in 16 bits by a rule.")
    return layer
