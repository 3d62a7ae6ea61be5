"""Reads LoRA files in every naming that is read, as low-rank updates by layer. It puts them on nothing.

The namings are diffusers' three, PEFT's and kohya's; diffusers' own converters know them. The scale alpha / r, wherever
a file keeps it, is multiplied into B here, so that all that follows knows one form: dW = B A.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from personalq.diffusion.branch import Branch
from personalq.diffusion.load import short
from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.records import Checkpoint

FOREIGN = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError, OSError)
"""What diffusers raises for files that do not fit; it promises no narrower type."""

PAIR = re.compile(r"[._]lora(?:_linear_layer)?[._](A|B|down|up)\.weight$")
"""The matrices of a LoRA layer, y = Wx + (alpha / r) B A x, in every naming that is read."""

HEADER = "lora_adapter_metadata"
"""The key of a safetensors header under which diffusers keeps PEFT's settings."""

PLAIN = re.compile(r"\^?[\w.]+")
"""A layer name, the only kind of pattern that is followed in settings that a file brings along."""


def weights_file(checkpoint: Checkpoint) -> Path:
    """The safetensors file of a checkpoint. Raises ModelError for pickles, missing files and folders without one."""
    if not checkpoint.loadable or not checkpoint.files or not Path(checkpoint.files[0]).exists():
        raise ModelError(
            f"{checkpoint.id} has no weights that may be loaded. Only safetensors files are, never pickles."
        )
    path = Path(checkpoint.files[0])
    if path.is_dir():
        inside = sorted(path.glob("*.safetensors"))
        if len(inside) != 1:
            raise ModelError(f"{checkpoint.id}: {path} must hold exactly one .safetensors file, not {len(inside)}.")
        path = inside[0]
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{checkpoint.id} is stored as {path.suffix or 'a file of no type'}; convert it to safetensors."
        )
    return path


def tensors(path: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Everything in a safetensors file. Raises ModelError when it is none."""
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{checkpoint.id}: {path.name} is not a safetensors file: {short(error)}") from error
    return state


def identity(checkpoint: Checkpoint) -> tuple[object, ...]:
    """What changes when a checkpoint's file, or the settings beside it, are replaced: paths, sizes, times."""
    path = weights_file(checkpoint)
    files = [file for file in (path, path.with_name("adapter_config.json")) if file.exists()]
    return tuple((str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files)


def read_lora(pipe: Any, checkpoint: Checkpoint) -> dict[str, Branch]:
    """The branches of a LoRA file by layer: "unet.mid_block...", "text_encoder.encoder...", as `pipe` names them.

    Raises IncompatibleCheckpointError for what is no plain LoRA or has layers that no naming knows, and ModelError for
    damaged files: NaN, rank zero, half a pair. Whether the layers exist in the base is not looked at.
    """
    path = weights_file(checkpoint)
    state = tensors(path, checkpoint)
    strange = [key for key in state if not PAIR.search(key) and not key.endswith(".alpha")]
    wanted = Counter(PAIR.sub("", key) for key in state if PAIR.search(key))
    if strange or not wanted:
        raise IncompatibleCheckpointError(
            f"{called(checkpoint)} is not a plain LoRA: {(strange or ['nothing'])[0]!r} in it cannot be applied to "
            f"{base_name(pipe)}. Save it as a LoRA of down and up matrices."
        )
    for layer, matrices in wanted.items():
        if matrices != 2:
            raise ModelError(f"{called(checkpoint)} is damaged: {layer} has half a pair of matrices. Fetch it anew.")
    if any(key.startswith("base_model.model.") for key in state):
        denoiser = parts(pipe)[0]
        settings = _settings_beside(path, denoiser, checkpoint)
        state = {f"{denoiser}." + key.removeprefix("base_model.model."): value for key, value in state.items()}
    else:
        settings = _settings_within(path, checkpoint)
    try:
        named = _renamed(pipe, _alphas_folded(state))
    except FOREIGN as error:
        raise unfit(pipe, checkpoint, f"{short(error)}.") from error
    branches = _paired(named, settings, checkpoint)
    if len(branches) < len(wanted):
        raise unfit(pipe, checkpoint, f"{len(branches)} of its {len(wanted)} LoRA layers found a place.")
    return branches


def unfit(pipe: Any, checkpoint: Checkpoint, why: str) -> IncompatibleCheckpointError:
    """The error that says which checkpoint does not fit which base, and what to do."""
    said = f"{called(checkpoint)} does not fit the base {base_name(pipe)}: {why} Choose the base it was made for."
    return IncompatibleCheckpointError(said)


def called(checkpoint: Checkpoint) -> str:
    """A checkpoint in words, with the base it was made for."""
    return f"{checkpoint.name or checkpoint.id} (made for {checkpoint.base or 'an unknown base'})"


def base_name(pipe: Any) -> str:
    """The folder name or class of a base."""
    return Path(str(pipe.config.get("_name_or_path") or type(pipe).__name__)).name


def parts(pipe: Any) -> list[str]:
    """The names of a pipeline's models that take LoRAs, the denoiser first."""
    return [name for name in pipe._lora_loadable_modules if isinstance(getattr(pipe, name, None), nn.Module)]


def _alphas_folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """kohya's `<layer>.alpha` multiplied into the layer's B as alpha / r, in fp32; what is left are A and B."""
    folded = {}
    for key, value in state.items():
        match = PAIR.search(key)
        alpha = state.get(key[: match.start()] + ".alpha") if match and match[1] in ("B", "up") else None
        if match:
            folded[key] = value if alpha is None else value.float() * (alpha.item() / max(1, value.shape[1]))
    return folded


def _renamed(pipe: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The matrices as `<part>.<layer>.lora_A.weight` and `...lora_B.weight`, in the pipeline's own layer names."""
    options = {"unet_config": pipe.unet.config} if "unet" in parts(pipe) else {}
    converted = pipe.lora_state_dict(state, **options)
    named = converted[0] if isinstance(converted, tuple) else converted
    renamed: dict[str, Tensor] = {}
    for part in {key.split(".")[0] for key in named}:
        inside = {key.removeprefix(f"{part}."): value for key, value in named.items() if key.startswith(f"{part}.")}
        text = part.startswith("text_encoder")
        if not text:
            inside = convert_unet_state_dict_to_peft(inside)
        elif not all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in inside):
            inside = convert_state_dict_to_peft(convert_state_dict_to_diffusers(inside))
        if text and not hasattr(getattr(pipe, part, None), "text_model"):  # flat in newer transformers
            inside = {key.removeprefix("text_model."): value for key, value in inside.items()}
        renamed |= {f"{part}.{key}": value for key, value in inside.items()}
    return renamed


def _paired(named: Mapping[str, Tensor], settings: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Branch]:
    """Both matrices of every layer, checked, with the scale of the file's settings in B."""
    branches = {}
    for key, down in named.items():
        layer = key.removesuffix(".lora_A.weight")
        if layer == key:
            continue
        up = named.get(f"{layer}.lora_B.weight")
        if up is None or down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != down.shape[0]:
            raise ModelError(
                f"{called(checkpoint)} is damaged: the matrices of {layer} do not make a pair. Fetch it anew."
            )
        if not down.shape[0]:
            raise ModelError(f"{called(checkpoint)} has an update of rank 0 at {layer}. Train it with rank 1 or more.")
        scale = _scale(settings, layer, down.shape[0], checkpoint)
        branch = Branch(down, up if scale == 1 else up.float() * scale)
        if not bool(torch.isfinite(branch.down).all() & torch.isfinite(branch.up).all()):
            raise ModelError(
                f"{called(checkpoint)} has NaN or infinite values at {layer}: it is damaged. Fetch it anew."
            )
        branches[layer] = branch
    return branches


def _scale(settings: Mapping[str, Any], name: str, rank: int, checkpoint: Checkpoint) -> float:
    """alpha / r of one layer by PEFT's settings, or alpha / sqrt(r) where they ask for it; 1 without settings."""
    part, _, layer = name.partition(".")
    alpha, patterns = settings.get(f"{part}.lora_alpha", rank), settings.get(f"{part}.alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(PLAIN.fullmatch(pattern) for pattern in patterns):
        raise ModelError(f"{called(checkpoint)} sets alpha by {patterns!r:.80}; only names of layers are followed.")
    for pattern, own in patterns.items():
        if f".{layer}".endswith("." + pattern.removeprefix("^")):
            alpha = own
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ModelError(f"{called(checkpoint)} gives {alpha!r:.80} as its alpha: correct its settings to a number.")
    return alpha / (math.sqrt(rank) if settings.get(f"{part}.use_rslora") else rank)


def _settings_beside(path: Path, part: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """PEFT's adapter_config.json for a model part; empty where there is none."""
    config = path.with_name("adapter_config.json")
    read = _parsed(config.read_bytes(), config.name, checkpoint) if config.exists() else {}
    return {f"{part}.{key}": value for key, value in read.items()}


def _settings_within(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings that diffusers writes into a file's header, "<part>.<setting>"; empty where it did not."""
    with safe_open(path, "pt") as file:
        header = (file.metadata() or {}).get(HEADER)
    return _parsed(header, "header", checkpoint) if header else {}


def _parsed(text: str | bytes, where: str, checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{called(checkpoint)}: its {where} is not JSON: {short(error)}") from error
    if not isinstance(read, dict):
        raise ModelError(f"{called(checkpoint)}: its {where} holds no settings. Remove it, or write it anew.")
    return read
