"""How the input of a packed layer is quantised and multiplied: the ways there are, in plain torch on exact products.

Each way is a frozen record; one function picks it by the rule. Nothing here knows modules, finds segments or packs
weights. Four-bit activations are held in bytes: their arithmetic is exact, their speed would be simulated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.errors import QuantizationError
from personalq.quant import ops
from personalq.quant.formats import ASYM4, ASYM8, INT4_ACT, INT8
from personalq.records import QType, Rule

TINY = torch.finfo(torch.float32).tiny


class Codes(NamedTuple):
    """An input as integers, x = sum over halves of scale * (codes + shift).

    `codes` int8 [halves * B, ...], the halves stacked along the first dimension, so that one integer product serves
    them all; `scale` and `shift` fp32, of the same number of dimensions, broadcast over what shares a scale.
    """

    codes: Tensor
    scale: Tensor
    shift: Tensor | None = None


@dataclass(frozen=True)
class Symmetric:
    """One scale for both signs, s = max|x| / qmax over the dimensions that share it."""

    format: QType = INT8
    halves = 1

    def quantize(self, x: Tensor, dims: tuple[int, ...]) -> Codes:
        """Codes of `x` with one scale over `dims`; NaN and infinity land in the scale and so in the result."""
        if self.format == INT8:
            return Codes(*ops.quantize_rows(x, dims))
        x = x.float()
        scale = _scale(x.abs().amax(dims, keepdim=True), self.format.qmax)
        return Codes((x * scale.reciprocal()).round_().to(torch.int8), scale)


@dataclass(frozen=True)
class DualScale:
    """A scale for each sign, for inputs that SiLU or GELU made lopsided (SegQuant, arXiv 2507.14811).

    X+ = max(X, 0) and X- = min(X, 0), s+ = max X / qmax and s- = -min X / qmax;
    Y = s+ (X+ W) + s- (X- W), both halves in one product twice as tall.
    """

    format: QType = INT8
    halves = 2

    def quantize(self, x: Tensor, dims: tuple[int, ...]) -> Codes:
        """Codes of max(x, 0) above those of min(x, 0), each with one scale over `dims`."""
        x, limit = x.float(), self.format.qmax
        high = _scale(x.amax(dims, keepdim=True).clamp_min_(0), limit)
        low = _scale(x.amin(dims, keepdim=True).clamp_max_(0).neg_(), limit)
        above = (x * high.reciprocal()).clamp_min_(0).round_().to(torch.int8)
        below = (x * low.reciprocal()).clamp_max_(0).round_().to(torch.int8)
        return Codes(torch.cat([above, below]), torch.cat([high, low]))


@dataclass(frozen=True)
class Asymmetric:
    """One scale and a zero point z over the range from min(x, 0) to max(x, 0): the control of `DualScale`.

    x = s (q - z), so that Y = s (Q W) - s z sum(W): one product, and the sums of the weight's rows. Zero is exact.
    """

    format: QType = ASYM8
    halves = 1

    def quantize(self, x: Tensor, dims: tuple[int, ...]) -> Codes:
        """Codes q less the middle of the range, so that they fit a signed byte, and the shift that restores them."""
        x, levels = x.float(), self.format.qmax
        low = x.amin(dims, keepdim=True).clamp_max_(0)
        scale = _scale(x.amax(dims, keepdim=True).clamp_min_(0) - low, levels)
        zero, middle = (low / scale).round_().neg_(), (levels + 1) // 2
        codes = (x * scale.reciprocal()).round_().add_(zero).clamp_(0, levels).sub_(middle)
        return Codes(codes.to(torch.int8), scale, middle - zero)


Activation = Symmetric | DualScale | Asymmetric


def activation_for(rule: Rule, lopsided: bool) -> Activation | None:
    """The way that a rule asks for; None is weight-only: the unpacked weight is multiplied in the input's type.

    `lopsided` tells whether the input comes from SiLU, GELU or GEGLU. Raises QuantizationError for other formats.
    """
    if rule.activation is None:
        return None
    if rule.activation in (INT8, INT4_ACT):
        return DualScale(rule.activation) if rule.dual and lopsided else Symmetric(rule.activation)
    if rule.activation in (ASYM8, ASYM4) and not rule.dual:
        return Asymmetric(rule.activation)
    raise QuantizationError(
        f"Rule {rule.pattern!r}: activations in {rule.activation.name}{' with DualScale' if rule.dual else ''} are not "
        f"built: choose {INT8.name} or {INT4_ACT.name}, {ASYM8.name} or {ASYM4.name} without DualScale, or none."
    )


def linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    how: Activation,
    widths: tuple[int, ...] = (),
    sums: Tensor | None = None,
) -> Tensor:
    """x [..., K] times int8 weight codes [O, K] with scale [O]: [..., O] in the type of `x`, a scale per token.

    With `widths` there is a scale per token and segment of the input, Y = sum_i Q_i(X_i) W_i^T (SegLinear).
    `sums` int32 [O, segments] are the row sums of the codes, which `Asymmetric` needs.
    """
    if how == Symmetric() and not widths:
        return ops.linear_int8(x, codes, scale, bias)
    widths = widths or (codes.shape[1],)
    parts, terms = torch.split(x.reshape(-1, x.shape[-1]), list(widths), 1), []
    for part, weight, row_sums in zip(parts, torch.split(codes, list(widths), 1), _each(sums, widths), strict=True):
        quantised = how.quantize(part, (1,))
        terms.append(_product(how, quantised, quantised.codes, weight, scale, row_sums))
    return _finish(terms, bias, x.dtype).view(*x.shape[:-1], -1)


def conv2d(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    shape: ops.ConvShape,
    how: Activation,
    widths: tuple[int, ...] = (),
    sums: Tensor | None = None,
) -> Tensor:
    """x [B, C, H, W] with int8 weight codes [O, kh*kw*C]: [B, O, H', W'] in the type of `x`, a scale per sample.

    With `widths` there is a scale per sample and segment of the channels, and `codes` hold one segment after the
    other, channels innermost in each. `sums` int32 [O, segments] as in `linear`. Channels-last in memory.
    """
    if how == Symmetric() and not widths:
        return ops.conv2d_int8(x, codes, scale, bias, shape)
    widths, taps = widths or (x.shape[1],), shape.kernel[0] * shape.kernel[1]
    if isinstance(how, Asymmetric):  # its code of zero is not zero: the border must be there when it is quantised
        (height, width), shape = shape.padding, shape._replace(padding=(0, 0))
        x = F.pad(x, (width, width, height, height))
    weights = torch.split(codes, [taps * width for width in widths], 1)
    terms = []
    for part, weight, row_sums in zip(torch.split(x, list(widths), 1), weights, _each(sums, widths), strict=True):
        quantised = how.quantize(part, (1, 2, 3))
        columns = ops.im2col(quantised.codes, shape)
        terms.append(_product(how, quantised, columns.flatten(0, 2), weight, scale, row_sums))
    return _finish(terms, bias, x.dtype).view(x.shape[0], *columns.shape[1:3], -1).permute(0, 3, 1, 2)


def _product(how: Activation, x: Codes, columns: Tensor, weight: Tensor, scale: Tensor, sums: Tensor | None) -> Tensor:
    """fp32 [M, O] of `columns` int8 [halves * M, K], the codes of `x` as they were laid out for the product."""
    share = columns.shape[0] // x.scale.numel()
    rows = x.scale.reshape(-1, 1).repeat_interleave(share, 0)
    out = ops.rescale(ops.int_mm(columns, weight), rows, scale, None, torch.float32)
    if x.shift is not None:
        if sums is None:
            raise QuantizationError("An asymmetric input needs the row sums of the weight's codes: pass them.")
        out.addcmul_(rows * x.shift.reshape(-1, 1).repeat_interleave(share, 0), sums * scale)
    return _sum(out.chunk(how.halves))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """Their sum, in the memory of the first."""
    first, *others = terms
    for term in others:
        first.add_(term)
    return first


def _finish(terms: list[Tensor], bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    total = _sum(terms)
    return (total if bias is None else total.add_(bias.float())).to(dtype)


def _each(sums: Tensor | None, widths: tuple[int, ...]) -> Iterable[Tensor | None]:
    return [None] * len(widths) if sums is None else sums.unbind(1)


def _scale(largest: Tensor, limit: int) -> Tensor:
    return (largest / limit).clamp_min_(TINY)
