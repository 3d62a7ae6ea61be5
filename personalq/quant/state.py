"""The tensors that a packed layer holds: made from a float layer, or known from its shapes to check stored ones.

It multiplies nothing and reads no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import ops
from personalq.quant.activation import Asymmetric, activation_for
from personalq.quant.formats import INT4, INT8
from personalq.quant.pack import Int4Weight, Int8Weight, fitting_group, pack_int4, pack_int8, unpack_int4
from personalq.quant.segment import WHOLE, Segments
from personalq.records import Rule

Layer = nn.Linear | nn.Conv2d
Expected = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each tensor by its name."""
Rounded: TypeAlias = Callable[[Tensor], Int8Weight | Int4Weight]
"""Makes codes of weight rows [O, K] in the format of the layer's rule."""


def input_parts(layer: Layer, rule: Rule, segments: Segments) -> tuple[int, ...]:
    """Widths of the input segments that get scales of their own under the rule; empty where the input is whole.

    Raises QuantizationError when the segments do not add up to the layer's input or output.
    """
    for name, widths, size in (
        ("in", segments.inputs, layer.weight.shape[1]),
        ("out", segments.outputs, len(layer.weight)),
    ):
        if widths and (sum(widths) != size or min(widths) < 1):
            raise QuantizationError(
                f"Segments {widths} are not the {size} {name}put channels: find the segments again."
            )
    used = rule.segments and rule.activation is not None and len(segments.inputs) > 1
    return segments.inputs if used else ()


def weight_rows(layer: Layer, rule: Rule, segments: Segments = WHOLE, smoothing: Tensor | None = None) -> Tensor:
    """The float weight as the [O, K] that is packed: smoothed, and of convolutions channels innermost.

    Where input segments are kept apart, the rows hold one segment after the other.
    """
    weight = layer.weight.detach()
    if smoothing is not None:
        factors = factor_rows(smoothing, segments)
        weight = weight.float() / factors.view(*factors.shape, *(1 for _ in weight.shape[2:]))
    parts = input_parts(layer, rule, segments)
    if weight.ndim == 4:
        weight = weight.permute(0, 2, 3, 1)
    return (
        torch.cat([part.flatten(1) for part in torch.split(weight, list(parts), -1)], 1) if parts else weight.flatten(1)
    )


def pack(
    layer: Layer,
    rule: Rule,
    segments: Segments = WHOLE,
    smoothing: Tensor | None = None,
    rounded: Rounded | None = None,
) -> dict[str, Tensor]:
    """All tensors of the packed layer, from the float one. Raises QuantizationError as `from_float` does.

    `rounded` takes the place of rounding to nearest.
    """
    expected_tensors(layer, rule, segments)  # that there is a packed counterpart
    rows, parts = weight_rows(layer, rule, segments, smoothing), input_parts(layer, rule, segments)
    if rounded is not None:
        packed = rounded(rows)
    else:
        packed = pack_int8(rows) if rule.weight == INT8 else pack_int4(rows, rule.group or 0)
    tensors = packed._asdict()
    if layer.bias is not None:
        tensors["bias"] = layer.bias.detach()
    if smoothing is not None:
        tensors["smoothing"] = smoothing.float()
    if parts:
        tensors["widths"] = torch.tensor(parts, dtype=torch.int32, device=rows.device)
    if isinstance(activation_for(rule, segments.after is not None), Asymmetric):
        tensors["sums"] = code_sums(packed, layer, rule, segments)
    return tensors


def code_sums(packed: Int8Weight | Int4Weight, layer: Layer, rule: Rule, segments: Segments) -> Tensor:
    """int32 [O, segments]: what the rows of the int8 values add up to in each input segment."""
    taps, inputs = layer.weight.shape[2:].numel(), layer.weight.shape[1:].numel()
    codes = packed.codes if isinstance(packed, Int8Weight) else unpack_int4(packed, inputs)
    each = torch.split(codes, [taps * part for part in input_parts(layer, rule, segments)] or inputs, 1)
    return torch.stack([part.sum(1, dtype=torch.int32) for part in each], 1)


def expected_tensors(layer: Layer, rule: Rule, segments: Segments = WHOLE) -> Expected:
    """Names, shapes and types of the tensors that the packed counterpart of `layer` holds, smoothing apart.

    Only the shapes of `layer` are read: it may be on meta. Raises QuantizationError where there is no counterpart.
    """
    outputs, inputs = len(layer.weight), layer.weight.shape[1:].numel()
    if isinstance(layer, nn.Conv2d):
        geometry(layer)
    if rule.weight == INT8:
        expected: Expected = {"codes": ((outputs, inputs), torch.int8)}
    elif rule.weight == INT4 and rule.group:
        group = fitting_group(inputs, rule.group)
        groups = -(-inputs // max(1, group))
        expected = {"codes": ((outputs, groups, group // 2), torch.uint8)}
        expected |= {"gamma": ((outputs, groups), torch.uint8), "offset": ((outputs, groups), torch.int8)}
    else:
        raise QuantizationError(f"Rule {rule.pattern!r}: choose int8 weights, or int4 weights with a group size.")
    expected["scale"] = ((outputs,), torch.float32)
    parts = input_parts(layer, rule, segments)
    if layer.bias is not None:
        expected["bias"] = ((outputs,), layer.bias.dtype)
    if parts:
        expected["widths"] = ((len(parts),), torch.int32)
    if isinstance(activation_for(rule, segments.after is not None), Asymmetric):
        expected["sums"] = ((outputs, max(1, len(parts))), torch.int32)
    return expected


def check_tensors(tensors: Mapping[str, Tensor], layer: Layer, rule: Rule, segments: Segments = WHOLE) -> None:
    """Raise QuantizationError unless these are the tensors of the packed `layer`, with or without `smoothing`."""
    expected, parts = expected_tensors(layer, rule, segments), input_parts(layer, rule, segments)
    smoothing = tensors.get("smoothing")
    if smoothing is not None:
        rows = len(smoothing) if smoothing.ndim and len(smoothing) == len(segments.outputs) else 1
        expected["smoothing"] = ((rows, layer.weight.shape[1]), torch.float32)
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        raise QuantizationError(
            f"Stored {', '.join(wrong)} do not fit this layer and its rule: quantise the model again."
        )
    if parts and not tensors["widths"].is_meta and tuple(tensors["widths"].tolist()) != parts:
        raise QuantizationError(f"The layer was stored in other segments than {parts}: quantise the model again.")


def geometry(layer: nn.Conv2d) -> ops.ConvShape:
    """Kernel, stride, padding and dilation. Raises QuantizationError for convolutions that are not packed."""
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise QuantizationError(
            "Only convolutions with one group and a numeric zero padding are packed: keep this layer in 16 bits."
        )
    return ops.ConvShape(layer.kernel_size, layer.stride, layer.padding, layer.dilation)


def channels_innermost(rows: Tensor, shape: torch.Size, parts: tuple[int, ...]) -> Tensor:
    """Rows [O, K] with one segment after the other to rows with the channels of all segments innermost."""
    taps = shape[2:].numel()
    if not parts or taps == 1:
        return rows
    each = torch.split(rows, [taps * part for part in parts], 1)
    return torch.cat([part.view(len(rows), taps, -1) for part in each], 2).flatten(1)


def factor_rows(smoothing: Tensor, segments: Segments) -> Tensor:
    """Smoothing factors [1, I], or [O, I] where each output segment has a row of them."""
    if len(smoothing) == 1:
        return smoothing
    if len(smoothing) != len(segments.outputs):
        raise QuantizationError(f"{len(smoothing)} rows of smoothing factors: give one, or one per output segment.")
    return torch.cat([row.expand(width, -1) for row, width in zip(smoothing, segments.outputs, strict=True)])
