"""Segments of any model, found in the graph that `torch.export` records of one forward pass on tensors without data.

From every linear layer and convolution the walk follows its input's channels back, through what leaves them where
they are, to the concatenation or merge of heads that put them together, and its output on to the split that takes
them apart. It knows no model, no class and no layer's name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from personalq.errors import QuantizationError
from personalq.quant.segment import WHOLE, After, Segments

Node: TypeAlias = Any
"""A `torch.fx.Node`: what its arguments are depends on its operation, which no type says."""

ATEN = torch.ops.aten
LAYERS = {ATEN.linear.default: -1, ATEN.conv2d.default: 1}
"""What is quantised, and the dimension of its channels."""
SAME = {ATEN.dropout.default, ATEN.to.dtype, ATEN.to.dtype_layout, ATEN.contiguous.default, ATEN.clone.default,
        ATEN.upsample_nearest2d.vec}  # fmt: skip
"""What leaves every channel, its place and its sign alone."""
NORMS = {ATEN.group_norm.default, ATEN.layer_norm.default, ATEN.rms_norm.default}
"""What leaves every channel in its place, but is no activation function's output any more."""
LAYOUTS = {ATEN.view.default, ATEN.reshape.default, ATEN.flatten.using_ints, ATEN.unflatten.int,
           ATEN.unsqueeze.default, ATEN.squeeze.dim}  # fmt: skip
"""What deals the same elements out to other dimensions, in the same order."""
JOINS = {ATEN.cat.default, ATEN.concat.default}
SPLITS = {ATEN.chunk.default, ATEN.split.Tensor, ATEN.split_with_sizes.default}
FUNCTIONS: dict[Any, After] = {ATEN.silu.default: "silu", ATEN.gelu.default: "gelu"}


def traced_segments(model: nn.Module, example: Mapping[str, Any]) -> dict[str, Segments]:
    """Segments by layer name, from the graph of `model(**example)`; layers without any are left out.

    Values are never read, so that model and example may be on meta. A layer that is called more than once counts where
    all its calls agree. Raises QuantizationError when the model cannot be exported.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(model, (), dict(example), strict=False)
    except Exception as error:  # whatever the model's own code raises
        reason = str(error).partition("\n")[0]
        raise QuantizationError(f"The model cannot be traced ({reason}): use a recipe without segments.") from error
    layers = program.graph_signature.inputs_to_parameters
    found: dict[str, list[Segments]] = {}
    for node in program.graph.nodes:
        if node.target in LAYERS and node.args[1].name in layers:
            name = layers[node.args[1].name].removesuffix(".weight")
            found.setdefault(name, []).append(_segments(node, LAYERS[node.target]))
    return {name: calls[0] for name, calls in found.items() if calls[0] != WHOLE and len(set(calls)) == 1}


def _segments(layer: Node, channel: int) -> Segments:
    source = layer.args[0]
    inputs, after = _input(source, channel % len(_shape(source)))
    return Segments(inputs, _outputs(layer, channel % len(_shape(layer))), after)


def _input(node: Node, channel: int) -> tuple[tuple[int, ...], After | None]:
    """Widths of the parts that made `node`'s dimension `channel`, and the activation function directly before them."""
    after, direct = None, True
    while True:
        if after is None and direct:
            after = _function(node)
        direct = direct and node.target not in NORMS
        if node.target in JOINS:
            parts = node.args[0]
            if _dim(node, 1, parts[0]) != channel:
                return (), after
            if after is None and direct:
                after = next(filter(None, (_input(part, channel)[1] for part in parts)), None)
            return tuple(_shape(part)[channel] for part in parts), after
        before, moved, width = _back(node, channel)
        if moved is None:
            return ((width,) * (_shape(node)[channel] // width) if width else ()), after
        node, channel = before, moved


def _function(node: Node) -> After | None:
    """The activation function that this node is; GEGLU is one half of a split times GELU of the other."""
    if node.target == ATEN.mul.Tensor:
        for value, gate in (node.args, node.args[::-1]):
            if _target(gate) == ATEN.gelu.default and _target(value) is _target(gate.args[0]) is operator.getitem:
                return "geglu" if value.args[0] is gate.args[0].args[0] else None
    return FUNCTIONS.get(node.target)


def _back(node: Node, channel: int) -> tuple[Node, int | None, int]:
    """The node that `node`'s channels come from, and their dimension there: None where the way back ends.

    It ends with a width where parts of that width were merged into this dimension, and with zero elsewhere.
    """
    before: Node = node.args[0] if node.args else None
    if node.target is operator.getitem and before.target in SPLITS:
        return before.args[0], None if _dim(before, 2, before.args[0]) == channel else channel, 0
    if node.target in SAME or node.target in NORMS or node.target in FUNCTIONS:
        return before, channel, 0
    if node.target in LAYOUTS:
        return before, *_regrouped(_shape(before), _shape(node), channel)
    if node.target == ATEN.transpose.int:
        first, second = (dim % len(_shape(node)) for dim in node.args[1:])
        return before, {first: second, second: first}.get(channel, channel), 0
    if node.target == ATEN.permute.default:
        return before, node.args[1][channel] % len(_shape(node)), 0
    if node.target == ATEN.slice.Tensor and _dim(node, 1, before) != channel:
        return before, channel, 0
    return before, None, 0


def _outputs(layer: Node, channel: int) -> tuple[int, ...]:
    """Widths of the parts that dimension `channel` of the layer's output is split into, by any of its readers."""
    ahead = [(reader, layer, channel) for reader in layer.users]
    for reader, node, dim in ahead:
        if reader.args[0] is not node:
            continue
        if reader.target in SPLITS:
            if _dim(reader, 2, node) == dim:
                return tuple(part.shape[dim] for part in reader.meta["val"])
        elif reader.target in LAYOUTS:
            shape = _shape(reader)
            moved = [place for place in range(len(shape)) if _regrouped(_shape(node), shape, place)[0] == dim]
            ahead.extend((after, reader, moved[0]) for after in reader.users if moved)
        elif reader.target in SAME:
            ahead.extend((after, reader, dim) for after in reader.users)
    return ()


def _regrouped(before: tuple[int, ...], after: tuple[int, ...], channel: int) -> tuple[int | None, int]:
    """Where the elements of dimension `channel` of the shape `after` were in the shape `before`, in the same order.

    A dimension of the same elements is (its index, 0); where several became one it is (None, the width of the parts);
    where one was taken apart it is (None, 0).
    """
    inner = math.prod(after[channel + 1 :])
    outer = inner * after[channel]
    for dim, size in enumerate(before):
        stride = math.prod(before[dim + 1 :])
        if size > 1 or after[channel] == 1:
            if (stride, stride * size) == (inner, outer):
                return dim, 0
            if inner < stride < outer:
                return None, stride // inner
    return None, 0


def _dim(node: Node, place: int, of: Node) -> int:
    """The dimension that argument number `place` of a node names, counted from the front; 0 where it is left out."""
    dim: int = node.args[place] if len(node.args) > place else 0
    return dim % len(_shape(of))


def _target(node: Node) -> Any:
    """A node's operation; numbers, which operations take too, have none."""
    return getattr(node, "target", None)


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)
