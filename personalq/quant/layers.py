"""Quantised layers that stand in for the float ones. They do not shift bits, choose formats or walk models.

No float weight is kept. `weight` answers shape, dtype and device, which is what adapter libraries ask for, out of a
single NaN: code that would really read its values gets NaN, and code that would write them gets an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import ops
from personalq.quant.formats import INT4, INT8
from personalq.quant.pack import Int4Weight, check_finite, pack_int4, pack_int8, unpack_int4
from personalq.records import Rule


class PackedWeight(nn.Module):
    """The integer weight of a layer: buffers `codes`, `scale` and, at four bits, `gamma` and `offset`."""

    codes: Tensor
    scale: Tensor
    gamma: Tensor | None
    offset: Tensor | None
    stand_in: Tensor

    def __init__(self, weight: Tensor, shape: torch.Size, bias: Tensor | None, rule: Rule) -> None:
        """Pack `weight` [O, K] by the rule; `shape` is the float weight's own.

        Raises QuantizationError for a format that no layer is built for.
        """
        nn.Module.__init__(self)  # not the float layer's, which would allocate a float weight
        self.shape, self.inputs, self.rule = shape, weight.shape[1], rule
        gamma = offset = None
        if rule.activation != INT8:
            raise QuantizationError(f"Rule {rule.pattern!r}: packed layers are built for int8 activations only.")
        if rule.weight == INT8:
            codes, scale = pack_int8(weight)
        elif rule.weight == INT4 and rule.group:
            codes, gamma, offset, scale = pack_int4(weight, rule.group)
        else:
            raise QuantizationError(f"Rule {rule.pattern!r}: choose int8 weights, or int4 weights with a group size.")
        for name, buffer in (("codes", codes), ("scale", scale), ("gamma", gamma), ("offset", offset)):
            self.register_buffer(name, buffer)
        self.register_buffer("stand_in", weight.new_full((), torch.nan), persistent=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    @property
    def weight(self) -> Tensor:
        """A stand-in of the float weight's shape, dtype and device that holds one NaN and no weights."""
        return self.stand_in.expand(self.shape)

    def int8_codes(self) -> Tensor:
        """The weight as exact int8 values [O, K], unpacked where it is stored at four bits."""
        if self.gamma is None or self.offset is None:
            return self.codes
        return unpack_int4(Int4Weight(self.codes, self.gamma, self.offset, self.scale), self.inputs)

    def dequantized(self) -> Tensor:
        """The fp32 weight [O, K] that this layer multiplies with; made for the caller and not kept."""
        return self.int8_codes().float() * self.scale[:, None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """As the parent's, but `scale` stays fp32 when a model is cast: the codes were chosen for that value."""
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scale.dtype != scale.dtype:
            self.scale = scale.to(self.scale.device)
        return self

    def check_inference(self, x: Tensor) -> None:
        """Raise QuantizationError when a gradient is asked for: rounding has none, and zero would be a lie."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise QuantizationError("Packed layers only infer: wrap the call in torch.no_grad() or train in float.")


class QLinear(PackedWeight, nn.Linear):  # type: ignore[override]
    """A linear layer with packed weights and int8 activations per token."""

    def __init__(self, layer: nn.Linear, rule: Rule) -> None:
        super().__init__(layer.weight.detach(), layer.weight.shape, layer.bias, rule)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    @classmethod
    def from_float(cls, layer: nn.Linear, rule: Rule) -> QLinear:
        """The packed counterpart of `layer`. Raises QuantizationError for bad weights or formats not built."""
        return cls(layer, rule)

    def forward(self, input: Tensor) -> Tensor:
        """x [..., in_features] to [..., out_features] in the type of x."""
        self.check_inference(input)
        return ops.linear_int8(input, self.int8_codes(), self.scale, self.bias)


class QConv2d(PackedWeight, nn.Conv2d):  # type: ignore[override]
    """A convolution with packed weights and int8 activations per sample."""

    def __new__(cls, *args: object, **options: object) -> nn.Conv2d:  # type: ignore[misc]
        """Called with sizes, as peft does to make the float branch beside a layer, this is a plain convolution."""
        if args and isinstance(args[0], int):
            return nn.Conv2d(*args, **options)  # type: ignore[arg-type]
        return super().__new__(cls)

    def __init__(self, layer: nn.Conv2d, rule: Rule) -> None:
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise QuantizationError(
                "Only convolutions with one group and a numeric zero padding are packed: keep this layer in 16 bits."
            )
        channels_last = layer.weight.detach().permute(0, 2, 3, 1).flatten(1)
        super().__init__(channels_last, layer.weight.shape, layer.bias, rule)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.dilation, self.output_padding, self.transposed = layer.dilation, layer.output_padding, False
        self.groups, self.padding_mode = 1, "zeros"
        self.geometry = ops.ConvShape(layer.kernel_size, layer.stride, layer.padding, layer.dilation)

    @classmethod
    def from_float(cls, layer: nn.Conv2d, rule: Rule) -> QConv2d:
        """The packed counterpart of `layer`; raises QuantizationError for groups, odd paddings, bad weights."""
        return cls(layer, rule)

    def forward(self, input: Tensor) -> Tensor:
        """x [B, C, H, W] to [B, O, H', W'] in the type of x."""
        self.check_inference(input)
        return ops.conv2d_int8(input, self.int8_codes(), self.scale, self.bias, self.geometry)


def nf4_linear(layer: nn.Linear) -> nn.Linear:
    """bitsandbytes' own NF4 layer made from `layer`, on its device; the activations stay in 16 bits.

    Raises QuantizationError for NaN or infinite weights, which its table would turn into plain numbers.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit  # seconds to import, and only this peer needs it

    weight = layer.weight.detach()
    check_finite(weight)
    packed = Linear4bit(1, 1, bias=False, compute_dtype=weight.dtype, compress_statistics=False, quant_type="nf4")
    packed.in_features, packed.out_features = layer.in_features, layer.out_features
    fresh = Params4bit(weight, requires_grad=False, compress_statistics=False, quant_type="nf4", module=packed)
    packed.weight = fresh.to(weight.device)
    packed.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
    return cast("nn.Linear", packed)
