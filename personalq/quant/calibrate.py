"""Rounds a model's layers to what they see, a pass of them at a time, and keeps what is done on disk.

It knows no denoisers and no captions: a function that is handed in runs the float model under an observer. The same
call again goes on after the last finished pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import unfinished
from personalq.quant.adaround import adaround
from personalq.quant.apply import PackedState, Progress
from personalq.quant.decide import decide
from personalq.quant.formats import INT4, INT8
from personalq.quant.observe import Observer, Statistics, load_statistics, passes, save_statistics
from personalq.quant.pack import Int4Weight, Int8Weight
from personalq.quant.rounding import Assign, gptq, round_int4, round_int8
from personalq.quant.segment import WHOLE, Segments, find_segments
from personalq.quant.state import Layer, input_parts, pack
from personalq.records import Recipe, Rule

METHODS: dict[str, Assign] = {"gptq": gptq, "adaround": adaround}
DEFAULT = "gptq"

BUDGET = 2 << 30
"""Bytes of Gram blocks that are summed in one pass over everything there is to see."""

Run: TypeAlias = Callable[[Observer], None]
"""Runs the float model on everything there is to see, while the observer watches."""


class Rounded(Mapping[str, PackedState]):
    """Packed layers in files, each read when it is asked for: the `calibrated` of `quantize_unet`."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files

    def __getitem__(self, layer: str) -> PackedState:
        return unfinished.read(self.files[layer], f"{layer}/")[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def calibrate(
    model: nn.Module,
    recipe: Recipe,
    run: Run,
    folder: Path,
    made_from: str,
    *,
    segments: Mapping[str, Segments] | None = None,
    smoothing: Mapping[str, Tensor] | None = None,
    method: str = DEFAULT,
    budget: int = BUDGET,
    on_progress: Progress | None = None,
) -> Rounded:
    """Round every layer that the recipe packs as integers to what it sees when `run` runs; the model stays as it is.

    Layers are cut into passes whose statistics fit in `budget` bytes; `run` is called once a pass. Each pass leaves
    one file in `folder`, and one of statistics until it has been rounded; files whose `made_from` is the same are not
    made again, so it has to tell apart anything that would change them but recipe, method and budget. `segments` and
    `smoothing` are those that the layers will be packed with, as in `quantize_unet`.

    Raises QuantizationError for unknown methods, layers that cannot be packed, layers that saw nothing, and inputs
    that are not finite.
    """
    check_method(method)
    if segments is None and any(rule.segments or rule.dual for rule in recipe.rules):
        segments = find_segments(model)
    segments, smoothing = segments or {}, smoothing or {}
    rules = integer_rules(model, recipe, segments)
    made_from = f"{made_from}, {method}, {budget} bytes a pass, {recipe}"
    files: dict[str, Path] = {}
    for number, names in enumerate(plan(model, recipe, budget)):
        path = folder / f"rounded-{number:04}.safetensors"
        files |= dict.fromkeys(names, path)
        if unfinished.is_from(path, made_from):
            continue
        layers = {name: _layer(model, name) for name in names}
        parts = {name: input_parts(layers[name], rules[name], segments.get(name, WHOLE)) for name in names}
        statistics_file = folder / f"statistics-{number:04}.safetensors"
        seen = _seen(statistics_file, made_from, layers, parts, run)
        tensors: dict[str, Tensor] = {}
        for name in names:
            if on_progress:
                on_progress(len(files) - len(names) + names.index(name), len(rules), name)
            state = rounded_state(
                layers[name], rules[name], seen.pop(name), segments.get(name, WHOLE), smoothing.get(name), method
            )
            tensors |= {f"{name}/{key}": tensor for key, tensor in state.items()}
        unfinished.write(path, tensors, made_from)
        statistics_file.unlink(missing_ok=True)
    return Rounded(files)


def check_method(name: str) -> None:
    """Raises QuantizationError for a rounding that there is not."""
    if name not in METHODS:
        raise QuantizationError(f"No rounding is called {name!r}: choose one of {', '.join(METHODS)}.")


def plan(model: nn.Module, recipe: Recipe, budget: int = BUDGET) -> list[tuple[str, ...]]:
    """The layers that each pass rounds."""
    return passes({name: _layer(model, name) for name in integer_rules(model, recipe)}, budget)


def integer_rules(model: nn.Module, recipe: Recipe, segments: Mapping[str, Segments] | None = None) -> dict[str, Rule]:
    """The rule of each layer that the recipe packs as int8 or int4, in the model's order."""
    decisions = decide(model, recipe, segments or {})
    return {item.names[0]: item.rule for item in decisions if item.rule and item.format in (INT8, INT4)}


def rounded_state(
    layer: Layer,
    rule: Rule,
    seen: Statistics,
    segments: Segments = WHOLE,
    smoothing: Tensor | None = None,
    method: str = DEFAULT,
) -> PackedState:
    """All tensors of the packed layer, as `state.pack` makes them, but rounded to what the layer saw.

    Smoothing multiplies the input by f, so H becomes diag(f) H diag(f), for each output segment that has its own.
    """
    assign, parts = METHODS[method], input_parts(layer, rule, segments)
    factors = [None] if smoothing is None else list(smoothing.float())
    widths = list(segments.outputs) if len(factors) > 1 else [len(layer.weight)]

    def rounded(rows: Tensor) -> Int8Weight | Int4Weight:
        pieces: list[Int8Weight | Int4Weight] = []
        for piece, factor in zip(torch.split(rows, widths), factors, strict=True):
            gram = seen.gram if factor is None else smoothed(seen.gram, columns(factor, layer, parts))
            if rule.weight == INT8:
                pieces.append(round_int8(piece, gram, assign))
            else:
                pieces.append(round_int4(piece, rule.group or 0, gram, assign))
        return type(pieces[0])(*(torch.cat(tensors) for tensors in zip(*pieces, strict=True)))

    return pack(layer, rule, segments, smoothing, rounded)


def smoothed(gram: tuple[Tensor, ...], factors: Tensor) -> tuple[Tensor, ...]:
    """The blocks of diag(f) H diag(f) for f [K]."""
    parts = torch.split(factors.to(gram[0].device), [len(block) for block in gram])
    return tuple(block * part[:, None] * part for block, part in zip(gram, parts, strict=True))


def columns(factors: Tensor, layer: Layer, parts: tuple[int, ...]) -> Tensor:
    """Factors [I] of input channels for the columns [K] of the weight rows that are packed."""
    taps = layer.weight.shape[2:].numel()
    return torch.cat([part.repeat(taps) for part in torch.split(factors, list(parts) or len(factors))])


def _seen(
    path: Path, made_from: str, layers: Mapping[str, Layer], parts: Mapping[str, tuple[int, ...]], run: Run
) -> dict[str, Statistics]:
    """The statistics of one pass, from disk where they are there."""
    device = next(iter(layers.values())).weight.device
    if unfinished.is_from(path, made_from):
        return load_statistics(path, device)
    observer = Observer(layers, parts)
    with observer.watching():
        run(observer)
    unseen = layers.keys() - observer.statistics.keys()
    if unseen:
        raise QuantizationError(f"{min(unseen)} was never run: calibrate on captions that use the whole model.")
    save_statistics(path, observer.statistics, made_from)
    return observer.statistics


def _layer(model: nn.Module, name: str) -> Layer:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer
