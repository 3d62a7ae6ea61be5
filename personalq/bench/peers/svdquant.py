"""SVDQuant's scheme (Li et al., arXiv 2411.05007) on our packed layers: a 16-bit low-rank branch takes the outliers.

With smoothed inputs, X' = X diag(s)^-1 and W' = W diag(s), the largest singular directions of W' are kept in 16 bits,
Y = X' (L2 L1)^T + Q(X') Q(W' - L2 L1)^T. As published the branch stands beside linear layers; convolutions are packed
plainly. Its fused four-bit kernels are not for these models: what is measured here is the scheme, not its speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalq.bench.peers.levels import Peer, peer, recipe_at
from personalq.bench.peers.seen import Calibration
from personalq.bench.peers.smoothquant import divisors
from personalq.bench.peers.swap import Around, Layer, swap, with_weight
from personalq.quant.apply import Report
from personalq.quant.layers import QConv2d, QLinear
from personalq.records import Recipe, Rule

RANK = 32
SMALL = 8
"""A rank for small models, beside whose layers rank 32 is no low one."""


def svdquant(calibration: Calibration) -> Iterator[Peer]:
    """Four-bit weights with a branch of rank 32, and of rank 8, at eight-bit and at four-bit inputs."""
    for level in ("w4a8", "w4a4"):
        for rank in (RANK, SMALL):
            recipe = recipe_at(level, name=f"svdquant-{level}" if rank == RANK else f"svdquant-r{rank}-{level}")
            pack = partial(quantize, recipe=recipe, calibration=calibration, rank=rank)
            yield peer(recipe, level, pack)


def quantize(model: nn.Module, recipe: Recipe, calibration: Calibration, rank: int = RANK) -> Report:
    """Pack a denoiser with the branch. Raises QuantizationError as `swap` and the calibration do."""
    maxima = calibration(model)

    def make(name: str, layer: Layer, rule: Rule) -> nn.Module:
        if isinstance(layer, nn.Conv2d):
            return QConv2d.from_float(layer, rule)
        largest = maxima.get(name)
        s = torch.ones(layer.in_features) if largest is None else divisors(largest, layer.weight)
        return LowRank.from_float(layer, rule, s.to(layer.weight.device), rank)

    return swap(model, recipe, make)


class LowRank(Around):
    """A packed linear layer with a 16-bit branch beside it, y = packed(x) + x down^T up^T."""

    down: Tensor
    up: Tensor

    def __init__(self, layer: nn.Linear, packed: QLinear, down: Tensor, up: Tensor) -> None:
        """`down` [r, I] and `up` [O, r], in the layer's type."""
        super().__init__(layer, packed)
        self.register_buffer("down", down)
        self.register_buffer("up", up)

    @classmethod
    def from_float(cls, layer: nn.Linear, rule: Rule, s: Tensor, rank: int) -> LowRank:
        """The layer split by the singular vectors of W diag(s), s fp32 [I]; what the branch rounds off is packed."""
        weight = layer.weight.detach().float()
        left, values, right = torch.linalg.svd(weight * s, full_matrices=False)
        up = (left[:, :rank] * values[:rank]).to(layer.weight.dtype)
        down = (right[:rank] / s).to(layer.weight.dtype)
        residual = with_weight(layer, (weight - up.float() @ down.float()))
        return cls(layer, QLinear.from_float(residual, rule, smoothing=1 / s[None]), down, up)

    def forward(self, input: Tensor) -> Tensor:
        """x [..., I] to [..., O] in the type of x."""
        out: Tensor = self.packed(input)
        return out + F.linear(F.linear(input, self.down), self.up)
