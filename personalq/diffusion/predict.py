"""One call of a denoiser of any family: latents in, its prediction out. Knows no steps, previews or number formats.

A UNet predicts noise or v; SD3 and FLUX predict the velocity of a straight path from the picture to the noise
(rectified flow, arXiv 2403.03206). Latents keep their [1, C, h, w] between calls, also where a model reads patches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from personalq.diffusion.load import Pipeline
from personalq.diffusion.text import TextEmbeddings

Predict: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Latents [1, C, h, w] and a timestep [] to the prediction for every row of the text, [B, C, h, w] in float32."""

PATCH = 2
"""FLUX reads latents in patches of two by two."""


def predictor(pipe: Pipeline, text: TextEmbeddings, noise: Tensor, guidance: float) -> Predict:
    """The denoiser of `pipe` as a function, for this text and for latents of the size of `noise`.

    `guidance` is told to models that were distilled to follow it (FLUX.1-dev); others ignore it here.
    """
    if isinstance(pipe, FluxPipeline):
        return _flux(pipe, text, noise, guidance)
    return _sd3(pipe, text) if isinstance(pipe, StableDiffusion3Pipeline) else _unet(pipe, text, noise)


def _unet(pipe: Pipeline, text: TextEmbeddings, noise: Tensor) -> Predict:
    added = added_conditions(pipe, text, noise)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        x_in = pipe.scheduler.scale_model_input(torch.cat([x] * len(text.embeds)), t).to(text.embeds.dtype)
        out: Tensor = pipe.unet(x_in, t, encoder_hidden_states=text.embeds, added_cond_kwargs=added, return_dict=False)[
            0
        ]
        return out.float()

    return predict


def _sd3(pipe: Pipeline, text: TextEmbeddings) -> Predict:
    rows = len(text.embeds)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = pipe.transformer(
            x.expand(rows, -1, -1, -1).to(text.embeds.dtype),
            timestep=t.expand(rows),
            encoder_hidden_states=text.embeds,
            pooled_projections=text.pooled,
            return_dict=False,
        )[0]
        return out.float()

    return predict


def _flux(pipe: Pipeline, text: TextEmbeddings, noise: Tensor, guidance: float) -> Predict:
    height, width = (side // PATCH for side in noise.shape[-2:])
    embeds = text.embeds
    places = patch_places(height, width).to(embeds)
    told = torch.tensor([guidance], device=embeds.device) if pipe.transformer.config.guidance_embeds else None

    def predict(x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = pipe.transformer(
            packed(x).to(embeds.dtype),
            timestep=t.expand(1) / 1000,
            guidance=told,
            encoder_hidden_states=embeds,
            pooled_projections=text.pooled,
            txt_ids=embeds.new_zeros(embeds.shape[1], 3),
            img_ids=places,
            return_dict=False,
        )[0]
        return unpacked(out.float(), height, width)

    return predict


def added_conditions(pipe: Pipeline, text: TextEmbeddings, noise: Tensor) -> dict[str, Tensor] | None:
    """SDXL's extra conditions: the pooled text [B, P] and the sizes [B, 6] (original, crop corner, target)."""
    if not isinstance(pipe, StableDiffusionXLPipeline) or text.pooled is None:
        return None
    height, width = (side * pipe.vae_scale_factor for side in noise.shape[-2:])
    sizes = text.embeds.new_tensor([height, width, 0, 0, height, width])
    return {"text_embeds": text.pooled, "time_ids": sizes.expand(len(text.embeds), -1)}


def packed(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] as a sequence of patches [B, h/2 * w/2, 4C]."""
    return pixel_unshuffle(latents, PATCH).flatten(2).mT


def unpacked(patches: Tensor, height: int, width: int) -> Tensor:
    """`packed` undone, for `height` x `width` patches."""
    return pixel_shuffle(patches.mT.reshape(len(patches), -1, height, width), PATCH)


def patch_places(height: int, width: int) -> Tensor:
    """Row and column of every patch, as FLUX's rotary embedding reads them: [h * w, 3], the first number is zero."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)


def set_timesteps(pipe: Pipeline, steps: int, noise: Tensor) -> None:
    """Put the schedule at `steps` steps; flow matching shifts it by the number of patches where it is told to.

    The shift mu is a straight line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift).
    """
    scheduler, options = pipe.scheduler, {}
    config, accepted = scheduler.config, inspect.signature(scheduler.set_timesteps).parameters
    if config.get("use_dynamic_shifting") and "mu" in accepted:
        patches = noise.shape[-2] * noise.shape[-1] // PATCH**2
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        options["mu"] = low + (high - low) * (patches - few) / (many - few)
    if isinstance(pipe, FluxPipeline) and "sigmas" in accepted and not config.get("use_flow_sigmas"):
        options["sigmas"] = [1 - i / steps for i in range(steps)]
    scheduler.set_timesteps(steps, device=pipe.text_encoder.device, **options)


def estimate(scheduler: Any, out: Any, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
    """The finished latents as one step sees them: the schedule's own guess, x - sigma v in flow matching, else its x.

    `out` is what the step returned for the latents `x`, the prediction and the timestep `t`.
    """
    own: Tensor | None = getattr(out, "pred_original_sample", None)
    if own is None and isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        own = x - t / scheduler.config.num_train_timesteps * prediction
    after: Tensor = out.prev_sample
    return after if own is None else own
