"""Quantised denoisers as folders: safetensors with all their tensors, and a description. Loaded back bit for bit.

It knows no denoisers: the empty model to fill is handed in.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from personalq import __version__
from personalq.errors import QuantizationError
from personalq.quant.apply import Progress, Report, pack_layers
from personalq.quant.decide import Decision, decision, kept_always, layer_names, own_tensors, rule_for
from personalq.quant.formats import NF4
from personalq.quant.layers import PackedWeight
from personalq.quant.nf4 import is_nf4, nf4_tensors
from personalq.quant.segment import WHOLE
from personalq.quant.sidecar import AGAIN, FILE, Provenance, Sidecar, StoredLayer, read_sidecar
from personalq.quant.stored import FLOATS, StoredTensors, sha256
from personalq.records import Recipe

SHARD_BYTES = 1 << 30
"""Tensors in one file, beyond which another is begun; a layer is never cut in two."""
LIBRARIES = ("torch", "diffusers", "safetensors")


# --- saving ------------------------------------------------------------------------------------


def save_quantized(unet: nn.Module, report: Report, recipe: Recipe, folder: str | Path, provenance: Provenance) -> Path:
    """Write a quantised denoiser and its description into `folder`, which appears whole or not at all.

    A quantised model that was there is replaced. Raises QuantizationError, and leaves all as it was, when the folder
    holds something else, report and recipe are not this model's, or a layer is of a kind that is not stored.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder / FILE).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise QuantizationError(f"{folder} holds something else than a quantised model: choose another folder.")
    layers = _layers(unet, report, recipe)
    config = {**getattr(unet, "config", {}), "_class_name": type(unet).__name__}
    libraries = LIBRARIES + ("bitsandbytes",) * any(layer.format == NF4 for layer in report.layers)
    fresh = folder.with_name(f".{folder.name}-{uuid4().hex}")
    try:
        fresh.mkdir(parents=True)
        Sidecar(
            recipe=recipe,
            dtype=_float_type(unet, layers),
            denoiser={key: value for key, value in config.items() if key != "_name_or_path"},
            provenance=provenance,
            versions={"personalq": __version__} | {name: version(name) for name in libraries},
            stored_bytes=report.stored_bytes,
            layers=layers,
            files=_write_tensors(unet, {layer.name: layer.stored_bytes for layer in report.layers}, fresh),
        ).write(fresh)
        _put(fresh, folder)
    except (OSError, SafetensorError) as error:
        raise QuantizationError(f"{folder} cannot be written ({error}): make room there or choose another.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _layers(unet: nn.Module, report: Report, recipe: Recipe) -> dict[str, StoredLayer]:
    """The rule and segments of each layer. Raises QuantizationError where they are not what the recipe says."""
    names = [each[0] for each in layer_names(unet)]
    if report.recipe != recipe.name or names != [layer.name for layer in report.layers]:
        raise QuantizationError("The report is of another model or recipe: store a model with its own report.")
    layers = {}
    for name, line in zip(names, report.layers, strict=True):
        layer, packed, segments, rule = unet.get_submodule(name), False, WHOLE, None
        if isinstance(layer, PackedWeight):
            packed, segments, rule = True, layer.segments, layer.rule
        elif not kept_always(layer):
            rule = rule_for(name, recipe)
        if rule is not None and rule not in recipe.rules:
            raise QuantizationError(f"{name} follows no rule of {recipe.name}: store a model with its own recipe.")
        if (line.format is not None) != (packed or is_nf4(layer)):
            raise QuantizationError(f"{name} is a {type(layer).__name__}, whose tensors cannot be stored.")
        index = None if rule is None else recipe.rules.index(rule)
        layers[name] = StoredLayer(index, segments)
    return layers


def _float_type(unet: nn.Module, names: Iterable[str]) -> str:
    """The name of the type of all tensors that are not packed."""
    found = set()
    for layer in map(unet.get_submodule, names):
        packed = isinstance(layer, PackedWeight) or is_nf4(layer)
        kept = {"bias": layer.bias} if packed else own_tensors(layer)
        found |= {str(tensor.dtype).removeprefix("torch.") for tensor in kept.values() if tensor is not None}
    if len(found) == 1 and found <= FLOATS.keys():
        return found.pop()
    raise QuantizationError(f"The model is in {', '.join(sorted(found))}: cast it to one of {', '.join(FLOATS)}.")


def _write_tensors(unet: nn.Module, sizes: Mapping[str, int], folder: Path) -> dict[str, str]:
    """Write the tensors of the layers, of so many bytes, in shards; the SHA-256 of each file by its name."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if size > room or not shards:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= size
    hashes = {}
    for number, shard in enumerate(shards, start=1):
        file = "weights.safetensors" if len(shards) == 1 else f"weights-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {
            f"{name}.{key}": tensor.detach().cpu().contiguous()
            for name in shard
            for key, tensor in _tensors(unet.get_submodule(name)).items()
        }
        save_file(tensors, folder / file, {"format": "pt"})
        hashes[file] = sha256(folder / file)
    return hashes


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """All that must be stored of one layer."""
    if is_nf4(layer):
        return nf4_tensors(layer)
    if isinstance(layer, PackedWeight):
        return layer.tensors()
    return {name: tensor for name, tensor in own_tensors(layer).items() if name != "stand_in"}


def _put(fresh: Path, folder: Path) -> None:
    """Rename a folder into its place; what was there goes only when that has worked."""
    old = fresh.with_name(f"{fresh.name}-old")
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


# --- loading -----------------------------------------------------------------------------------


def load_quantized(
    unet: nn.Module, folder: str | Path, device: str | torch.device = "cpu", on_progress: Progress | None = None
) -> Report:
    """Fill an empty denoiser, on the meta device, with a stored one; `read_sidecar(folder).denoiser` configures it.

    Bit for bit what was saved where the empty model has the stored `dtype`; otherwise what is not packed is cast.
    Memory never holds more than the quantised model and one of its tensors. Raises QuantizationError for files that
    are missing, damaged, inconsistent or of another model; the denoiser is then not to be used.
    """
    folder = Path(folder)
    sidecar = read_sidecar(folder)
    decisions = _decisions(unet, sidecar)
    cast = sidecar.dtype not in {str(p.dtype).removeprefix("torch.") for p in unet.parameters()}
    stored = StoredTensors(unet, decisions, folder, sidecar, torch.device(device))
    report = pack_layers(unet, sidecar.recipe.name, decisions, stored.fill, stored, on_progress=on_progress)
    if not cast and report.stored_bytes != sidecar.stored_bytes:
        raise QuantizationError(f"{folder} does not hold the {sidecar.stored_bytes} bytes that it says: {AGAIN}.")
    return report


def _decisions(unet: nn.Module, sidecar: Sidecar) -> list[Decision]:
    """What is to become of each layer. Raises QuantizationError where the description is of another model."""
    names = {each[0]: each for each in layer_names(unet)}
    kind, wanted = type(unet).__name__, sidecar.denoiser.get("_class_name")
    if names.keys() != sidecar.layers.keys() or kind != wanted:
        raise QuantizationError(
            f"The stored model is another one than this {kind}: make it from its own configuration."
        )
    decisions = []
    for name, each in names.items():
        layer, stored = unet.get_submodule(name), sidecar.layers[name]
        if (stored.rule is None) != bool(kept_always(layer)):
            raise QuantizationError(f"{name} is stored under a rule that is not for its kind: {AGAIN}.")
        rule = None if stored.rule is None else sidecar.recipe.rules[stored.rule]
        decisions.append(decision(layer, each, rule, stored.segments))
    return decisions
