"""Opens base models and denoisers from diffusers folders or Hub ids. Knows nothing of quantising or residence.

Only Stable Diffusion 1.x/2.x/3.x, SDXL and FLUX pipelines are opened, only from safetensors, and never with code of
their own. Their denoiser is a UNet or a transformer: `denoiser` and `set_denoiser` say where it sits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.records import Checkpoint

Pipeline: TypeAlias = StableDiffusionPipeline | StableDiffusionXLPipeline | StableDiffusion3Pipeline | FluxPipeline
Denoiser: TypeAlias = UNet2DConditionModel | SD3Transformer2DModel | FluxTransformer2DModel


@dataclass(frozen=True)
class Family:
    """How the pipelines of one architecture are opened: `part` is their denoiser's name, in the folder and in them."""

    pipeline: Any
    denoiser: Any
    part: str
    without: dict[str, Any] = field(default_factory=dict)
    """Parts that pictures are made without."""
    dtype: torch.dtype = torch.float16
    """What it is computed in on CUDA."""


NO_IMAGE_PROMPT = {"image_encoder": None, "feature_extractor": None}
NO_SAFETY_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
FAMILIES = {
    family.pipeline.__name__: family
    for family in (
        Family(StableDiffusionPipeline, UNet2DConditionModel, "unet", NO_SAFETY_CHECKER),
        Family(StableDiffusionXLPipeline, UNet2DConditionModel, "unet", {"add_watermarker": False}),
        Family(StableDiffusion3Pipeline, SD3Transformer2DModel, "transformer", NO_IMAGE_PROMPT),
        Family(FluxPipeline, FluxTransformer2DModel, "transformer", NO_IMAGE_PROMPT, torch.bfloat16),  # fp16 overflows
    )
}
DENOISERS = {family.denoiser.__name__: family.denoiser for family in FAMILIES.values()}
PARTS = ("unet", "transformer")
FITTING = (
    *("in_channels", "out_channels", "cross_attention_dim", "addition_embed_type"),
    *("joint_attention_dim", "pooled_projection_dim", "caption_projection_dim"),
)
"""What a replacement denoiser must have in common with the one it replaces."""


def denoiser(pipe: Pipeline) -> Any:
    """The denoiser of a pipeline, its `unet` or its `transformer`; None where it was opened without."""
    return getattr(pipe, FAMILIES[type(pipe).__name__].part)


def set_denoiser(pipe: Pipeline, model: Denoiser | None) -> None:
    """Put a denoiser where the pipeline has its own, or take that away."""
    setattr(pipe, FAMILIES[type(pipe).__name__].part, model)


def load_base(
    source: str | Path, device: str | torch.device, dtype: torch.dtype, *, with_denoiser: bool = True
) -> Pipeline:
    """Open a base model: a diffusers folder, or a Hub id such as "owner/name".

    Without the denoiser (`with_denoiser=False`) its place in the pipeline is None. Raises ModelError for anything
    that is not one of our families stored as safetensors.
    """
    family = FAMILIES[pipeline_class(source)]
    options = family.without if with_denoiser else {**family.without, family.part: None}
    variant = variant_of(Path(source) / family.part)
    try:
        pipe: Pipeline = family.pipeline.from_pretrained(
            str(source), dtype=dtype, use_safetensors=True, variant=variant, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"The base model at {source} cannot be loaded: {short(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    pipe = pipe.to(device)
    if with_denoiser:
        set_denoiser(pipe, in_fast_layout(denoiser(pipe), torch.device(device)))
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
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"{source} is a {name}; only {', '.join(FAMILIES)} can be used as a base.")
    return name


def load_denoiser(source: str | Path, device: str | torch.device, dtype: torch.dtype) -> Denoiser:
    """Open the denoiser alone: of a base model (its `unet` or `transformer` part), or a folder that is itself one.

    Raises ModelError when there is none, it is of another kind, or it is not safetensors.
    """
    part = denoiser_part(source)
    try:
        name = UNet2DConditionModel.load_config(str(source), subfolder=part).get("_class_name", "")
    except (OSError, ValueError) as error:
        raise ModelError(f"No denoiser at {source}: {short(error)}") from error
    if name not in DENOISERS:
        raise ModelError(f"The denoiser at {source} is a {name}; only {', '.join(DENOISERS)} are opened.")
    variant = variant_of(Path(source) / part if part else Path(source))
    try:
        model = DENOISERS[name].from_pretrained(
            str(source), subfolder=part, dtype=dtype, use_safetensors=True, variant=variant
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"The denoiser at {source} cannot be loaded as safetensors: {short(error)}") from error
    return in_fast_layout(model.to(device).eval(), torch.device(device))


def default_dtype(source: str | Path, device: str | torch.device) -> torch.dtype:
    """What a base model is computed in: bfloat16 on the CPU, on CUDA what its family was trained for.

    Raises ModelError, on CUDA, when there is no model at `source`.
    """
    return torch.bfloat16 if torch.device(device).type == "cpu" else FAMILIES[pipeline_class(source)].dtype


def denoiser_part(source: str | Path) -> str | None:
    """The sub-folder of a model that holds its denoiser; None for a folder that is a denoiser itself.

    Raises ModelError when there is no model at `source`.
    """
    folder = Path(source)
    for part in PARTS:
        if (folder / part).is_dir():
            return part
    if (folder / "config.json").exists():
        return None
    return FAMILIES[pipeline_class(source)].part


def dreambooth_folder(checkpoint: Checkpoint) -> Path:
    """The folder that holds the denoiser of a DreamBooth checkpoint, itself a denoiser or a complete pipeline.

    Raises ModelError when the checkpoint is a single file or a pickle: those are listed, not loaded.
    """
    if not checkpoint.loadable or not checkpoint.files:
        raise ModelError(f"{checkpoint.id} holds no safetensors weights; only those are loaded.")
    first = Path(checkpoint.files[0])
    if not first.is_dir() and not first.name.startswith("diffusion_pytorch_model"):
        raise ModelError(f"{checkpoint.id} is a single file. Convert it to a diffusers folder.")
    folder = first if first.is_dir() else first.parent
    inside = any((folder / part).is_dir() for part in PARTS)
    if not inside and (folder.parent / "model_index.json").exists():
        return folder.parent
    return folder


def check_denoiser_fits(model: Denoiser, base: str | Path, checkpoint: Checkpoint) -> None:
    """Raise IncompatibleCheckpointError unless a replacement denoiser reads and writes what the base's does."""
    part = denoiser_part(base)
    path = Path(base) / (part or "") / "config.json"
    wanted = json.loads(path.read_text()) if path.exists() else UNet2DConditionModel.load_config(base, subfolder=part)
    facts = {**model.config, "_class_name": type(model).__name__}
    for key in ("_class_name", *FITTING):
        ours, theirs = wanted.get(key), facts.get(key)
        if key in wanted and ours != theirs:
            raise IncompatibleCheckpointError(
                f"{checkpoint.name or checkpoint.id} does not fit the base {base}: its denoiser has {key} {theirs}, "
                f"the base has {ours}. Choose the base it was trained on."
            )


def variant_of(folder: Path) -> str | None:
    """ "fp16" when a local folder holds its weights under that variant name only, else None."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return "fp16" if names and all(".fp16." in name for name in names) else None


def in_fast_layout(model: Denoiser, device: torch.device) -> Denoiser:
    """Convolution weights channels-last on the CPU, where it is faster; unchanged elsewhere."""
    return model.to(memory_format=torch.channels_last) if device.type == "cpu" else model


def short(error: BaseException) -> str:
    """The first line of a foreign error, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
