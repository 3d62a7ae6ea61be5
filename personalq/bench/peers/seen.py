"""The largest input of every channel over captions, run on the float denoiser right before it is packed.

It knows no formats. The denoiser tells which base it was read from; that base's text encoders read the captions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from personalq.backend.captions import repository_captions
from personalq.backend.variants import REFERENCE
from personalq.catalog.scan import scan
from personalq.diffusion.attach import attach, detach
from personalq.diffusion.generate import denoise, initial_noise
from personalq.diffusion.load import load_base, set_denoiser
from personalq.diffusion.text import encode
from personalq.errors import ModelError, QuantizationError
from personalq.records import Job

Maxima = Mapping[str, Tensor]
"""max|x| of each input channel, fp32 [I] on the CPU, by the name of a linear layer or convolution."""

Calibration = Callable[[nn.Module], Maxima]
"""Finds the maxima of a denoiser that is about to be packed."""

STEPS = 4
PLAIN = (
    "a photo of a dog on the beach",
    "a portrait of an old woman, oil painting",
    "a city street at night in the rain",
    "a bowl of fruit on a wooden table",
    "a red car parked in front of a house",
    "a castle on a hill, watercolour",
    "two children playing in the snow",
    "a robot reading a book in a library",
)
"""Captions for a base that brings no repository."""


class OnCaptions:
    """A calibration on 64 captions of the base's repository, half with a trigger, or on eight plain ones."""

    def __init__(self, captions: Callable[[Path], Sequence[Job]] | None = None) -> None:
        """`captions` gives the jobs for the folder or Hub id of a base."""
        self.captions = captions or captions_of
        self._known: dict[tuple[str, torch.dtype], dict[str, Tensor]] = {}
        self._base: str | None = None

    def __call__(self, model: nn.Module) -> Maxima:
        """The maxima of a float denoiser, which are remembered for where it was read from.

        A denoiser that stands alone, such as a DreamBooth model's, is shown the captions of the base seen before it.
        Raises QuantizationError where there is none.
        """
        parameter, source = next(model.parameters()), str(getattr(model, "config", {}).get("_name_or_path") or "")
        key = (source, parameter.dtype)
        if not source:
            raise QuantizationError("This row is calibrated on captions: open the denoiser from the folder of a base.")
        if key not in self._known:
            alone = (Path(source) / "config.json").exists() and self._base is not None
            base = self._base = str(self._base) if alone else source
            try:
                pipe = load_base(base, parameter.device, parameter.dtype, with_denoiser=False)
            except ModelError as error:
                raise QuantizationError(f"This row is calibrated, and the captions cannot be read: {error}") from error
            set_denoiser(pipe, model)
            self._known[key] = maxima_on(pipe, model, self.captions(Path(base)))
        return self._known[key]


def captions_of(base: Path) -> Sequence[Job]:
    """The captions that the product calibrates on, where the base lies in a repository that has them."""
    repo = base.parent.parent
    if (repo / "recipe" / "judged.json").exists():
        return repository_captions(repo, scan(repo).checkpoints, steps=STEPS)
    return [Job(caption, seed=index, steps=STEPS) for index, caption in enumerate(PLAIN)]


def maxima_on(pipe: Any, model: nn.Module, jobs: Sequence[Job]) -> dict[str, Tensor]:
    """The maxima over every step of the jobs, each with its checkpoints attached, at full precision."""
    with watched(model) as maxima:
        for job in jobs:
            attached = attach(pipe, job.checkpoints)
            try:
                text = encode(pipe, job.prompt, job.negative, job.spans)
                noise, generator = initial_noise(pipe, job)
                protected = text.rows(job.guidance > 1).protected
                with (
                    REFERENCE.attention(model, protected),
                    closing(denoise(pipe, text, noise, job, "reference", generator, False)) as steps,
                ):
                    for frame in steps:
                        if frame.step == frame.total - 1:
                            break  # the last step's picture is not looked at
            finally:
                detach(pipe, attached)
    return {name: largest.cpu() for name, largest in maxima.items()}


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """max|x| per input channel of every linear layer and convolution that runs while this is open."""
    maxima: dict[str, Tensor] = {}

    def see(name: str, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach().abs()
        over = (0, 2, 3) if isinstance(layer, nn.Conv2d) else tuple(range(x.ndim - 1))
        largest = x.amax(over).float()
        maxima[name] = torch.maximum(maxima[name], largest) if name in maxima else largest

    hooks = [
        module.register_forward_pre_hook(partial(see, name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        yield maxima
    finally:
        for hook in hooks:
            hook.remove()
