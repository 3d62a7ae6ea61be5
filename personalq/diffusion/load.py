"""Opens base models and denoisers from diffusers folders or Hub ids. Knows nothing of quantising or residence.

Only Stable Diffusion 1.x/2.x and SDXL pipelines are opened, only from safetensors, and never with code of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel

from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.records import Checkpoint

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline
CLASSES: dict[str, Any] = {
    "StableDiffusionPipeline": StableDiffusionPipeline,
    "StableDiffusionXLPipeline": StableDiffusionXLPipeline,
}
WITHOUT: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    "StableDiffusionXLPipeline": {"add_watermarker": False},
}


def load_base(
    source: str | Path, device: str | torch.device, dtype: torch.dtype, *, with_unet: bool = True
) -> Pipeline:
    """Open a base model: a diffusers folder, or a Hub id such as "owner/name".

    Without the denoiser (`with_unet=False`) `pipe.unet` is None. Raises ModelError for anything that is not a
    Stable Diffusion or SDXL pipeline stored as safetensors.
    """
    name = pipeline_class(source)
    options = dict(WITHOUT[name]) if with_unet else {**WITHOUT[name], "unet": None}
    try:
        pipe: Pipeline = CLASSES[name].from_pretrained(
            str(source), dtype=dtype, use_safetensors=True, variant=variant_of(Path(source) / "unet"), **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"The base model at {source} cannot be loaded: {short(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(device)
    if with_unet:
        pipe.unet = in_fast_layout(pipe.unet, torch.device(device))
    return pipe


def pipeline_class(source: str | Path) -> str:
    """The pipeline class a folder or Hub id names in its model_index.json; ModelError if it is not one of ours."""
    try:
        config = StableDiffusionPipeline.load_config(str(source))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"No diffusers model at {source}: give a folder with a model_index.json, or a Hub id. {short(error)}"
        ) from error
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in CLASSES:
        raise ModelError(f"{source} is a {name}; only {' and '.join(CLASSES)} can be used as a base.")
    return name


def load_unet(source: str | Path, device: str | torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """Open the denoiser alone: of a base model (its `unet` part), or a folder that is itself a UNet.

    Raises ModelError when there is none, or it is not safetensors.
    """
    folder = Path(source)
    alone = (folder / "config.json").exists() and not (folder / "unet").is_dir()
    try:
        unet = UNet2DConditionModel.from_pretrained(
            str(source),
            subfolder=None if alone else "unet",
            dtype=dtype,
            use_safetensors=True,
            variant=variant_of(folder if alone else folder / "unet"),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"The UNet at {source} cannot be loaded as safetensors: {short(error)}") from error
    return in_fast_layout(unet.to(device).eval(), torch.device(device))


def dreambooth_folder(checkpoint: Checkpoint) -> Path:
    """The folder that holds the UNet of a DreamBooth checkpoint, itself a UNet or a complete pipeline.

    Raises ModelError when the checkpoint is a single file or a pickle: those are listed, not loaded.
    """
    if not checkpoint.loadable or not checkpoint.files:
        raise ModelError(f"{checkpoint.id} holds no safetensors weights; only those are loaded.")
    first = Path(checkpoint.files[0])
    if not first.is_dir() and not first.name.startswith("diffusion_pytorch_model"):
        raise ModelError(f"{checkpoint.id} is a single file. Convert it to a diffusers folder with a `unet` part.")
    folder = first if first.is_dir() else first.parent
    if not (folder / "unet").is_dir() and (folder.parent / "model_index.json").exists():
        return folder.parent
    return folder


def check_unet_fits(unet: UNet2DConditionModel, base: str | Path, checkpoint: Checkpoint) -> None:
    """Raise IncompatibleCheckpointError unless a replacement UNet reads and writes what the base's UNet does."""
    path = Path(base) / "unet" / "config.json"
    wanted = json.loads(path.read_text()) if path.exists() else UNet2DConditionModel.load_config(base, subfolder="unet")
    for key in ("in_channels", "out_channels", "cross_attention_dim", "addition_embed_type"):
        ours, theirs = wanted.get(key), unet.config.get(key)
        if key in wanted and ours != theirs:
            raise IncompatibleCheckpointError(
                f"{checkpoint.name or checkpoint.id} does not fit the base {base}: its UNet has {key} {theirs}, "
                f"the base has {ours}. Choose the base it was trained on."
            )


def variant_of(folder: Path) -> str | None:
    """ "fp16" when a local folder holds its weights under that variant name only, else None."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return "fp16" if names and all(".fp16." in name for name in names) else None


def in_fast_layout(unet: UNet2DConditionModel, device: torch.device) -> UNet2DConditionModel:
    """Convolution weights channels-last on the CPU, where it is faster; unchanged elsewhere."""
    return unet.to(memory_format=torch.channels_last) if device.type == "cpu" else unet


def short(error: BaseException) -> str:
    """The first line of a foreign error, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
