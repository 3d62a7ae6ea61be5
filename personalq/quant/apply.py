"""One walk over a denoiser that packs it in place and accounts for every byte. It knows no formats' arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.formats import INT4, INT8, NF4
from personalq.quant.layers import QConv2d, QLinear, nf4_linear
from personalq.records import QType, Recipe, Rule

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
NORM_REASON = "normalisation: a few numbers per channel"
TABLE_REASON = "embedding table: looked up, never multiplied"
NF4_REASON = "bitsandbytes stores linear layers only"
BUILT = (INT8, INT4, NF4)


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


def quantize_unet(unet: nn.Module, recipe: Recipe) -> Report:
    """Quantise a denoiser in place, layer by layer, freeing each float layer as its packed one takes its place.

    The model is frozen: packed weights have no gradient. Adapters are loaded afterwards and stay 16-bit branches.
    Raises QuantizationError, naming the layer, for NaN or infinite weights, layers with no packed counterpart,
    formats not built, and models that are quantised or carry adapters already. Layers before the failing one are
    then packed: load the model again.
    """
    _check_formats(recipe)
    unet.requires_grad_(False)
    reports = []
    for names in _layers(unet):
        layer = unet.get_submodule(names[0])
        try:
            packed, report = _quantize(layer, names[0], recipe)
        except QuantizationError as error:
            raise QuantizationError(f"{names[0]}: {error}") from error
        for name in names if packed is not layer else ():
            parent, _, leaf = name.rpartition(".")
            setattr(unet.get_submodule(parent), leaf, packed)
        reports.append(report)
    return Report(recipe.name, tuple(reports), stored_bytes(unet), sum(report.fp16_bytes for report in reports))


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all tensors that a model holds, each storage once: parameters, buffers, bitsandbytes' statistics."""
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in _tensors(module))}.values())


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for tensor in (*module.parameters(), *module.buffers()):
        yield tensor
        yield from _statistics(getattr(tensor, "quant_state", None))


def _statistics(state: object) -> Iterator[Tensor]:
    """The tensors of a bitsandbytes quantisation state, which is nested where its statistics are packed too."""
    for value in vars(state).values() if state is not None else ():
        if isinstance(value, Tensor):
            yield value
    nested = getattr(state, "state2", None)
    if nested is not None:
        yield from _statistics(nested)


def _layers(unet: nn.Module) -> list[list[str]]:
    """Names of the modules that hold tensors themselves; a module under several names is listed once, with all.

    Names and not modules, so that nothing here keeps a float layer alive.
    """
    names: dict[int, list[str]] = {}
    for name, module in unet.named_modules(remove_duplicate=False):
        if hasattr(module, "base_layer"):
            raise QuantizationError(f"{name}: an adapter is loaded. Unload it, quantise, and load it again.")
        if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            names.setdefault(id(module), []).append(name)
    return list(names.values())


def _check_formats(recipe: Recipe) -> None:
    for rule in recipe.rules:
        if rule.weight is not None and rule.weight not in BUILT:
            built = ", ".join(format.name for format in BUILT)
            raise QuantizationError(f"Weights in {rule.weight.name} are not built: choose one of {built}.")


def _rule(name: str, recipe: Recipe) -> Rule:
    for rule in recipe.rules:
        if re.search(rule.pattern, name):
            return rule
    raise QuantizationError(f"No rule of {recipe.name} covers this layer: end the recipe with a rule for '.*'.")


def _quantize(layer: nn.Module, name: str, recipe: Recipe) -> tuple[nn.Module, LayerReport]:
    """The layer that takes this one's place, perhaps itself, and its line of the report."""
    parameters = sum(tensor.numel() for tensor in layer.parameters(recurse=False))
    packed, format, reason = _choose(layer, name, recipe)
    if format is None:
        bytes_held = sum(t.nbytes for t in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)))
    else:
        bytes_held = stored_bytes(packed)
    kind = type(layer).__name__
    return packed, LayerReport(name, kind, format, parameters, bytes_held, 2 * parameters, reason)


def _choose(layer: nn.Module, name: str, recipe: Recipe) -> tuple[nn.Module, QType | None, str]:
    if isinstance(layer, NORMS):
        return layer, None, NORM_REASON
    if isinstance(layer, nn.Embedding):
        return layer, None, TABLE_REASON
    if isinstance(layer, QLinear | QConv2d) or hasattr(layer, "quant_state"):
        raise QuantizationError("This layer is quantised already: load the model again to change its recipe.")
    rule = _rule(name, recipe)
    if rule.weight is None:
        return layer, None, rule.reason
    if isinstance(layer, nn.Linear):
        return (nf4_linear(layer) if rule.weight == NF4 else QLinear.from_float(layer, rule)), rule.weight, ""
    if isinstance(layer, nn.Conv2d):
        if rule.weight == NF4:
            return layer, None, NF4_REASON
        return QConv2d.from_float(layer, rule), rule.weight, ""
    raise QuantizationError(f"{type(layer).__name__} has no packed counterpart: add a rule that keeps it in 16 bits.")
