"""Which kernel multiplies the weight of each packed layer: chosen once, explicitly, and reported by name.

"torch" is plain torch on the layer's own tensors, the reference. "compiled" fuses what goes before and after the
integer product, for GPUs. "onednn" takes the tensors into the layout of the fast CPU path; the layer then holds them
there and nowhere else. It knows no recipes and packs nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import torch
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import onednn, ops
from personalq.quant.activation import Symmetric
from personalq.quant.layers import PackedWeight, QConv2d
from personalq.quant.ops import ConvShape
from personalq.quant.pack import Int4Weight, unpack_int4
from personalq.quant.scratch import Scratch

KernelName = Literal["auto", "onednn", "compiled", "torch"]


class Compiled(nn.Module):
    """The layer's own codes, between two compiled passes."""

    name = "compiled"
    codes: Tensor
    gamma: Tensor | None
    offset: Tensor | None

    def __init__(self, layer: PackedWeight, passes: ops.Passes) -> None:
        super().__init__()
        self.shape, self.inputs, self.passes = _convolution(layer), layer.inputs, passes
        for name in ("codes", "gamma", "offset"):
            self.register_buffer(name, getattr(layer, name))

    def tensors(self) -> dict[str, Tensor]:
        """The layer's own tensors."""
        return dict(self.named_buffers())

    def int8_codes(self) -> Tensor:
        """The weight as exact int8 values [O, K]."""
        if self.gamma is None or self.offset is None:
            return self.codes
        return unpack_int4(Int4Weight(self.codes, self.gamma, self.offset, self.codes), self.inputs)

    def linear(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., K] to [..., O]."""
        return ops.linear_int8(x, self.int8_codes(), scale, bias, self.passes)

    def conv2d(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [B, C, H, W] to [B, O, H', W']."""
        assert self.shape is not None  # given to convolutions only
        return ops.conv2d_int8(x, self.int8_codes(), scale, bias, self.shape, self.passes)


class OneDnnInt8(nn.Module):
    """int8 codes in oneDNN's own layout: four bytes a row more, and rows filled up to a multiple of 64."""

    name = "onednn"

    packed: Tensor

    def __init__(self, layer: PackedWeight) -> None:
        super().__init__()
        self.shape: ConvShape | None = _convolution(layer)
        codes = layer.codes
        packed = onednn.prepack_linear(codes) if self.shape is None else onednn.prepack_conv(codes, self.shape)
        self.register_buffer("packed", packed)

    def tensors(self) -> dict[str, Tensor]:
        """The layer's own tensors, made for the caller."""
        return {"codes": onednn.unpacked(self.packed)}

    def linear(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., K] to [..., O]."""
        return onednn.linear(x, self.packed, scale, bias)

    def conv2d(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [B, C, H, W] to [B, O, H', W']."""
        assert self.shape is not None  # given to convolutions only
        return onednn.conv2d(x, self.packed, scale, bias, self.shape)


class OneDnnInt4(nn.Module):
    """Four-bit codes with the output channels innermost, as they are multiplied once unpacked."""

    name = "onednn"

    codes: Tensor
    """uint8 [G, g/2, O]; `gamma` and `offset` are uint8 and int8 [G, 1, O]."""
    gamma: Tensor
    offset: Tensor

    def __init__(self, layer: PackedWeight) -> None:
        super().__init__()
        assert layer.gamma is not None  # what makes it a four-bit layer
        assert layer.offset is not None
        self.shape, self.inputs = _convolution(layer), layer.inputs
        self.register_buffer("codes", layer.codes.permute(1, 2, 0).contiguous())
        self.register_buffer("gamma", layer.gamma.t().unsqueeze(1).contiguous())
        self.register_buffer("offset", layer.offset.t().unsqueeze(1).contiguous())

    def tensors(self) -> dict[str, Tensor]:
        """The layer's own tensors, made for the caller."""
        return {
            "codes": self.codes.permute(2, 0, 1).contiguous(),
            "gamma": self.gamma.squeeze(1).t().contiguous(),
            "offset": self.offset.squeeze(1).t().contiguous(),
        }

    def unpack(self, part: slice) -> Tensor:
        """The exact int8 values [K, o] of some output channels: code * gamma + offset."""
        codes = self.codes[..., part]
        groups, half, outputs = codes.shape
        values = torch.empty(groups, 2 * half, outputs, dtype=torch.uint8)
        torch.bitwise_and(codes, 15, out=values[:, :half])
        torch.bitwise_right_shift(codes, 4, out=values[:, half:])
        # Bytes wrap modulo 256, which is two's complement: the sum is in -128..127.
        values.mul_(self.gamma[..., part]).add_(self.offset.view(torch.uint8)[..., part])
        return values.view(torch.int8).flatten(0, 1)[: self.inputs]

    def linear(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., K] to [..., O]."""
        return onednn.linear_blocks(x, self.unpack, scale, bias)

    def conv2d(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [B, C, H, W] to [B, O, H', W']."""
        assert self.shape is not None  # given to convolutions only
        return onednn.conv2d_blocks(x, self.unpack, scale, bias, self.shape)


def use_kernels(model: nn.Module, kernel: KernelName = "auto") -> Counter[str]:
    """Choose the kernel of every packed layer, and say how many got which.

    "auto" takes oneDNN for weights on the CPU where the processor has VNNI. Only layers with int8 inputs of one scale
    have other kernels than plain torch. Weights that have a kernel keep it. Raises QuantizationError when "onednn" is
    asked for where it cannot run.
    """
    if kernel == "onednn" and not onednn.available():
        raise QuantizationError("oneDNN's int8 products need an x86 processor with VNNI: choose the kernel 'torch'.")
    chosen: Counter[str] = Counter()
    passes, scratch = None, Scratch()
    for layer in model.modules():
        if isinstance(layer, PackedWeight):
            if layer.kernel is None and _suits(layer) and kernel == "compiled":
                passes = passes or ops.compiled_passes()
                layer.use(Compiled(layer, passes))
            elif layer.kernel is None and _suits(layer) and kernel != "torch" and _is_for_onednn(layer):
                layer.use(OneDnnInt8(layer) if layer.gamma is None else OneDnnInt4(layer))
                scratch.replaced(layer.shape.numel())
            chosen[layer.kernel.name if layer.kernel else "torch"] += 1
    scratch.give_back()
    return chosen


def _suits(layer: PackedWeight) -> bool:
    return layer.activation == Symmetric() and not layer.parts and layer.smoothing is None


def _is_for_onednn(layer: PackedWeight) -> bool:
    return layer.codes.device.type == "cpu" and onednn.available()


def _convolution(layer: PackedWeight) -> ConvShape | None:
    return layer.geometry if isinstance(layer, QConv2d) and not layer.pointwise else None
