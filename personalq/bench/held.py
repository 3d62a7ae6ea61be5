"""A denoiser in a real shape, held as one of the variants and run with the product's attention. It measures nothing."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

from personalq.backend.variants import Variant
from personalq.bench.shapes import Shape, filling, inputs, shape_named, skeleton
from personalq.diffusion.attention import PromptCache, text_layers
from personalq.diffusion.lazy import fill
from personalq.errors import BenchError
from personalq.quant.apply import Report

TRIGGER = slice(5, 8)
"""The rows of the prompt that are taken for the trigger's."""


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


def load(shape: Shape, variant: Variant, setting: Setting) -> tuple[nn.Module, Report | None]:
    """The denoiser at a variant: layer by layer where its packing can, and else the whole 16-bit model first.

    Raises QuantizationError, or BenchError when that model does not fit into the memory that is free.
    """
    model, materialize = skeleton(shape, setting.place, setting.dtype), filling(setting.place, setting.seed)
    pack: Callable[..., Report] | None = variant.quantize
    if pack is not None and "materialize" in inspect.signature(pack).parameters:
        return model, pack(model, materialize=materialize)
    whole, free = fp16_bytes(model), free_bytes(setting.place)
    if whole > free:
        raise BenchError(
            f"{variant.name} needs all {whole / 1e9:.1f} GB of {shape.name} at 16 bits and {free / 1e9:.1f} GB are "
            "free: leave it out, or take a machine with more memory."
        )
    fill(model, materialize)
    return model, pack(model) if pack else None


def attention(shape: Shape, model: nn.Module, variant: Variant, device: torch.device) -> AbstractContextManager[Any]:
    """The variant's own attention for one prompt with a trigger of three tokens; in UNets a cache of keys, values.

    Raises QuantizationError when the variant is not built for the architecture.
    """
    protected = torch.zeros(shape.batch, shape.rows, dtype=torch.bool, device=device)
    protected[-1, TRIGGER] = bool(variant.protect)
    protected |= "all" in variant.protect
    return variant.attention(model, protected)


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
