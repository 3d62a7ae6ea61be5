"""One walk over a denoiser that packs it in place and accounts for every byte. It knows no formats' arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.decide import Decision, check_formats, decide, naming, own_tensors
from personalq.quant.formats import NF4
from personalq.quant.layers import QConv2d, QLinear, nf4_linear
from personalq.quant.nf4 import nf4_from_packed
from personalq.quant.scratch import Scratch
from personalq.quant.segment import Segments, find_segments
from personalq.records import QType, Recipe

Materialize: TypeAlias = Callable[[str, nn.Module], None]
"""Gives the module of a dotted name its own parameters and buffers, in place; its children are not touched."""

PackedState: TypeAlias = Mapping[str, Tensor]
"""All tensors of one packed layer by name, `codes` and `scale` first; the layer's own bias where it has no "bias"."""

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with layers done, layers in all and the name of the next one."""


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer; `format` None is full precision, and then `reason` says why."""

    name: str
    kind: str
    format: QType | None
    parameters: int
    stored_bytes: int
    fp16_bytes: int
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What became of a model: every layer that holds tensors, and the bytes really held against fp16."""

    recipe: str
    layers: tuple[LayerReport, ...]
    stored_bytes: int
    fp16_bytes: int

    @property
    def full_precision(self) -> tuple[LayerReport, ...]:
        """The layers that were not quantised, each with its reason."""
        return tuple(layer for layer in self.layers if layer.format is None)

    @property
    def coverage(self) -> float:
        """Share of the parameters that are really stored in an integer format."""
        packed = sum(layer.parameters for layer in self.layers if layer.format is not None)
        return packed / max(1, sum(layer.parameters for layer in self.layers))


def quantize_unet(
    unet: nn.Module,
    recipe: Recipe,
    materialize: Materialize | None = None,
    calibrated: Mapping[str, PackedState] | None = None,
    segments: Mapping[str, Segments] | None = None,
    smoothing: Mapping[str, Tensor] | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Quantise a denoiser in place, layer by layer, freeing each float layer as its packed one takes its place.

    With `materialize` the denoiser may be on the meta device: each float layer then exists only while it is packed.
    A layer that `calibrated` names takes its packed tensors from there. `segments` and `smoothing`, by layer, are
    used as far as the rules ask for them (`PackedWeight.from_float`); without `segments` they are found.

    The model is frozen: packed weights have no gradient. Adapters are loaded afterwards and stay 16-bit branches.
    Raises QuantizationError, naming the layer. Before anything is changed: for layers with no rule or no packed
    counterpart, formats not built, names that are no layer's, and models that are quantised or carry adapters. Later,
    with the larger layers packed already (load the model again): for NaN or infinite weights.
    """
    check_formats(recipe)
    if segments is None and any(rule.segments or rule.dual for rule in recipe.rules):
        segments = find_segments(unet)
    segments, calibrated, smoothing = segments or {}, calibrated or {}, smoothing or {}
    decisions = decide(unet, recipe, segments)
    known = {item.names[0]: item.format for item in decisions}
    packed = {name for name, format in known.items() if format is not None}
    if strangers := (segments.keys() - known.keys()) | ((calibrated.keys() | smoothing.keys()) - packed):
        raise QuantizationError(f"{min(strangers)} is no layer that {recipe.name} packs: calibrate for this recipe.")
    if twice := smoothing.keys() & calibrated.keys():
        raise QuantizationError(f"{min(twice)} is calibrated already: smooth a layer before it is calibrated.")
    return pack_layers(unet, recipe.name, decisions, materialize, calibrated, smoothing, on_progress)


def pack_layers(
    unet: nn.Module,
    recipe: str,
    decisions: Sequence[Decision],
    materialize: Materialize | None = None,
    calibrated: Mapping[str, PackedState] | None = None,
    smoothing: Mapping[str, Tensor] | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Carry decisions out in place, the largest layer first: what packing needs beside it is then not the peak.

    Raises QuantizationError as `quantize_unet` does.
    """
    calibrated, smoothing = calibrated or {}, smoothing or {}
    unet.requires_grad_(False)
    reports: dict[str, LayerReport] = {}
    largest_first = sorted(decisions, key=lambda item: -_parameters(unet.get_submodule(item.names[0])))
    scratch = Scratch()
    for done, item in enumerate(largest_first):
        name = item.names[0]
        if on_progress:
            on_progress(done, len(decisions), name)
        with naming(name):
            state, factors = calibrated.get(name), smoothing.get(name)
            reports[name] = _carry_out(unet, item, materialize, state, factors)
        scratch.replaced(reports[name].parameters)
    scratch.give_back()
    if on_progress:
        on_progress(len(decisions), len(decisions), "")
    layers = tuple(reports[item.names[0]] for item in decisions)
    return Report(recipe, layers, stored_bytes(unet), sum(layer.fp16_bytes for layer in layers))


def _carry_out(
    unet: nn.Module, item: Decision, materialize: Materialize | None, state: PackedState | None, factors: Tensor | None
) -> LayerReport:
    """Replace one layer under all its names. Nothing here outlives the call but what takes its place."""
    layer = unet.get_submodule(item.names[0])
    parameters, kind = _parameters(layer), type(layer).__name__
    if materialize and (state is None or ("bias" not in state and getattr(layer, "bias", None) is not None)):
        materialize(item.names[0], layer)
    if state is None and any(tensor.is_meta for tensor in own_tensors(layer).values()):
        raise QuantizationError("Its weights are not there: pass the function that reads them.")
    if item.format is None:
        held = sum(tensor.nbytes for tensor in own_tensors(layer).values())
        return LayerReport(item.names[0], kind, None, parameters, held, 2 * parameters, item.reason)
    bias = getattr(layer, "bias", None)
    if state is not None and bias is not None:
        state = {"bias": bias.detach(), **state}
    packed = _packed(layer, item, state, factors)
    for name in item.names:
        parent, _, leaf = name.rpartition(".")
        setattr(unet.get_submodule(parent), leaf, packed)
    return LayerReport(item.names[0], kind, item.format, parameters, stored_bytes(packed), 2 * parameters)


def _packed(layer: nn.Module, item: Decision, state: PackedState | None, factors: Tensor | None) -> nn.Module:
    """The packed counterpart of a layer, from its weights or from a state that was made before."""
    rule = item.rule
    assert rule is not None and isinstance(layer, nn.Linear | nn.Conv2d)
    if isinstance(layer, nn.Linear) and rule.weight == NF4:
        return nf4_linear(layer) if state is None else nf4_from_packed(layer, state)
    kind: type[QLinear | QConv2d] = QLinear if isinstance(layer, nn.Linear) else QConv2d
    if state is not None:
        return kind.from_packed(layer, rule, state, item.segments)
    return kind.from_float(layer, rule, item.segments, factors)


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all tensors that a model holds, each storage once: parameters, buffers, bitsandbytes' statistics."""
    sizes: dict[int, int] = {}
    for tensor in _tensors(module):
        if tensor.is_mkldnn:  # in oneDNN's own layout, without a storage
            sizes[id(tensor)] = torch.ops.mkldnn._nbytes(tensor)
        else:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for tensor in (*module.parameters(), *module.buffers()):
        yield from _inner(tensor)
        yield from _statistics(getattr(tensor, "quant_state", None))


def _inner(tensor: Any) -> Iterator[Tensor]:
    """The plain tensors that a tensor of a library's own class is made of; a plain one itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _inner(getattr(tensor, name))


def _statistics(state: object) -> Iterator[Tensor]:
    """The tensors of a bitsandbytes quantisation state, which is nested where its statistics are packed too."""
    for value in vars(state).values() if state is not None else ():
        if isinstance(value, Tensor):
            yield value
    nested = getattr(state, "state2", None)
    if nested is not None:
        yield from _statistics(nested)


def _parameters(layer: nn.Module) -> int:
    return sum(tensor.numel() for tensor in layer.parameters(recurse=False))
