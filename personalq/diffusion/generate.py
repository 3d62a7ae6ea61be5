"""Denoises one picture as a generator that yields every step. Knows no number formats and no checkpoints.

Closing the generator stops it: nothing runs between two steps but the caller.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from personalq.diffusion.load import Pipeline
from personalq.diffusion.preview import decode, preview
from personalq.diffusion.text import TextEmbeddings
from personalq.errors import GenerationError
from personalq.records import Frame, Job, Precision

EVERY = 3
"""A preview every third step, and none in the last three."""


def picture_size(pipe: Pipeline, job: Job) -> tuple[int, int]:
    """Width and height in pixels: the job's, or the base's own. GenerationError for a size it cannot make."""
    own = pipe.unet.config.sample_size
    tall, wide = (own, own) if isinstance(own, int) else own
    width = job.width or wide * pipe.vae_scale_factor
    height = job.height or tall * pipe.vae_scale_factor
    if min(width, height) <= 0 or width % pipe.vae_scale_factor or height % pipe.vae_scale_factor:
        raise GenerationError(
            f"{width} x {height} pixels cannot be made: choose multiples of {pipe.vae_scale_factor}, "
            f"such as {wide * pipe.vae_scale_factor} x {tall * pipe.vae_scale_factor}."
        )
    return width, height


def initial_noise(pipe: Pipeline, job: Job, index: int = 0) -> tuple[Tensor, torch.Generator]:
    """Standard normal noise [1, C, h, w] of picture `index` of a job, and the generator that drew it.

    Drawn on the CPU in float32 from seed + index, so it is the same on every device and at every precision.
    """
    width, height = picture_size(pipe, job)
    generator = torch.Generator("cpu").manual_seed(job.seed + index)
    factor = pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, height // factor, width // factor)
    return torch.randn(shape, generator=generator), generator


@torch.no_grad()
def denoise(
    pipe: Pipeline,
    text: TextEmbeddings,
    noise: Tensor,
    job: Job,
    variant: Precision,
    generator: torch.Generator | None = None,
    previews: bool = True,
) -> Generator[Frame, None, None]:
    """Denoise one picture from `noise` [1, C, h, w] of unit variance, yielding a frame per step.

    Classifier-free guidance, eps = eps_u + guidance * (eps_c - eps_u) (Ho and Salimans, 2022), off at guidance <= 1.
    Latents stay in float32 between steps; the denoiser works in the dtype of the text embeddings. The last frame
    has step == total and the decoded picture. Raises GenerationError when memory runs out or numbers overflow.
    """
    guided = job.guidance > 1
    text = text.rows(guided)
    scheduler, device = pipe.scheduler, text.embeds.device
    if job.steps < 1:
        raise GenerationError(f"{job.steps} steps cannot be made: choose at least 1.")
    scheduler.set_timesteps(job.steps, device=device)
    added = added_conditions(pipe, text, noise)
    options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    x = noise.to(device) * scheduler.init_noise_sigma
    total = len(scheduler.timesteps)
    with memory_advice("{} x {} pixels".format(*picture_size(pipe, job))):
        for i, t in enumerate(scheduler.timesteps, start=1):
            x_in = scheduler.scale_model_input(torch.cat([x] * len(text.embeds)), t).to(text.embeds.dtype)
            eps = pipe.unet(x_in, t, encoder_hidden_states=text.embeds, added_cond_kwargs=added, return_dict=False)[
                0
            ].float()
            if guided:
                eps_u, eps_c = eps.chunk(2)
                eps = eps_u + job.guidance * (eps_c - eps_u)
            out = scheduler.step(eps, t, x, **options)
            x = out.prev_sample
            if not bool(torch.isfinite(x).all()):
                raise GenerationError(
                    f"Step {i} gave numbers that are not finite. Lower the guidance or change the seed."
                )
            if i < total:
                shown = previews and i % EVERY == 1 and i <= total - EVERY
                x0 = getattr(out, "pred_original_sample", None)
                yield Frame(variant, i, total, preview(pipe, x if x0 is None else x0) if shown else None)
        picture = decode(pipe, x)
        yield Frame(variant, total, total, picture)


def added_conditions(pipe: Pipeline, text: TextEmbeddings, noise: Tensor) -> dict[str, Tensor] | None:
    """SDXL's extra conditions: the pooled text [B, P] and the sizes [B, 6] (original, crop corner, target)."""
    if not isinstance(pipe, StableDiffusionXLPipeline) or text.pooled is None:
        return None
    height, width = (side * pipe.vae_scale_factor for side in noise.shape[-2:])
    sizes = text.embeds.new_tensor([height, width, 0, 0, height, width])
    return {"text_embeds": text.pooled, "time_ids": sizes.expand(len(text.embeds), -1)}


@contextmanager
def memory_advice(doing: str) -> Iterator[None]:
    """Turn running out of memory, on the GPU or the host, into a GenerationError that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        said = str(error).lower()
        ran_out = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in said
        if not ran_out and "not enough memory" not in said:
            raise
        raise GenerationError(
            f"Out of memory at {doing}. Choose a smaller size or a lower precision, then try again."
        ) from error
