"""Which kernel multiplies the weight of each packed layer: chosen once, explicitly, and reported by name.

"torch" is plain torch on the layer's own tensors, the reference. "onednn" takes the tensors into the layout of the
fast CPU path; the layer then holds them there and nowhere else. It knows no recipes and packs nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import torch
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import onednn
from personalq.quant.activation import Symmetric
from personalq.quant.layers import PackedWeight, QConv2d
from personalq.quant.ops import ConvShape
from personalq.quant.scratch import Scratch

KernelName = Literal["auto", "onednn", "torch"]


class OneDnnInt8(nn.Module):
    """int8 codes in oneDNN's own layout: four bytes a row more, and rows filled up to a multiple of 64."""

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

    "auto" takes oneDNN for weights on the CPU where the processor has VNNI, and for int8 inputs with one scale; the
    rest stays with plain torch. Weights that have a kernel keep it. Raises QuantizationError when "onednn" is asked
    for where it cannot run.
    """
    if kernel == "onednn" and not onednn.available():
        raise QuantizationError("oneDNN's int8 products need an x86 processor with VNNI: choose the kernel 'torch'.")
    chosen: Counter[str] = Counter()
    scratch = Scratch()
    for layer in model.modules():
        if isinstance(layer, PackedWeight):
            if layer.kernel is None and kernel != "torch" and onednn.available() and _suits(layer):
                layer.use(OneDnnInt8(layer) if layer.gamma is None else OneDnnInt4(layer))
                scratch.replaced(layer.shape.numel())
            chosen["torch" if layer.kernel is None else "onednn"] += 1
    scratch.give_back()
    return chosen


def _suits(layer: PackedWeight) -> bool:
    plain = layer.activation == Symmetric() and not layer.parts and layer.smoothing is None
    return plain and layer.codes.device.type == "cpu"


def _convolution(layer: PackedWeight) -> ConvShape | None:
    return layer.geometry if isinstance(layer, QConv2d) and not layer.pointwise else None
