"""DGQ's scheme (Ryu et al., ICLR 2025, arXiv 2501.04304): outlier channels in groups, and the start token apart.

Channels are put in order of their calibrated maxima and cut into eight groups, each with a scale of its own. Its scales
are stored per time step; ours are found at run time, per token (linears) or sample (convolutions) and group, which
follows every time step. In cross-attention the start token's row and column are exact and other probabilities are
rounded to octaves. Its dynamic choice between channel and pixel groups is subsumed for linears, whose tokens have
scales of their own; pixels of a convolution share one here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from personalq.bench.peers.levels import Peer, peer, recipe_at
from personalq.bench.peers.seen import Calibration
from personalq.bench.peers.swap import Around, Layer, swap, with_weight
from personalq.quant.apply import Report
from personalq.quant.formats import OCTAVE4
from personalq.quant.layers import QConv2d, QLinear
from personalq.quant.segment import Segments
from personalq.records import Recipe, Rule

GROUPS = 8
PLACES = 256
"""Places between channels where a group may begin."""


def dgq(calibration: Calibration) -> Iterator[Peer]:
    """Grouped inputs with DGQ's attention at every level of inputs,."""
    for level in ("w8a8", "w4a8", "w8a4", "w4a4"):
        recipe = recipe_at(level, ("start",), OCTAVE4, name=f"dgq-{level}", segments=True)
        pack = partial(quantize, recipe=recipe, calibration=calibration)
        yield peer(recipe, level, pack)


def quantize(model: nn.Module, recipe: Recipe, calibration: Calibration, groups: int = GROUPS) -> Report:
    """Pack a denoiser with grouped inputs. Raises QuantizationError as `swap` and the calibration do."""
    maxima = calibration(model)

    def make(name: str, layer: Layer, rule: Rule) -> nn.Module:
        largest = maxima.get(name)
        if largest is None:
            return QLinear.from_float(layer, rule) if isinstance(layer, nn.Linear) else QConv2d.from_float(layer, rule)
        return Grouped.from_float(layer, rule, largest, groups)

    return swap(model, recipe, make)


class Grouped(Around):
    """A packed layer whose input channels are put in another order first, so that channels alike share a scale."""

    order: Tensor

    def __init__(self, layer: Layer, packed: nn.Module, order: Tensor) -> None:
        """`order` int32 [I]: which channel comes where."""
        super().__init__(layer, packed)
        self.register_buffer("order", order)
        self.channel = 1 if isinstance(layer, nn.Conv2d) else -1

    @classmethod
    def from_float(cls, layer: Layer, rule: Rule, largest: Tensor, groups: int) -> Grouped:
        """The layer with its input channels ordered by their maxima [I] and cut into at most so many groups."""
        ordered, order = largest.sort(descending=True)
        segments = Segments(inputs=cuts(ordered, groups))
        order = order.to(layer.weight.device)
        shuffled = with_weight(layer, layer.weight.detach()[:, order])
        if isinstance(shuffled, nn.Conv2d):
            return cls(layer, QConv2d.from_float(shuffled, rule, segments), order.int())
        return cls(layer, QLinear.from_float(shuffled, rule, segments), order.int())

    def forward(self, input: Tensor) -> Tensor:
        """As the layer that this stands for."""
        out: Tensor = self.packed(input.index_select(self.channel, self.order))
        return out


def cuts(ordered: Tensor, groups: int) -> tuple[int, ...]:
    """Widths of at most `groups` groups of falling maxima [I] with the least sum of width * largest^2.

    That sum is what rounding errors grow with: a step is as wide as its group's largest value. By dynamic programming
    over where the last group begins; of very many channels, only so many even places are tried.
    """
    places = [*range(0, len(ordered), -(-len(ordered) // PLACES)), len(ordered)]
    edges, squares = torch.tensor(places, dtype=torch.float64), ordered[places[:-1]].double() ** 2
    width = edges[None, :] - edges[:-1, None]
    last = torch.where(width > 0, width * squares[:, None], torch.inf)  # cost of one group from edge i to edge n
    cost, begun = last[0].clone(), []
    cost[0] = 0
    for _ in range(min(groups, len(squares)) - 1):
        cost, start = (cost[:-1, None] + last).min(0)
        cost[0] = 0
        begun.append(start)
    ends = [len(squares)]
    for start in reversed(begun):
        ends.append(int(start[ends[-1]]) if ends[-1] else 0)
    found = sorted({0, *(places[end] for end in ends)})
    return tuple(after - before for before, after in pairwise(found))
