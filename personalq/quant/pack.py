"""Float weights to integer codes and back. It does not know which layer a weight came from, or how it is multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.errors import QuantizationError
from personalq.quant.formats import INT8

SHRINK = torch.arange(1.0, 0.2, -0.01).tolist()
"""The 80 clip factors that the MSE search chooses from, 1.00 down to 0.21."""

COARSE = 4
"""Every so many of them are tried first."""

INT4_STEPS = 6
"""Multipliers that the int4 search tries for each group: the one that covers it, and the next smaller ones."""

BLOCK_ELEMENTS = 1 << 20
"""Weights searched at a time, so that the peak stays near the packed size."""


class Int8Weight(NamedTuple):
    """`codes` int8 [O, K] and `scale` fp32 [O]: W = codes * scale."""

    codes: Tensor
    scale: Tensor


class Int4Weight(NamedTuple):
    """`codes` uint8 [O, G, g/2], `gamma` uint8 [O, G], `offset` int8 [O, G], `scale` fp32 [O].

    A byte holds code i of its group in the low half and code i + g/2 in the high half;
    W = (code * gamma + offset) * scale, and the bracket is always an exact int8.
    """

    codes: Tensor
    gamma: Tensor
    offset: Tensor
    scale: Tensor


def pack_int8(weight: Tensor) -> Int8Weight:
    """Symmetric int8 per output channel, s = c * max|W_o| / 127 with c by MSE search over `SHRINK`.

    `weight` is [O, K], any float type. Raises QuantizationError for NaN or infinity.
    """
    check_finite(weight)
    rows = [_search_int8(block.float()) for block in _blocks(weight)]
    return Int8Weight(torch.cat([r.codes for r in rows]), torch.cat([r.scale for r in rows]))


def pack_int4(weight: Tensor, group: int) -> Int4Weight:
    """Asymmetric int4 in groups along the input, in two integer stages.

    `weight` is [O, K]. Row o is first scaled by s_o = max|W_o| / 127; then every group gets an integer
    multiplier gamma in 1..17 and an integer offset, chosen by MSE, so that unpacking is exact in int8 and the
    matrix product stays one integer product (the progressive grouping of QServe, arXiv 2405.04532).
    Costs 4 + 16/g bits a weight and four bytes a row. A last group that is short is padded with zeros, which are
    stored and counted. Raises QuantizationError for NaN, infinity or an odd or empty group.
    """
    if group < 2 or group % 2:
        raise QuantizationError(f"Int4 packs two codes a byte: a group of {group} must be an even number above zero.")
    check_finite(weight)
    group = fitting_group(weight.shape[1], group)
    parts = [_search_int4(block.float(), group) for block in _blocks(weight)]
    return Int4Weight(*(torch.cat(column) for column in zip(*parts, strict=True)))


def unpack_int4(packed: Int4Weight, inputs: int) -> Tensor:
    """The exact int8 values [O, inputs] of packed codes: code * gamma + offset, padding cut off."""
    codes = torch.cat([packed.codes & 15, packed.codes >> 4], dim=-1)
    # Bytes wrap modulo 256, which is two's complement: code * gamma <= 255 and the sum is in -128..127.
    codes.mul_(packed.gamma.unsqueeze(-1)).add_(packed.offset.view(torch.uint8).unsqueeze(-1))
    return codes.view(torch.int8).flatten(1)[:, :inputs]


def fitting_group(inputs: int, group: int) -> int:
    """The group size really used: `group`, or the whole input made even where that is smaller."""
    return min(group, inputs + inputs % 2)


def check_finite(weight: Tensor) -> None:
    """Raise QuantizationError when a weight [O, K] has NaN, infinity or no elements."""
    if weight.numel() == 0:
        raise QuantizationError("The weight has no elements: this layer cannot be quantised, keep it as it is.")
    if not bool(torch.isfinite(weight).all()):
        raise QuantizationError("The weight has NaN or infinite values: the checkpoint is damaged, fetch it again.")


def _blocks(weight: Tensor) -> Iterator[Tensor]:
    rows = max(1, BLOCK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        yield weight.detach()[start : start + rows]


def row_scale(largest: Tensor) -> Tensor:
    """fp32 scale of rows whose largest magnitude becomes 127; above zero for rows of zeros."""
    return (largest / INT8.qmax).clamp_min(torch.finfo(torch.float32).tiny)


def _search_int8(weight: Tensor) -> Int8Weight:
    """MSE search of one block [o, K] in fp32: every fourth clip factor first, then those around each row's best."""
    largest = weight.abs().amax(1)
    best, best_error = torch.ones_like(largest), torch.full_like(largest, torch.inf)
    room = torch.empty_like(weight), torch.empty_like(weight)

    def attempt(shrink: Tensor) -> None:
        nonlocal best, best_error
        error = _int8_error(weight, row_scale(largest * shrink), *room)
        better = error < best_error
        best, best_error = torch.where(better, shrink, best), torch.where(better, error, best_error)

    for shrink in SHRINK[::COARSE]:
        # What clipping the largest weight alone costs only grows: above the best of every row the search is over.
        if bool(((largest * (1 - shrink)).square() > best_error).all()):
            break
        attempt(torch.full_like(largest, shrink))
    middle = best
    for step in range(1, COARSE):
        for shrunk in (middle - 0.01 * step, middle + 0.01 * step):
            attempt(shrunk.clamp(SHRINK[-1], 1.0))
    scale = row_scale(largest * best)
    codes = torch.mul(weight, scale.reciprocal()[:, None], out=room[0]).round_().clamp_(INT8.qmin, INT8.qmax)
    return Int8Weight(codes.to(torch.int8), scale)


def _int8_error(weight: Tensor, scale: Tensor, scaled: Tensor, codes: Tensor) -> Tensor:
    """Squared error of each row under its scale [o]; the last two are room to work in."""
    torch.mul(weight, scale.reciprocal()[:, None], out=scaled)
    torch.round(scaled, out=codes).clamp_(INT8.qmin, INT8.qmax).sub_(scaled)
    error: Tensor = torch.linalg.vector_norm(codes, dim=1).mul_(scale).square_()
    return error


def _search_int4(weight: Tensor, group: int) -> Int4Weight:
    """Both stages for one block [o, K] in fp32."""
    rows, inputs = weight.shape
    scale = row_scale(weight.abs().amax(1))
    padded = F.pad(weight / scale[:, None], (0, -inputs % group)).view(rows, -1, group)
    gamma, offset = fit_groups(padded)
    return fold(codes_in_groups(padded, gamma, offset), gamma, offset, scale)


def fit_groups(values: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Integer multiplier and offset [...] for groups of row-scaled values [..., g], by the least squared error.

    `importance` [..., g] weighs the squares.
    """
    low, high = values.amin(-1), values.amax(-1)
    cover = ((high - low) / 15).ceil().clamp_(1, 17)
    best_error = torch.full_like(low, torch.inf)
    best_gamma, best_offset = cover, low
    for less in range(INT4_STEPS):
        gamma = (cover - less).clamp_min(1)
        offset = ((low + high - 15 * gamma) / 2).round_()
        offset = torch.minimum(offset.clamp_min_(-128), 127 - 15 * gamma)
        squares = values_in_groups(codes_in_groups(values, gamma, offset), gamma, offset).sub_(values).square_()
        error = (squares if importance is None else squares.mul_(importance)).sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_gamma, best_offset = torch.where(better, gamma, best_gamma), torch.where(better, offset, best_offset)
    return best_gamma, best_offset


def fold(codes: Tensor, gamma: Tensor, offset: Tensor, scale: Tensor) -> Int4Weight:
    """Codes [O, G, g] in 0..15, whole multipliers and offsets [O, G] and scales [O], as they are stored."""
    codes = codes.to(torch.uint8)
    half = codes.shape[-1] // 2
    bytes_ = codes[..., :half] | codes[..., half:] << 4
    return Int4Weight(bytes_, gamma.to(torch.uint8), offset.to(torch.int8), scale)


def codes_in_groups(values: Tensor, gamma: Tensor, offset: Tensor) -> Tensor:
    """Nearest code in 0..15 for row-scaled values [..., g]."""
    return ((values - offset[..., None]) / gamma[..., None]).round_().clamp_(0, 15)


def values_in_groups(codes: Tensor, gamma: Tensor, offset: Tensor) -> Tensor:
    """code * gamma + offset, in place of the codes [..., g]."""
    return codes.mul_(gamma[..., None]).add_(offset[..., None])
