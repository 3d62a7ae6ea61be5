"""How much of an input's outliers a layer's weight should carry: smoothing factors, searched on samples.

SmoothQuant (arXiv 2211.10438) for each segment alone, as in SegQuant (arXiv 2507.14811). It watches no model and
gathers no samples.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from personalq.quant.layers import QConv2d, QLinear
from personalq.quant.segment import WHOLE, Segments
from personalq.quant.state import Layer, input_parts
from personalq.records import Rule

ALPHAS = tuple(step / 10 for step in range(11))
"""The shares tried: 0 leaves the weight even and 1 leaves the input even, so that the weight carries the outliers."""


@torch.no_grad()
def search_smoothing(layer: Layer, rule: Rule, samples: Tensor, segments: Segments = WHOLE) -> Tensor | None:
    """Factors [1, I], or [outputs, I], to multiply the layer's input with; None where none is better than ones.

    `samples` [..., I] or [B, I, H, W] are inputs of the layer. For each segment of the input, and under a rule with
    segments for each of the output, s_j = max|X_j|^a / max|W_j|^(1-a) with the a of least squared error of the packed
    segment's output, or s = 1 where that is less; the factors are 1/s. Raises QuantizationError as packing does.
    """
    channel = 1 if isinstance(layer, nn.Conv2d) else -1
    widths = input_parts(layer, rule, segments) or (layer.weight.shape[1],)
    outputs = (rule.segments and segments.outputs) or (len(layer.weight),)
    alone, inside = replace(rule, segments=False), Segments(after=segments.after)
    parts, rows = torch.split(samples, list(widths), channel), []
    for block in torch.split(layer.weight.detach(), list(outputs)):
        weights = torch.split(block, list(widths), 1)
        rows.append([_search(_part(layer, w), alone, x, inside) for w, x in zip(weights, parts, strict=True)])
    factors = torch.stack([torch.cat(row) for row in rows])
    if bool((factors == factors[:1]).all()):
        factors = factors[:1]
    return None if bool((factors == 1).all()) else factors


def candidates(weight: Tensor, samples: Tensor) -> list[Tensor]:
    """Factors [I] for weight [O, I, ...] and samples by input channel [I, N]: ones, and those of every alpha.

    They keep the weight's largest magnitude, so that a segment's neighbours keep their steps.
    """
    tiny = torch.finfo(torch.float32).tiny ** 0.5
    loud = samples.float().abs().amax(1).clamp_min(tiny)
    heavy = weight.float().abs().transpose(0, 1).flatten(1).amax(1).clamp_min(tiny)
    factors = [torch.ones_like(loud)]
    for alpha in ALPHAS:
        s = loud**alpha / heavy ** (1 - alpha)
        factors.append((s * heavy).amax() / heavy.amax() / s)
    return factors


def _search(part: Layer, rule: Rule, x: Tensor, segments: Segments) -> Tensor:
    channel = 1 if isinstance(part, nn.Conv2d) else -1
    target, errors = part(x).float(), []
    tried = candidates(part.weight, x.movedim(channel, 0).flatten(1))
    kind = QConv2d if isinstance(part, nn.Conv2d) else QLinear
    for factors in tried:
        packed = kind.from_float(part, rule, segments, factors[None])
        errors.append(float((packed(x).float() - target).square().sum()))
    return tried[min(range(len(tried)), key=errors.__getitem__)]


def _part(layer: Layer, weight: Tensor) -> Layer:
    """A layer like this one with some of its weight and no bias."""
    part = copy.copy(layer)
    part._parameters = {"weight": nn.Parameter(weight, requires_grad=False), "bias": None}
    return part
