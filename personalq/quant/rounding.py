"""Rounding that minds a layer's inputs: what one weight's rounding does to the output, the next ones make good.

With H = sum x x^T of the inputs, rounding W to W^ costs tr(D H D^T), D = W^ - W. It knows no layers and no inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.errors import QuantizationError
from personalq.quant.formats import INT8
from personalq.quant.pack import (
    Int4Weight,
    Int8Weight,
    check_finite,
    fit_groups,
    fitting_group,
    fold,
    pack_int8,
    row_scale,
)

DAMPING = 0.01
"""Added to the diagonal of H, as a share of its mean."""

BLOCK = 128
"""Columns whose errors are passed on one by one; the columns after them get those of a whole block in one product."""

Assign: TypeAlias = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]
"""Chooses whole codes [O, k], as float within the limits, near fp32 targets [O, k] whose unit is worth `step` [O, k],
for k columns whose inputs have the Gram matrix H [k, k]. `gptq` is one."""


def gptq(target: Tensor, step: Tensor, gram: Tensor, limits: tuple[int, int]) -> Tensor:
    """Columns in the order of how large their inputs are; each one's error is taken from those that follow.

    With (H + damping)^-1 = R^T R, R upper triangular, the error of column i over R_ii is taken from column j > i
    R_ij times (Frantar et al., arXiv 2210.17323).
    """
    order = torch.argsort(gram.diagonal(), descending=True)
    factor = feedback(gram[order][:, order])
    steps = step.T[order]
    weight = (target.T[order] * steps).contiguous()  # [k, O]: a column of the weight is contiguous
    codes = torch.empty_like(weight)
    for first in range(0, len(order), BLOCK):
        last = min(first + BLOCK, len(order))
        errors = torch.empty_like(weight[first:last])
        for i in range(first, last):
            codes[i] = (weight[i] / steps[i]).round_().clamp_(*limits)
            errors[i - first] = (weight[i] - codes[i] * steps[i]) / factor[i, i]
            weight[i + 1 : last].addr_(factor[i, i + 1 : last], errors[i - first], alpha=-1)
        weight[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)
    return codes[torch.argsort(order)].T


def feedback(gram: Tensor) -> Tensor:
    """R, upper triangular, with (H + damping)^-1 = R^T R; fp32.

    Reversed in rows and columns, H = L L^T says that H = U U^T, and R = U^-1. Inputs that were never seen meet only
    the damping: their columns are rounded alone. Raises QuantizationError when H is no Gram matrix.
    """
    identity = torch.eye(len(gram), device=gram.device)
    mean = gram.diagonal().mean()
    if not bool(mean > 0):
        return identity
    lower, failed = torch.linalg.cholesky_ex((gram + DAMPING * mean * identity).flip(0, 1))
    if int(failed):
        raise QuantizationError("The statistics of this layer's inputs are damaged: observe the model again.")
    factor: Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    return factor


def round_int8(weight: Tensor, gram: Sequence[Tensor], assign: Assign = gptq) -> Int8Weight:
    """Int8 per output channel for `weight` [O, K], scales as `pack_int8` finds them.

    `gram` are fp32 blocks on the diagonal of H [K, K], in order. Raises QuantizationError for NaN or infinity, or
    blocks that are not of K inputs.
    """
    scale = pack_int8(weight).scale
    step = scale[:, None].expand_as(weight)
    codes = _in_blocks(weight.float() / step, step, gram, (INT8.qmin, INT8.qmax), assign)
    return Int8Weight(codes.to(torch.int8), scale)


def round_int4(weight: Tensor, group: int, gram: Sequence[Tensor], assign: Assign = gptq) -> Int4Weight:
    """Progressive int4 for `weight` [O, K], scales, multipliers and offsets as `pack_int4` finds them.

    They are found first and for all groups, so that columns can be rounded in any order. `gram` and errors as for
    `round_int8`.
    """
    check_finite(weight)
    rows, inputs = weight.shape
    group = fitting_group(inputs, group)
    scale = row_scale(weight.float().abs().amax(1))
    grouped = F.pad(weight.float() / scale[:, None], (0, -inputs % group)).view(rows, -1, group)
    gamma, offset = fit_groups(grouped)
    target = ((grouped - offset[..., None]) / gamma[..., None]).flatten(1)[:, :inputs]
    step = (gamma * scale[:, None]).repeat_interleave(group, 1)[:, :inputs]
    codes = F.pad(_in_blocks(target, step, gram, (0, 15), assign), (0, -inputs % group))
    return fold(codes.view(rows, -1, group), gamma, offset, scale)


def output_error(weight: Tensor, rounded: Tensor, gram: Sequence[Tensor]) -> float:
    """Relative error of a layer's outputs on what it saw: sqrt(tr(D H D^T) / tr(W H W^T)), D = rounded - weight."""
    lost, whole = (_cost(matrix, gram) for matrix in (rounded.float() - weight.float(), weight.float()))
    return math.sqrt(max(lost, 0.0) / max(whole, torch.finfo(torch.float32).tiny))


def _cost(matrix: Tensor, gram: Sequence[Tensor]) -> float:
    parts = torch.split(matrix, [len(block) for block in gram], 1)
    return sum(float(((part @ block) * part).sum()) for part, block in zip(parts, gram, strict=True))


def _in_blocks(target: Tensor, step: Tensor, gram: Sequence[Tensor], limits: tuple[int, int], assign: Assign) -> Tensor:
    """Codes [O, K], assigned for the columns of each block of H by themselves."""
    widths = [len(block) for block in gram]
    if sum(widths) != target.shape[1]:
        raise QuantizationError("The statistics are of another layer's inputs: observe this model again.")
    parts = zip(torch.split(target, widths, 1), torch.split(step, widths, 1), gram, strict=True)
    return torch.cat([assign(each, unit, block, limits) for each, unit, block in parts], 1)
