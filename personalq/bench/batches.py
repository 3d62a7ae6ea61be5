"""Makes all pictures of one job in one denoiser call a step. It judges nothing and knows no rows of a table.

The pictures are those that `compare.generate` makes one after the other: the noise of each is its own, activations
are scaled by token and by sample, and keys and values are packed for each sample. In bfloat16 on the CPU they are
equal bit for bit. In float32 the sums of a larger batch may differ in the last place; a code that is then rounded the
other way moves a quantised picture about as far as its quantisation does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from diffusers import UNet2DConditionModel
from PIL.Image import Image
from torch import Tensor

from personalq.backend.compare import marked
from personalq.backend.engine import Session
from personalq.diffusion.attention import prompt_attention
from personalq.diffusion.generate import initial_noise
from personalq.diffusion.load import Pipeline, denoiser
from personalq.diffusion.predict import added_conditions
from personalq.diffusion.preview import decode
from personalq.diffusion.text import TextEmbeddings
from personalq.errors import BenchError, GenerationError
from personalq.records import Job


@dataclass(frozen=True)
class Batch:
    """The pictures of a job, in the order of their seeds."""

    images: list[Image]
    kv_bytes: int
    """Bytes of the cached keys and values of one picture."""
    seconds: float
    """Wall clock a picture: its share of encoding and steps, and its own decoding."""


@torch.no_grad()
def together(session: Session, job: Job) -> Batch:
    """The `job.count` pictures of a job. Raises BenchError for denoisers other than UNets, and GenerationError."""
    pipe, began = session.pipe, time.perf_counter()
    text = repeated(marked(session, job)[0].rows(job.guidance > 1), job.count)
    with prompt_attention(denoiser(pipe), session.variant.text, text.protected) as cache:
        x = list(walk(pipe, text, noise_of(pipe, job), job))[-1]
        kv_bytes = cache.nbytes // job.count
    images = [decode(pipe, x[index : index + 1]) for index in range(job.count)]
    return Batch(images, kv_bytes, (time.perf_counter() - began) / job.count)


def repeated(text: TextEmbeddings, count: int) -> TextEmbeddings:
    """Every row `count` times: [u, c] becomes [u, u, c, c]."""
    embeds, protected = (tensor.repeat_interleave(count, 0) for tensor in (text.embeds, text.protected))
    pooled = None if text.pooled is None else text.pooled.repeat_interleave(count, 0)
    return replace(text, embeds=embeds, pooled=pooled, protected=protected)


def noise_of(pipe: Pipeline, job: Job) -> Tensor:
    """The initial noise [count, C, h, w] of a job's pictures, each as it would be drawn alone."""
    return torch.cat([initial_noise(pipe, job, index)[0] for index in range(job.count)])


def walk(pipe: Pipeline, text: TextEmbeddings, noise: Tensor, job: Job) -> Iterator[Tensor]:
    """The latents [k, C, h, w] after every step from `noise`, for text rows [u x k, c x k], or [c x k] unguided.

    Nothing is computed between two steps, so what the denoiser does may be changed there.
    """
    if not isinstance(denoiser(pipe), UNet2DConditionModel):
        raise BenchError("Pictures are made in batches with UNets only: choose a Stable Diffusion base.")
    scheduler, device = pipe.scheduler, text.embeds.device
    scheduler.set_timesteps(job.steps, device=device)
    x = noise.to(device) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x_in = scheduler.scale_model_input(torch.cat([x] * (len(text.embeds) // len(x))), t)
        y = predicted(pipe, text, x_in, t)
        if len(y) > len(x):
            y_u, y_c = y.chunk(2)
            y = y_u + job.guidance * (y_c - y_u)
        x = scheduler.step(y, t, x).prev_sample
        if not bool(torch.isfinite(x).all()):
            raise GenerationError(f"{job.prompt!r} gave numbers that are not finite. Choose another seed or precision.")
        yield x


@torch.no_grad()
def predicted(pipe: Pipeline, text: TextEmbeddings, x: Tensor, t: Tensor) -> Tensor:
    """The UNet's prediction in float32 for latents [B, C, h, w] at one timestep [] or at one each [B]."""
    out: Tensor = pipe.unet(
        x.to(text.embeds.dtype),
        t,
        encoder_hidden_states=text.embeds,
        added_cond_kwargs=added_conditions(pipe, text, x),
        return_dict=False,
    )[0]
    return out.float()
