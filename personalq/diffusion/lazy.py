"""Opens denoisers without their weights, and reads those layer by layer. Knows nothing of what becomes of a layer.

The model is built on the meta device, where shapes cost nothing; a function then fills one module at a time. Files are
mapped for a few megabytes at a time only, because pages of a mapped file count as resident memory while it is mapped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from personalq.diffusion.load import DENOISERS, Denoiser, denoiser_part, in_fast_layout, short
from personalq.errors import ModelError

Materialize: TypeAlias = Callable[[str, nn.Module], None]
"""Gives the module of a dotted name its own parameters and buffers, in place; its children are not touched."""

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with how many are done, how many there are in all, and what is being done."""

NAME = "diffusion_pytorch_model"
VARIANTS = ("", ".fp16")
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
BLOCK_ELEMENTS = 1 << 20
"""Numbers that are read at a time, unless a single row has more."""
LISTED = 3
"""Names that an error lists."""


def open_denoiser(source: str | Path, device: str | torch.device, dtype: torch.dtype) -> tuple[Denoiser, Materialize]:
    """The denoiser of a base model, or a folder that is one, without weights; and what fills one layer with them.

    Filled layer by layer it equals `load.load_denoiser`: floating tensors in `dtype`, convolutions channels-last on
    the CPU, evaluation mode. Raises ModelError, before anything is read, when there is no such model or when tensors
    are missing, unexpected or of another shape than the configuration says.
    """
    folder = denoiser_folder(source)
    model = empty_denoiser(read_config(folder), device, dtype)
    model.register_to_config(_name_or_path=str(source))
    places = _places(weight_files(folder))
    _check_complete(model, places, folder)
    target = torch.device(device)

    def materialize(name: str, module: nn.Module) -> None:
        prefix = f"{name}." if name else ""
        for key, parameter in module.named_parameters(recurse=False):
            filled = _read(places[prefix + key], prefix + key, parameter, target)
            setattr(module, key, nn.Parameter(filled, requires_grad=parameter.requires_grad))
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, _read(places[prefix + key], prefix + key, buffer, target))

    return model, materialize


def empty_denoiser(config: Mapping[str, Any], device: str | torch.device, dtype: torch.dtype) -> Denoiser:
    """A denoiser on the meta device from its configuration, in evaluation mode, with the types and memory layouts that
    it is to have on `device` when it is filled.

    Raises ModelError for classes that are not opened and configurations that make no model.
    """
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in DENOISERS:
        raise ModelError(f"The denoiser is a {name}; only {', '.join(DENOISERS)} are opened.")
    try:
        with torch.device("meta"):
            model: Denoiser = DENOISERS[name].from_config(dict(config))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise ModelError(f"The configuration makes no {name}: {short(error)}. Fetch the model again.") from error
    unsaved = {name for name, _ in model.named_buffers()} - model.state_dict().keys()
    if unsaved:
        raise ModelError(f"{min(unsaved)} is computed and in no file, so the model cannot be read layer by layer.")
    nn.Module.to(model, dtype)  # the method of diffusers warns of layers kept in float32, even where there are none
    return in_fast_layout(model.eval(), torch.device(device))


def fill(model: nn.Module, materialize: Materialize) -> None:
    """Fill all layers of a model."""
    for name, module in model.named_modules():
        materialize(name, module)


def counted(model: nn.Module, materialize: Materialize, what: str, on_progress: Progress) -> Materialize:
    """`materialize`, telling after each layer how many of the model's layers have been filled."""
    tensors = {name: (*m.parameters(recurse=False), *m.buffers(recurse=False)) for name, m in model.named_modules()}
    waiting = {name for name, own in tensors.items() if own}
    total = len(waiting)

    def count(name: str, module: nn.Module) -> None:
        materialize(name, module)
        if name in waiting:
            waiting.remove(name)
            on_progress(total - len(waiting), total, what)

    return count


# --- where the files are -----------------------------------------------------------------------


def denoiser_folder(source: str | Path) -> Path:
    """The local folder with a denoiser's config.json and weights; from a Hub id they are fetched.

    Raises ModelError when there is none.
    """
    part = denoiser_part(source)
    folder = Path(source)
    if not folder.is_dir():
        wanted = [f"{part}/config.json", f"{part}/{NAME}.safetensors*", f"{part}/{NAME}-*-of-*.safetensors"]
        try:
            folder = Path(snapshot_download(str(source), allow_patterns=wanted))
        except (OSError, ValueError, HTTPError) as error:
            raise ModelError(f"The weights of {source} cannot be fetched: {short(error)}") from error
    return folder / part if part else folder


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the denoiser in a folder. Raises ModelError when it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"No denoiser in {folder}: its config.json cannot be read, {short(error)}.") from error
    if not isinstance(config, dict):
        raise ModelError(f"The config.json in {folder} is no object: fetch the model again.")
    return config


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder: one, or the shards of its index; full precision before the fp16 variant.

    Raises ModelError when there are none, or the index names files that are not there.
    """
    for variant in VARIANTS:
        indices = (f"{NAME}.safetensors.index{variant}.json", f"{NAME}.safetensors{variant}.index.json")
        for index in (folder / name for name in indices):
            if index.exists():
                return _shards(index)
        if (single := folder / f"{NAME}{variant}.safetensors").exists():
            return (single,)
    raise ModelError(f"No weights in {folder}: only {NAME}.safetensors, whole or in shards, is read.")


def file_hashes(source: str | Path) -> dict[str, str]:
    """SHA-256 of every weight file of a denoiser, by file name."""
    hashes = {}
    for path in weight_files(denoiser_folder(source)):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        paths = tuple(index.parent / name for name in names if name == Path(name).name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is no index of shards: fetch the model again.") from error
    if not names or len(paths) < len(names) or not all(path.is_file() for path in paths):
        raise ModelError(f"{index} names files that are not beside it: fetch the model again.")
    return paths


# --- reading tensors ---------------------------------------------------------------------------


def _places(paths: tuple[Path, ...]) -> dict[str, Path]:
    """The file of each tensor. Raises ModelError for files that are no safetensors, or a tensor that is in two."""
    places: dict[str, Path] = {}
    for path in paths:
        with _opened(path) as file:
            names = set(file.keys())
        if twice := names & places.keys():
            raise ModelError(
                f"{min(twice)} is both in {path.name} and {places[min(twice)].name}: fetch the model again."
            )
        places |= dict.fromkeys(names, path)
    return places


def _check_complete(model: nn.Module, places: Mapping[str, Path], folder: Path) -> None:
    """Raise ModelError unless the files hold exactly the model's tensors, all floating and of its shapes."""
    wanted = model.state_dict()
    _complain("lacks", wanted.keys() - places.keys(), folder)
    _complain("has, and its configuration does not know,", places.keys() - wanted.keys(), folder)
    misshapen = []
    for path in sorted(set(places.values())):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 the handle is no mapping
                entry = file.get_slice(name)
                if entry.get_dtype() not in FLOATS or tuple(entry.get_shape()) != tuple(wanted[name].shape):
                    misshapen.append(name)
    _complain("has, but in another shape or type than its configuration says,", set(misshapen), folder)


def _complain(how: str, names: set[str], folder: Path) -> None:
    if names:
        listed = ", ".join(name[:100] for name in sorted(names)[:LISTED])
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise ModelError(f"The denoiser in {folder} {how} {listed}{more}. Fetch the model again.")


def _read(path: Path, name: str, empty: Tensor, device: torch.device) -> Tensor:
    """One tensor on `device`, in the type and memory layout that it has on the meta device."""
    out = torch.empty_like(empty, device=device)
    for place, block in _blocks(path, name, empty.shape):
        out[place].copy_(block)
    return out


def _blocks(path: Path, name: str, shape: torch.Size) -> Iterator[tuple[Any, Tensor]]:
    """A tensor of a file a few rows at a time; the file is mapped anew for each, so that no pages pile up."""
    flat = next((axis for axis, size in enumerate(shape) if size > 1), len(shape))
    if flat == len(shape):
        with _opened(path) as file:
            yield ..., file.get_tensor(name)
        return
    rows = max(1, BLOCK_ELEMENTS * shape[flat] // shape.numel())
    for start in range(0, shape[flat], rows):
        place = (*[0] * flat, slice(start, min(start + rows, shape[flat])))
        with _opened(path) as file:
            yield place, file.get_slice(name)[place]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file for as long as it is needed; its errors become ModelError."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {short(error)}. Fetch the model again.") from error
