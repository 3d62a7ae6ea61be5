"""What a recipe makes of every layer of a denoiser, decided before any is touched. It packs and reads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.formats import INT4, INT8, NF4
from personalq.quant.layers import PackedWeight
from personalq.quant.segment import WHOLE, Segments
from personalq.quant.state import expected_tensors
from personalq.records import QType, Recipe, Rule

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
NORM_REASON = "normalisation: a few numbers per channel"
TABLE_REASON = "table: looked up or added, never multiplied"
NF4_REASON = "bitsandbytes stores linear layers only"
BUILT = (INT8, INT4, NF4)


@dataclass(frozen=True)
class Decision:
    """What is to become of one module that holds tensors; `rule` None is a kind that no rule is asked about."""

    names: tuple[str, ...]
    """All names it has in the model, the first of which names it everywhere else."""
    rule: Rule | None
    format: QType | None
    """None keeps it in full precision, and then `reason` says why."""
    reason: str = ""
    segments: Segments = WHOLE


def decide(unet: nn.Module, recipe: Recipe, segments: Mapping[str, Segments]) -> list[Decision]:
    """What the recipe makes of each module that holds tensors, in the model's order. Raises as `quantize_unet` does."""
    decisions = []
    for names in layer_names(unet):
        layer, name = unet.get_submodule(names[0]), names[0]
        with naming(name):
            rule = None if kept_always(layer) else rule_for(name, recipe)
            decisions.append(decision(layer, names, rule, segments.get(name, WHOLE)))
    return decisions


def decision(layer: nn.Module, names: tuple[str, ...], rule: Rule | None, segments: Segments = WHOLE) -> Decision:
    """What becomes of a layer under a rule. Raises QuantizationError where the rule has no counterpart for it."""
    if isinstance(layer, PackedWeight) or hasattr(layer, "quant_state"):
        raise QuantizationError("This layer is quantised already: load the model again to change its recipe.")
    if rule is None or rule.weight is None:
        return Decision(names, rule, None, rule.reason if rule else kept_always(layer), segments)
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise QuantizationError(
            f"{type(layer).__name__} has no packed counterpart: add a rule that keeps it in 16 bits."
        )
    if rule.weight == NF4 and not isinstance(layer, nn.Linear):
        return Decision(names, rule, None, NF4_REASON, segments)
    if rule.weight != NF4:
        expected_tensors(layer, rule, segments)  # raises where there is no counterpart
    return Decision(names, rule, rule.weight, "", segments)


def layer_names(unet: nn.Module) -> list[tuple[str, ...]]:
    """Names of the modules that hold tensors themselves; a module under several names is listed once, with all.

    Names and not modules, so that nothing here keeps a float layer alive. Raises QuantizationError for adapters.
    """
    names: dict[int, list[str]] = {}
    kernel = None
    for name, module in unet.named_modules(remove_duplicate=False):
        if hasattr(module, "base_layer"):
            raise QuantizationError(f"{name}: an adapter is loaded. Unload it, quantise, and load it again.")
        if isinstance(module, PackedWeight):
            kernel = f"{name}.kernel"  # it may hold the layer's tensors in a layout of its own
        if own_tensors(module) and name != kernel:
            names.setdefault(id(module), []).append(name)
    return [tuple(each) for each in names.values()]


def kept_always(layer: nn.Module) -> str:
    """Why a layer of its kind is kept in full precision under any recipe; empty where the recipe decides."""
    parameters = list(layer.parameters(recurse=False))
    if isinstance(layer, nn.Embedding) or not parameters:
        return TABLE_REASON
    vectors = all(parameter.ndim < 2 for parameter in parameters)
    return NORM_REASON if vectors or isinstance(layer, NORMS) else ""


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that a module holds itself, by their own names."""
    return {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}


def check_formats(recipe: Recipe) -> None:
    """Raise QuantizationError for weights in a format that no layer is built for."""
    for rule in recipe.rules:
        if rule.weight is not None and rule.weight not in BUILT:
            built = ", ".join(format.name for format in BUILT)
            raise QuantizationError(f"Weights in {rule.weight.name} are not built: choose one of {built}.")


def rule_for(name: str, recipe: Recipe) -> Rule:
    """The first rule whose pattern matches the name. Raises QuantizationError when there is none."""
    for rule in recipe.rules:
        if re.search(rule.pattern, name):
            return rule
    raise QuantizationError(f"No rule of {recipe.name} covers this layer: end the recipe with a rule for '.*'.")


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Put the layer's name in front of what goes wrong with it."""
    try:
        yield
    except QuantizationError as error:
        raise QuantizationError(f"{layer}: {error}") from error
