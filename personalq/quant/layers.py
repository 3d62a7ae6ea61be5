"""Quantised layers that stand in for the float ones. They do not shift bits, choose formats or walk models.

No float weight is kept. `weight` answers shape, dtype and device, which is what adapter libraries ask for, out of a
single NaN: code that would really read its values gets NaN, and code that would write them gets an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import activation
from personalq.quant.activation import Activation, activation_for
from personalq.quant.pack import Int4Weight, check_finite, unpack_int4
from personalq.quant.segment import WHOLE, Segments
from personalq.quant.state import (
    Layer,
    channels_innermost,
    check_tensors,
    factor_rows,
    geometry,
    input_parts,
    pack,
)
from personalq.records import Rule


class Kernel(Protocol):
    """What holds a weight's codes in a layout of its own, and multiplies with them."""

    name: str

    def tensors(self) -> dict[str, Tensor]:
        """The codes as the layer had them."""
        ...

    def linear(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., K] to [..., O]."""
        ...

    def conv2d(self, x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [B, C, H, W] to [B, O, H', W']."""
        ...


class PackedWeight(nn.Module):
    """The integer weight of a layer, how its input is quantised, and all tensors that both need.

    Buffers: `codes`, `scale`; at four bits `gamma` and `offset`; `widths`, where input segments are kept apart; `sums`,
    where inputs have a zero point; `smoothing`, where they are smoothed. Together with `bias` they are all the state.
    """

    codes: Tensor
    scale: Tensor
    gamma: Tensor | None
    offset: Tensor | None
    widths: Tensor | None
    sums: Tensor | None
    smoothing: Tensor | None
    stand_in: Tensor
    bias: Any

    def __init__(self, layer: Layer, rule: Rule, tensors: Mapping[str, Tensor], segments: Segments = WHOLE) -> None:
        """Hold packed `tensors` in the place of `layer`, of which only shapes and dtype are read: it may be on meta.

        Raises QuantizationError when the tensors are not those that the rule and the segments ask for.
        """
        nn.Module.__init__(self)  # not the float layer's, which would allocate a float weight
        self.shape, self.rule, self.segments = layer.weight.shape, rule, segments
        self.parts = input_parts(layer, rule, segments)
        self.activation = activation_for(rule, segments.after is not None)
        check_tensors(tensors, layer, rule, segments)
        for name in ("codes", "scale", "gamma", "offset", "widths", "sums", "smoothing"):
            self.register_buffer(name, tensors.get(name))
        nan = torch.full((), torch.nan, dtype=layer.weight.dtype, device=self.codes.device)
        self.register_buffer("stand_in", nan, persistent=False)
        self.kernel: Kernel | None = None
        bias = tensors.get("bias")
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    @classmethod
    def from_float(cls, layer: Layer, rule: Rule, segments: Segments = WHOLE, smoothing: Tensor | None = None) -> Self:
        """The packed counterpart of `layer`, by the rule; `segments` are used as far as the rule asks for them.

        `smoothing` fp32 [1, I], or [outputs, I] with a row for each output segment, is what the input is multiplied
        with before it is quantised; the weight is divided by it. Raises QuantizationError for bad weights,
        formats not built and layers that have no packed counterpart.
        """
        return cls(layer, rule, pack(layer, rule, segments, smoothing), segments)

    @classmethod
    def from_packed(cls, layer: Layer, rule: Rule, tensors: Mapping[str, Tensor], segments: Segments = WHOLE) -> Self:
        """The packed counterpart of `layer`, which may be on meta, from the state that one like it had.

        Raises QuantizationError when the tensors are not those that the rule and the segments ask for.
        """
        return cls(layer, rule, tensors, segments)

    @property
    def weight(self) -> Tensor:
        """A stand-in of the float weight's shape, dtype and device that holds one NaN and no weights."""
        return self.stand_in.expand(self.shape)

    @property
    def inputs(self) -> int:
        """Length K of a packed row."""
        return self.shape[1:].numel()

    def use(self, kernel: Kernel) -> None:
        """Let `kernel` hold the weight's codes, in its own layout, and multiply with them from now on."""
        self.kernel = kernel
        for name in kernel.tensors():
            setattr(self, name, None)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors this layer was made from, whatever layout its kernel holds them in."""
        held = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("kernel.")}
        return held | (self.kernel.tensors() if self.kernel else {})

    def int8_codes(self) -> Tensor:
        """The weight as exact int8 values [O, K], unpacked where it is stored at four bits; rows as `weight_rows`."""
        held = (
            self.kernel.tensors() if self.kernel else {"codes": self.codes, "gamma": self.gamma, "offset": self.offset}
        )
        gamma, offset = held.get("gamma"), held.get("offset")
        if gamma is None or offset is None:
            return cast("Tensor", held["codes"])
        return unpack_int4(Int4Weight(cast("Tensor", held["codes"]), gamma, offset, self.scale), self.inputs)

    def dequantized(self) -> Tensor:
        """The fp32 weight [O, K] that this layer multiplies with, channels innermost; made for the caller, not kept."""
        weight = channels_innermost(self.int8_codes().float() * self.scale[:, None], self.shape, self.parts)
        if self.smoothing is None:
            return weight
        factors = factor_rows(self.smoothing, self.segments)
        return weight.mul_(factors.repeat(1, self.shape[2:].numel()))

    def multiply(self, x: Tensor, how: Activation, channel: int) -> Tensor:
        """The layer's output for x, whose channels are dimension `channel`, with x quantised as `how` says."""
        codes, factors = self.int8_codes(), self.smoothing
        if factors is None:
            return self.product(x, how, codes, self.scale, self.bias, self.sums)
        shape = [1] * x.ndim
        shape[channel] = -1
        outputs = self.segments.outputs if len(factors) > 1 else (len(codes),)
        rows = [_split(tensor, outputs) for tensor in (codes, self.scale, self.bias, self.sums)]
        parts = [self.product(x * f.view(shape), how, *part) for f, *part in zip(factors, *rows, strict=True)]
        return torch.cat(parts, channel).to(x.dtype)

    def product(
        self, x: Tensor, how: Activation, codes: Tensor, scale: Tensor, bias: Tensor | None, sums: Tensor | None
    ) -> Tensor:
        """The product of x with some rows of the weight, which subclasses know."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """As the parent's, but fp32 buffers stay so when a model is cast: the codes were chosen for those values."""
        kept = {name: buffer for name in ("scale", "smoothing") if (buffer := getattr(self, name)) is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in kept.items():
            if getattr(self, name).dtype != buffer.dtype:
                setattr(self, name, buffer.to(getattr(self, name).device))
        return self

    def check_inference(self, x: Tensor) -> None:
        """Raise QuantizationError when a gradient is asked for: rounding has none, and zero would be a lie."""
        if torch.is_grad_enabled() and x.requires_grad:
            raise QuantizationError("Packed layers only infer: wrap the call in torch.no_grad() or train in float.")


class QLinear(PackedWeight, nn.Linear):  # type: ignore[override]
    """A linear layer with packed weights, its input quantised as the rule says: per token, or not at all."""

    def __init__(self, layer: nn.Linear, rule: Rule, tensors: Mapping[str, Tensor], segments: Segments = WHOLE) -> None:
        super().__init__(layer, rule, tensors, segments)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, input: Tensor) -> Tensor:
        """x [..., in_features] to [..., out_features] in the type of x."""
        self.check_inference(input)
        if self.kernel is not None:
            return self.kernel.linear(input, self.scale, self.bias)
        if self.activation is None:
            return F.linear(input, self.dequantized().to(input.dtype), self.bias)
        return self.multiply(input, self.activation, -1)

    def product(
        self, x: Tensor, how: Activation, codes: Tensor, scale: Tensor, bias: Tensor | None, sums: Tensor | None
    ) -> Tensor:
        """x [..., I] times the given rows of the weight."""
        return activation.linear(x, codes, scale, bias, how, self.parts, sums)


class QConv2d(PackedWeight, nn.Conv2d):  # type: ignore[override]
    """A convolution with packed weights, its input quantised as the rule says: per sample, or per pixel at 1 x 1."""

    def __new__(cls, *args: object, **options: object) -> nn.Conv2d:  # type: ignore[misc]
        """Called with sizes, as peft does to make the float branch beside a layer, this is a plain convolution."""
        if args and isinstance(args[0], int):
            return nn.Conv2d(*args, **options)  # type: ignore[arg-type]
        return super().__new__(cls)

    def __init__(self, layer: nn.Conv2d, rule: Rule, tensors: Mapping[str, Tensor], segments: Segments = WHOLE) -> None:
        super().__init__(layer, rule, tensors, segments)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.dilation, self.output_padding, self.transposed = layer.dilation, layer.output_padding, False
        self.groups, self.padding_mode = 1, "zeros"
        self.geometry = geometry(layer)
        self.pointwise = layer.kernel_size == (1, 1) and layer.padding == (0, 0)

    def forward(self, input: Tensor) -> Tensor:
        """x [B, C, H, W] to [B, O, H', W'] in the type of x."""
        self.check_inference(input)
        if self.kernel is not None and self.pointwise:
            return self.kernel.linear(self.pixels(input), self.scale, self.bias).permute(0, 3, 1, 2)
        if self.kernel is not None:
            return self.kernel.conv2d(input, self.scale, self.bias)
        if self.activation is None:
            weight = self.dequantized().to(input.dtype).view(len(self.scale), *self.kernel_size, -1).permute(0, 3, 1, 2)
            return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation)
        return self.multiply(input, self.activation, 1)

    def product(
        self, x: Tensor, how: Activation, codes: Tensor, scale: Tensor, bias: Tensor | None, sums: Tensor | None
    ) -> Tensor:
        """x [B, C, H, W] with the given rows of the weight."""
        if not self.pointwise:
            return activation.conv2d(x, codes, scale, bias, self.geometry, how, self.parts, sums)
        out = activation.linear(self.pixels(x), codes, scale, bias, how, self.parts, sums)
        return out.permute(0, 3, 1, 2)

    def pixels(self, x: Tensor) -> Tensor:
        """The pixels [B, H', W', C] that a 1 x 1 kernel sees: a linear layer over them gives each its own scale."""
        down, right = self.stride
        return x[:, :, ::down, ::right].permute(0, 2, 3, 1)


def _split(rows: Any, sizes: tuple[int, ...]) -> Sequence[Any]:
    return [None] * len(sizes) if rows is None else torch.split(rows, list(sizes))


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
