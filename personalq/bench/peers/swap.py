"""Puts other layers in the place of a denoiser's linears and convolutions, and reports on them as our own walk does.

It is for layers that are not made by `quantize_unet`; what they are is not known here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from personalq.quant.apply import LayerReport, Report, stored_bytes
from personalq.quant.decide import decide, naming
from personalq.records import Recipe, Rule

Layer = nn.Linear | nn.Conv2d
Make = Callable[[str, Layer, Rule], nn.Module | str]
"""The layer that takes another's place by its rule, or why it stays as it is."""

L = TypeVar("L", bound=Layer)


def swap(model: nn.Module, recipe: Recipe, make: Make) -> Report:
    """Replace in place every layer that the recipe packs by what `make` makes of it, one after the other.

    The model is frozen. Raises QuantizationError, naming the layer, for what `quantize_unet` or `make` refuses.
    """
    model.requires_grad_(False)
    reports = []
    for item in decide(model, recipe, {}):
        name, layer = item.names[0], model.get_submodule(item.names[0])
        packed: nn.Module | str = item.reason
        parameters, kind = sum(p.numel() for p in layer.parameters(recurse=False)), type(layer).__name__
        if item.format is not None:
            assert item.rule is not None and isinstance(layer, Layer)  # as `decide` has seen to
            with naming(name):
                packed = make(name, layer, item.rule)
        for place in item.names if isinstance(packed, nn.Module) else ():
            parent, _, leaf = place.rpartition(".")
            setattr(model.get_submodule(parent), leaf, packed)
        if isinstance(packed, str):
            held = sum(t.nbytes for t in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)))
            line = LayerReport(name, kind, None, parameters, held, 2 * parameters, packed)
        else:
            line = LayerReport(name, kind, item.format, parameters, stored_bytes(packed), 2 * parameters)
        reports.append(line)
    return Report(recipe.name, tuple(reports), stored_bytes(model), sum(layer.fp16_bytes for layer in reports))


def with_weight(layer: L, weight: Tensor) -> L:
    """The same layer with another weight, for as long as it takes to pack it; the layer itself stays as it is."""
    twin = copy.copy(layer)
    twin._parameters = {**layer._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    return twin


class Around(nn.Module):
    """A layer around a packed one: it names the sizes of the layer that both stand for, as adapters ask for them."""

    def __init__(self, layer: Layer, packed: nn.Module) -> None:
        super().__init__()
        names = ["in_features", "out_features"]
        if isinstance(layer, nn.Conv2d):
            names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"]
            names += ["padding_mode"]
        for name in names:
            setattr(self, name, getattr(layer, name))
        self.packed = packed

    @property
    def weight(self) -> Any:
        """The packed layer's stand-in of the float weight."""
        return self.packed.weight

    @property
    def bias(self) -> Any:
        """The packed layer's."""
        return self.packed.bias
