"""Calls of a float denoiser along real denoising: kept in files, and made again as often as is needed.

It knows no statistics and no number formats, and asks nothing of a denoiser but that its arguments are tensors.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from personalq.backend.engine import Engine
from personalq.diffusion.generate import denoise, initial_noise
from personalq.diffusion.load import denoiser
from personalq.diffusion.text import encode
from personalq.errors import QuantizationError
from personalq.quant import unfinished
from personalq.records import Checkpoint, Job

PROTECTED = "protected"


@dataclass(frozen=True)
class Recording:
    """Some calls of the denoiser for one caption."""

    arguments: Mapping[str, Tensor]
    """By name, "0" being the first positional one and "added_cond_kwargs/time_ids" an entry of one. Each is stacked
    over the calls, or has length one where they share it."""
    protected: Tensor
    """[B, L] bool: the text rows of triggers and styles; none where the caption has none."""

    def __len__(self) -> int:
        return max(len(tensor) for tensor in self.arguments.values())

    @torch.no_grad()
    def play(self, model: nn.Module) -> None:
        """Make the calls again, and drop what they give."""
        device = next(model.parameters()).device
        for index in range(len(self)):
            positional: dict[int, Tensor] = {}
            named: dict[str, Any] = {"return_dict": False}
            for path, stacked in self.arguments.items():
                *outer, leaf = path.split("/")
                place = named
                for key in outer:
                    place = place.setdefault(key, {})
                tensor = stacked[min(index, len(stacked) - 1)].to(device)
                if leaf.isdigit():
                    positional[int(leaf)] = tensor
                else:
                    place[leaf] = tensor
            model(*(positional[i] for i in sorted(positional)), **named)


def record(engine: Engine, job: Job, timesteps: int) -> Recording:
    """Denoise at full precision and keep `timesteps` of the denoiser's calls, one from each equal part of the schedule.

    Raises what generating raises, and QuantizationError for denoisers whose arguments are not tensors.
    """
    with engine.hold(job, "reference") as session:
        pipe = session.pipe
        text = encode(pipe, job.prompt, job.negative, job.spans)
        noise, generator = initial_noise(pipe, job)
        wanted = spread(job.steps, timesteps, job.seed)
        frames = denoise(pipe, text, noise, job, "reference", generator, previews=False)
        with calls(denoiser(pipe)) as made, closing(frames):
            for _ in frames:
                if len(made) > wanted[-1]:
                    break
    stacked = {name: torch.stack([made[i][name] for i in wanted]) for name in made[0]}
    shared = {name: all(torch.equal(tensor[0], other) for other in tensor) for name, tensor in stacked.items()}
    arguments = {name: tensor[:1].clone() if shared[name] else tensor for name, tensor in stacked.items()}
    marked = any(span.role != "concept" for span in job.spans)  # without one, `encode` marks the start token instead
    return Recording(arguments, text.rows(job.guidance > 1).protected.cpu() & marked)


def recorded(engine: Engine, job: Job, timesteps: int, path: Path, made_from: str) -> Path:
    """The file at `path` with the recording of a job, which is made unless it is there and made from the same."""
    if not unfinished.is_from(path, made_from):
        recording = record(engine, job, timesteps)
        unfinished.write(path, {**recording.arguments, PROTECTED: recording.protected}, made_from)
    return path


def read_recording(path: Path) -> Recording:
    """A recording from its file. Raises QuantizationError for a damaged one."""
    arguments, _ = unfinished.read(path)
    if PROTECTED not in arguments or len(arguments) == 1:
        raise QuantizationError(f"{path} is no recording: delete it and run the command again.")
    return Recording(arguments, arguments.pop(PROTECTED))


@contextmanager
def calls(model: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """The tensors that the model is called with from now on, by name, on the CPU."""
    made: list[dict[str, Tensor]] = []

    def keep(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        arguments = {str(i): value for i, value in enumerate(positional)} | named
        made.append({path: tensor.detach().cpu().clone() for path, tensor in tensors_in(arguments)})

    hook = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield made
    finally:
        hook.remove()


def tensors_in(arguments: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of nested arguments by path. Raises QuantizationError for what could not be given again."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            yield under + name, value
        elif isinstance(value, Mapping):
            yield from tensors_in(value, f"{under}{name}/")
        elif value is not None and name != "return_dict":
            raise QuantizationError(f"The denoiser is called with {name}={value!r}, which cannot be recorded.")


def spread(steps: int, count: int, seed: int) -> list[int]:
    """`count` of `steps` positions, one drawn from each of so many equal parts; all where there are no more."""
    drawn, count = random.Random(seed), min(count, steps)
    edges = [steps * part // count for part in range(count + 1)]
    return [drawn.randrange(low, high) for low, high in pairwise(edges)]


def facts(job: Job) -> dict[str, Any]:
    """What makes a caption's denoising what it is, as JSON."""
    return {
        "prompt": job.prompt,
        "negative": job.negative,
        "spans": [[span.start, span.end, span.role] for span in job.spans],
        "checkpoints": [[*_facts(checkpoint), weight] for checkpoint, weight in job.checkpoints],
        "schedule": [job.seed, job.steps, job.guidance, job.width, job.height],
    }


def _facts(checkpoint: Checkpoint) -> list[Any]:
    """The checkpoint's id and files: their sizes and times, or on the Hub the commit in their names."""
    files = [Path(name) for name in checkpoint.files]
    found = [[path.stat().st_size, path.stat().st_mtime_ns] for path in files if path.is_file()]
    return [checkpoint.id, found or list(checkpoint.files)]


def digest(things: Sequence[Any]) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(things, sort_keys=True).encode()).hexdigest()
