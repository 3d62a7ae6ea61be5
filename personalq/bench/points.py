"""Latents along a reference trajectory, and how far a changed denoiser's predictions there are from the reference's.

Three texts are asked at every latent: none, the prompt, and the prompt with the class noun for the trigger. It knows
neither what was changed nor why.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from personalq.backend.engine import Session
from personalq.bench.batches import noise_of, predicted, walk
from personalq.bench.judged import Exam
from personalq.diffusion.load import Pipeline
from personalq.diffusion.text import TextEmbeddings, encode

THIRDS = ("early", "middle", "late")
"""Of the steps: early ones are the noisiest."""


class Asked(NamedTuple):
    """An exam, its prompt with the class noun for the trigger, and that noun."""

    exam: Exam
    plain: str
    noun: str


class Answer(NamedTuple):
    """What the denoiser says at P points."""

    prediction: Tensor
    """The guided prediction y_u + guidance (y_c - y_u), [P, C, h, w]."""
    concept: Tensor
    """What the trigger adds: y(prompt) - y(prompt with the class noun), [P, C, h, w]."""


@dataclass(frozen=True)
class Points:
    """P latents with their timesteps, and three rows of text for each: [u x P, prompts x P, plain prompts x P]."""

    text: TextEmbeddings
    x: Tensor
    """[P, C, h, w]"""
    t: Tensor
    """[P]"""
    third: Tensor
    """[P], an index of `THIRDS`"""
    guidance: float

    def answer(self, pipe: Pipeline) -> Answer:
        """The denoiser's present answer, in one call."""
        y = predicted(pipe, self.text, torch.cat([self.x] * 3), torch.cat([self.t] * 3))
        y_u, y_c, y_plain = y.chunk(3)
        return Answer(y_u + self.guidance * (y_c - y_u), y_c - y_plain)

    def errors(self, now: Answer, before: Answer) -> dict[str, list[float]]:
        """Relative error of each part of the answer in each third, ||now - before|| / ||before|| over its points."""
        return {
            part: [
                relative(getattr(now, part)[at], getattr(before, part)[at])
                for at in (self.third == third for third in range(len(THIRDS)))
            ]
            for part in Answer._fields
        }


def relative(now: Tensor, before: Tensor) -> float:
    """||now - before|| / ||before||."""
    return float((now - before).norm() / before.norm())


def thirds(steps: int) -> list[range]:
    """The steps of each third, as even as they can be."""
    edges = [round(steps * part / len(THIRDS)) for part in range(len(THIRDS) + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def points_of(session: Session, asked: Sequence[Asked], per_third: int) -> Points:
    """Points of one concept: `per_third` steps of each third, spread evenly, of one picture of every prompt."""
    pipe, texts, plains, latents, times, where = session.pipe, [], [], [], [], []
    for exam, plain, _ in asked:
        job = replace(exam.job, count=1)
        text, noise = encode(pipe, job.prompt, job.negative), noise_of(pipe, job)
        path = [noise * pipe.scheduler.init_noise_sigma, *walk(pipe, text, noise, job)]
        for third, steps in enumerate(thirds(job.steps)):
            for step in (steps[int((part + 0.5) * len(steps) / per_third)] for part in range(per_third)):
                latents.append(pipe.scheduler.scale_model_input(path[step], pipe.scheduler.timesteps[step]))
                times.append(pipe.scheduler.timesteps[step])
                where.append(third)
        rows = per_third * len(THIRDS)
        texts += [text.embeds] * rows
        plains += [encode(pipe, plain, job.negative).embeds] * rows
    embeds = torch.cat([each[row : row + 1] for group, row in ((texts, 0), (texts, 1), (plains, 1)) for each in group])
    return Points(
        replace(text, embeds=embeds), torch.cat(latents), torch.stack(times), torch.tensor(where), job.guidance
    )
