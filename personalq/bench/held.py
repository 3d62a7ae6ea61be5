"""A denoiser in a real shape, held as one of the variants and run with the product's attention. It measures nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from personalq.backend.variants import VARIANTS, Variant, variant_named
from personalq.bench.peers.registry import PEERS, TAGS, missing
from personalq.bench.shapes import Shape, filling, inputs, shape_named, skeleton
from personalq.diffusion.attention import FullPrecision, PromptCache, prompt_attention, text_layers
from personalq.diffusion.joint import FullJoint, joint_attention
from personalq.errors import BenchError
from personalq.quant.apply import Report
from personalq.quant.kernels import use_kernels
from personalq.quant.store import load_quantized

TRIGGER = slice(5, 8)
"""The rows of the prompt that are taken for the trigger's."""
KNOWN: dict[str, Variant] = {**PEERS, **VARIANTS}
"""The product's precisions, and their peers and controls."""


class Setting(NamedTuple):
    """What all measurements of one run share. Plain values, which cross processes."""

    architecture: str
    device: str
    latent: int
    seed: int
    rank: int

    @property
    def place(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of everything that is not quantised: fp16 on CUDA and bf16 on the CPU, which has no fast fp16."""
        return torch.float16 if self.device == "cuda" else torch.bfloat16

    def inputs(self) -> dict[str, Any]:
        """Of one step."""
        return inputs(shape_named(self.architecture), self.latent, self.place, self.dtype, self.seed)


@dataclass(frozen=True)
class Held:
    """A denoiser at one precision."""

    shape: Shape
    variant: Variant
    model: nn.Module
    report: Report | None
    """How it was quantised; None for the reference."""
    kernels: Mapping[str, int]
    """How many packed layers are multiplied by which kernel of ours."""

    def attention(self) -> AbstractContextManager[Any]:
        """The variant's own attention for one prompt with a trigger of three tokens.

        In UNets it is a cache of keys and values. Raises QuantizationError when the variant is not built for them.
        """
        return self.variant.attention(self.model, self._protected())

    def our_attention(self) -> AbstractContextManager[Any]:
        """The attention that the product runs quantised denoisers with, at full precision."""
        if isinstance(self.model, UNet2DConditionModel):
            protected = self._protected()
            return prompt_attention(self.model, FullPrecision(), protected, blocked=protected.device.type == "cpu")
        return joint_attention(self.model, FullJoint(), self._protected())

    def _protected(self) -> Tensor:
        device = next(tensor.device for tensor in (*self.model.parameters(), *self.model.buffers()))
        protected = torch.zeros(self.shape.batch, self.shape.rows, dtype=torch.bool, device=device)
        protected[-1, TRIGGER] = bool(self.variant.protect)
        return protected.logical_or_(torch.tensor("all" in self.variant.protect))


def variant_known(name: str) -> Variant:
    """The variant called `name`. Raises BenchError when it cannot run here, QuantizationError when there is none."""
    variant = variant_named(name, KNOWN)
    if name in TAGS and (why := missing(name)):
        raise BenchError(f"{name} cannot be measured: {why}.")
    return variant


def hold(setting: Setting, name: str, folder: str | None = None) -> Held:
    """The denoiser of a setting at a precision, layer by layer where its packing can, else all of it at 16 bits first.

    From `folder` it is read packed. Raises QuantizationError, or BenchError when a whole model does not fit into the
    memory that is free.
    """
    shape, variant = shape_named(setting.architecture), variant_known(name)
    model = skeleton(shape, setting.place, setting.dtype)
    if folder:
        report: Report | None = load_quantized(model, folder, setting.place)
        return Held(shape, variant, model, report, use_kernels(model))
    if not by_layer(variant):
        whole, free = fp16_bytes(model), free_bytes(setting.place)
        if whole > free:
            raise BenchError(
                f"{name} needs all {whole / 1e9:.1f} GB of {shape.name} at 16 bits and {free / 1e9:.1f} GB are free: "
                "leave it out, or take a machine with more memory."
            )
    report = variant.pack(model, filling(setting.place, setting.seed))
    return Held(shape, variant, model, report, use_kernels(model))


def by_layer(variant: Variant) -> bool:
    """Whether each layer is packed as it is read, by a recipe of ours; such a denoiser can be stored, too."""
    return variant.recipe is not None and variant.quantize is None


def prefill(model: nn.Module, cache: PromptCache[Any], text: Tensor) -> None:
    """Project the text of every cross-attention layer, as the first step would: a query of one token asks for it."""
    for name, layer in text_layers(model).items():
        query = text.new_zeros(len(text), layer.heads, 1, layer.inner_dim // layer.heads)
        cache.attend(name, layer, query, text)


def twin(model: nn.Module) -> nn.Module:
    """A second model of modules of its own and the same tensors, so that the two can attend differently."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def fp16_bytes(model: nn.Module) -> int:
    """Bytes at two a value: parameters, and tables that a checkpoint stores."""
    tensors: dict[str, Tensor] = model.state_dict()
    return 2 * sum(tensor.numel() for tensor in tensors.values())


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device."""
    return int(torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available)
