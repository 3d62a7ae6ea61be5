"""Denoises one picture as a generator that yields every step. Knows no number formats and no checkpoints.

Closing the generator stops it: nothing runs between two steps but the caller.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from torch import Tensor

from personalq.diffusion.load import Pipeline, denoiser
from personalq.diffusion.predict import PATCH, estimate, predictor, set_timesteps
from personalq.diffusion.preview import decode, preview
from personalq.diffusion.text import TextEmbeddings
from personalq.errors import GenerationError
from personalq.records import Frame, Job, Precision

EVERY = 3
"""A preview every third step, and none in the last three."""

FLUX_SIDE = 128
"""FLUX was trained on many sizes and names none of its own: 128 latents, 1024 pixels, as diffusers has it."""


def picture_size(pipe: Pipeline, job: Job) -> tuple[int, int]:
    """Width and height in pixels: the job's, or the base's own. GenerationError for a size it cannot make."""
    flux, config, patch, most = isinstance(pipe, FluxPipeline), denoiser(pipe).config, 1, None
    own = FLUX_SIDE if flux else config.sample_size
    if flux:
        patch = PATCH
    elif isinstance(pipe, StableDiffusion3Pipeline):
        patch, most = config.patch_size, config.pos_embed_max_size
    unit = pipe.vae_scale_factor * patch
    tall, wide = (side * pipe.vae_scale_factor for side in ((own, own) if isinstance(own, int) else own))
    width, height = job.width or wide, job.height or tall
    if min(width, height) <= 0 or width % unit or height % unit or (most and max(width, height) > most * unit):
        limit = f" up to {most * unit}" if most else ""
        raise GenerationError(
            f"{width} x {height} pixels cannot be made: choose multiples of {unit}{limit}, such as {wide} x {tall}."
        )
    return width, height


def initial_noise(pipe: Pipeline, job: Job, index: int = 0) -> tuple[Tensor, torch.Generator]:
    """Standard normal noise [1, C, h, w] of picture `index` of a job, and the generator that drew it.

    Drawn on the CPU in float32 from seed + index, so it is the same on every device and at every precision.
    """
    width, height = picture_size(pipe, job)
    generator = torch.Generator("cpu").manual_seed(job.seed + index)
    factor, channels = pipe.vae_scale_factor, denoiser(pipe).config.in_channels
    if isinstance(pipe, FluxPipeline):
        channels //= PATCH**2  # it counts those of a patch
    return torch.randn((1, channels, height // factor, width // factor), generator=generator), generator


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

    Classifier-free guidance, y = y_u + guidance * (y_c - y_u) (Ho and Salimans, 2022), off at guidance <= 1 and for
    models of distilled guidance. Latents stay in float32 between steps; the denoiser works in the dtype of the text
    embeddings. The last frame has step == total and the decoded picture. Raises GenerationError when memory runs out
    or numbers overflow.
    """
    text = text.rows(job.guidance > 1)
    scheduler, device = pipe.scheduler, text.embeds.device
    if job.steps < 1:
        raise GenerationError(f"{job.steps} steps cannot be made: choose at least 1.")
    set_timesteps(pipe, job.steps, noise)
    predict = predictor(pipe, text, noise, job.guidance)
    options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    x = noise.to(device) * getattr(scheduler, "init_noise_sigma", 1.0)
    total = len(scheduler.timesteps)
    with memory_advice("{} x {} pixels".format(*picture_size(pipe, job))):
        for i, t in enumerate(scheduler.timesteps, start=1):
            y = predict(x, t)
            if len(y) == 2:
                y_u, y_c = y.chunk(2)
                y = y_u + job.guidance * (y_c - y_u)
            before, out = x, scheduler.step(y, t, x, **options)
            x = out.prev_sample
            if not bool(torch.isfinite(x).all()):
                raise GenerationError(
                    f"Step {i} gave numbers that are not finite. Lower the guidance or change the seed."
                )
            if i < total:
                shown = previews and i % EVERY == 1 and i <= total - EVERY
                picture = preview(pipe, estimate(scheduler, out, before, y, t)) if shown else None
                yield Frame(variant, i, total, picture)
        yield Frame(variant, total, total, decode(pipe, x))


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
