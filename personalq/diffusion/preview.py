"""Latents to pictures: the final decode, and small fast previews. Knows no schedule."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import interpolate

from personalq.diffusion.load import Pipeline

PREVIEW = 16
"""The longest side of a preview in latents: 128 pixels with a factor of 8, a sixteenth of the work at 512."""


@torch.no_grad()
def decode(pipe: Pipeline, latents: Tensor) -> Image:
    """The picture of one latent [1, C, h, w], at full size."""
    vae = pipe.vae
    upcast = vae.dtype == torch.float16 and bool(vae.config.force_upcast)  # SDXL's autoencoder overflows in fp16
    try:
        if upcast:
            vae.to(torch.float32)
        pixels = vae.decode(unscaled(vae, latents).to(vae.dtype), return_dict=False)[0]
    finally:
        if upcast:
            vae.to(torch.float16)
    picture: Image = pipe.image_processor.postprocess(pixels.float(), output_type="pil")[0]
    return picture


def preview(pipe: Pipeline, latents: Tensor) -> Image:
    """A small picture of one latent [1, C, h, w]: averaged to at most 16 on the longest side, then decoded."""
    height, width = latents.shape[-2:]
    shrink = max(height, width) / PREVIEW
    if shrink > 1:
        size = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        latents = interpolate(latents, size=size, mode="area")
    return decode(pipe, latents)


def unscaled(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents as the autoencoder made them: the denoiser's with its scaling and shift, mean and deviation undone."""
    config = vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    latents = latents / config.scaling_factor + (config.get("shift_factor") or 0.0)
    if mean is None or deviation is None:
        return latents
    shape = (1, -1, 1, 1)
    return latents * latents.new_tensor(deviation).view(shape) + latents.new_tensor(mean).view(shape)
