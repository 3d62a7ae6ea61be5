"""Q-Diffusion's split shortcut (Li et al., arXiv 2302.04304): on the way up, hidden and skip channels differ in range.

A convolution that reads their concatenation is two, each with its own scales of weights and of inputs,
Y = Q1(X1) Q1(W1)^T + Q2(X2) Q2(W2)^T. Its own recipe for Stable Diffusion leaves softmax in 16 bits; a second row
rounds it as all others do. Weights are rounded to nearest in every row here, without its block reconstruction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from personalq.bench.peers.levels import Peer, peer, recipe_at
from personalq.bench.peers.swap import Around, Layer, swap, with_weight
from personalq.quant.apply import Report
from personalq.quant.layers import QConv2d, QLinear
from personalq.quant.segment import find_segments
from personalq.records import Recipe, Rule

SHORTCUTS = re.compile(r"^up_blocks\.\d+\.resnets\.\d+\.(conv1|conv_shortcut)$")


def qdiffusion() -> Iterator[Peer]:
    """The split shortcut at every level of inputs, with softmax in 16 bits and rounded."""
    for level in ("w8a8", "w4a8", "w8a4", "w4a4"):
        for softmax in ("softmax16", ""):
            name = "-".join(filter(None, ("qdiffusion", level, softmax)))
            recipe = recipe_at(level, (), None if softmax else "level", name=name)
            pack = partial(quantize, recipe=recipe)
            yield peer(recipe, level, pack)


def quantize(model: nn.Module, recipe: Recipe) -> Report:
    """Pack a denoiser, its skip convolutions in halves; one without them is packed as by round-to-nearest."""
    halves = {name: found.inputs for name, found in find_segments(model).items() if SHORTCUTS.match(name)}

    def make(name: str, layer: Layer, rule: Rule) -> nn.Module:
        if isinstance(layer, nn.Linear):
            return QLinear.from_float(layer, rule)
        return Split.from_float(layer, rule, halves[name]) if halves.get(name) else QConv2d.from_float(layer, rule)

    return swap(model, recipe, make)


class Split(Around):
    """A convolution over concatenated channels as a sum of packed ones, of which the first has the bias."""

    def __init__(self, layer: nn.Conv2d, parts: list[QConv2d], widths: tuple[int, ...]) -> None:
        super().__init__(layer, parts[0])
        self.others = nn.ModuleList(parts[1:])
        self.widths = list(widths)

    @classmethod
    def from_float(cls, layer: nn.Conv2d, rule: Rule, widths: tuple[int, ...]) -> Split:
        """The layer cut along its input channels, `widths` of them in each part."""
        weights = torch.split(layer.weight.detach(), list(widths), 1)
        return cls(layer, [QConv2d.from_float(_part(layer, w, i == 0), rule) for i, w in enumerate(weights)], widths)

    def forward(self, input: Tensor) -> Tensor:
        """x [B, C, H, W] to [B, O, H', W'] in the type of x."""
        first, *rest = torch.split(input, self.widths, 1)
        out: Tensor = self.packed(first)
        for part, x in zip(self.others, rest, strict=True):
            out = out + part(x)
        return out


def _part(layer: nn.Conv2d, weight: Tensor, first: bool) -> nn.Conv2d:
    part = with_weight(layer, weight)
    part.in_channels = weight.shape[1]
    if not first:
        part.bias = None
    return part
