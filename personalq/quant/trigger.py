"""Trigger-aware cross-attention: the text's keys and values, projected once, attended to at every step.

Rows of protected tokens and their attention columns stay in full precision; the others are stored in eight or four
bits and their attention probabilities are quantised. It knows nothing of prompts, tokenizers, modules or samplers.

Shapes: B batch, h heads, N image tokens, L text tokens, d head width; M the most protected rows of any sample in the
batch and R the most unprotected ones. Samples with fewer are padded, and padding gets minus infinity in the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.errors import QuantizationError
from personalq.quant.formats import INT4_ROWS, INT8, LINEAR4, LINEAR8, LOG_STEP
from personalq.quant.ops import quantize_rows
from personalq.records import QType, Recipe

ROWS = (None, INT8, INT4_ROWS)
PROBABILITIES = (None, *LOG_STEP, LINEAR8.name, LINEAR4.name)


@dataclass(frozen=True)
class TextKV:
    """One prompt batch's keys and values as one layer keeps them, key order [protected | rest]."""

    key: Tensor
    """Protected rows, in the type they were projected in, [B, h, M, d]."""
    value: Tensor
    key_codes: Tensor
    """The other rows, K = codes * scale: int8 [B, h, R, d], or two codes of four bits a byte, uint8 [B, h, R, d/2]."""
    key_scale: Tensor
    """fp32 [B, h, R, 1]: one scale a row, so that it could leave the product with the query as a factor."""
    value_codes: Tensor
    value_scale: Tensor
    """fp32 [B, h, 1, d]: one scale a channel, so that it could leave the product with the probabilities as a factor."""
    padding: Tensor | None
    """fp32 [B, 1, 1, M + R], minus infinity at padded columns; None where nothing is padded."""

    @property
    def nbytes(self) -> int:
        """Bytes really held, padding included."""
        held = (getattr(self, field.name) for field in fields(self))
        return sum(tensor.nbytes for tensor in held if tensor is not None)


class TriggerAware:
    """Projects and attends as a recipe says. Which rows are protected comes as a mask, with the text."""

    def __init__(self, recipe: Recipe) -> None:
        """Raises QuantizationError for formats of rows or probabilities that are not built."""
        rows, probabilities = recipe.text_rows, recipe.probabilities
        if rows not in ROWS:
            built = ", ".join(format.name for format in ROWS if format)
            raise QuantizationError(f"Recipe {recipe.name}: text rows are built in {built} or None only.")
        if (probabilities.name if probabilities else None) not in PROBABILITIES:
            built = ", ".join(name for name in PROBABILITIES if name)
            raise QuantizationError(f"Recipe {recipe.name}: choose {built} or None for probabilities.")
        self.recipe = recipe

    def project(self, key: Tensor, value: Tensor, protected: Tensor) -> TextKV:
        """Order, split and pack freshly projected keys and values [B, h, L, d] by a mask [B, L], true = protected.

        A recipe without a row format keeps every row. Scales see unprotected rows only, so that a large protected
        value costs the others nothing. Raises QuantizationError when the shapes do not fit together.
        """
        batch, _, length, _ = key.shape
        if key.shape != value.shape or protected.shape != (batch, length):
            raise QuantizationError(
                f"The mask is {list(protected.shape)} for keys {list(key.shape)} and values {list(value.shape)}: "
                "pass one flag per sample and text token."
            )
        kept = self._kept(protected.to(key.device))
        order = torch.argsort(~kept, dim=1, stable=True)
        count = kept.sum(1, keepdim=True)
        most, least = int(count.max()), int(count.min())
        place = torch.arange(length, device=key.device)
        stray, taken = place[:most] >= count, place[least:] < count
        key_codes, key_scale = self._packed(_rows(key, order[:, least:], taken), -1)
        value_codes, value_scale = self._packed(_rows(value, order[:, least:], taken), -2)
        padded = torch.cat([stray, taken], 1)[:, None, None]
        return TextKV(
            key=_rows(key, order[:, :most], stray),
            value=_rows(value, order[:, :most], stray),
            key_codes=key_codes,
            key_scale=key_scale,
            value_codes=value_codes,
            value_scale=value_scale,
            padding=torch.zeros(padded.shape, device=key.device).masked_fill_(padded, -torch.inf)
            if most > least
            else None,
        )

    def attend(self, query: Tensor, kv: TextKV) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V for query [B, h, N, d], with the columns of unprotected rows quantised.

        Rows are unpacked for the call and multiplied in fp32, which holds the integer codes exactly; the result has
        the query's type. Where every row is kept this is plain attention.
        """
        if kv.key_codes.shape[2] == 0:
            return F.scaled_dot_product_attention(query, kv.key, kv.value)
        kept, width = kv.key.shape[2:]
        key = torch.cat([kv.key.float(), unpacked(kv.key_codes, width) * kv.key_scale], 2)
        value = torch.cat([kv.value.float(), unpacked(kv.value_codes, width) * kv.value_scale], 2)
        logits = (query.float() * query.shape[-1] ** -0.5) @ key.mT
        if kv.padding is not None:
            logits += kv.padding
        weights = logits.softmax(-1)
        weights[..., kept:] = quantize_probabilities(weights[..., kept:], self.recipe.probabilities)
        out: Tensor = weights @ value
        return out.to(query.dtype)

    def _packed(self, rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Codes of [B, h, R, d] and their fp32 scale along `dim`; R may be zero."""
        four = self.recipe.text_rows == INT4_ROWS
        if rows.shape[2] == 0:
            return rows.to(torch.uint8 if four else torch.int8), rows.new_zeros((), dtype=torch.float32)
        return quantize_rows4(rows, (dim,)) if four else quantize_rows(rows, (dim,))

    def _kept(self, protected: Tensor) -> Tensor:
        if self.recipe.text_rows is None:
            return torch.ones_like(protected)
        return protected


def quantize_probabilities(weights: Tensor, format: QType | None) -> Tensor:
    """Attention probabilities [..., N, R] rounded to what `format` can hold, scale s = the largest of each row.

    Linear: s/qmax * round(a qmax / s). Logarithmic: q = round(-log2(a/s) / step), the value s * 2^(-q step), and
    the top code is zero. None returns them as they are.
    """
    if format is None:
        return weights
    tiny = torch.finfo(weights.dtype).tiny
    largest = weights.amax(-1, keepdim=True).clamp_min(tiny)
    step = LOG_STEP.get(format.name)
    if step is None:
        even = (largest / format.qmax).clamp_min(tiny)
        return (weights / even).round_().mul_(even)
    codes = (weights / largest).log2_().div_(-step).round_()
    return torch.where(codes >= format.qmax, 0.0, largest * torch.exp2(codes * -step))


def quantize_rows4(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Symmetric codes of x [..., d] in -7..7, two a byte [..., ceil(d / 2)], and fp32 scale max|x| / 7 over `dims`.

    A byte holds code i + 8 in its low half and code i + d/2 in the high half. NaN and infinity land in the scale.
    """
    x = x.float()
    scale = (x.abs().amax(dims, keepdim=True) / INT4_ROWS.qmax).clamp_min_(torch.finfo(torch.float32).tiny)
    codes = F.pad((x / scale).round_().add_(8), (0, x.shape[-1] % 2), value=8).to(torch.uint8)
    low, high = codes.chunk(2, -1)
    return low | high << 4, scale


def unpacked(codes: Tensor, width: int) -> Tensor:
    """int8 codes [..., width] of rows at eight bits, which are that already, or at four."""
    if codes.dtype == torch.int8:
        return codes
    return torch.cat([codes & 15, codes >> 4], -1)[..., :width].to(torch.int8).sub_(8)


def _rows(tensor: Tensor, order: Tensor, blank: Tensor) -> Tensor:
    """Rows of [B, h, L, d] in `order` [B, R]; those that are `blank` [B, R] only fill up the batch and are zero."""
    index = order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
    return tensor.gather(2, index).masked_fill_(blank[:, None, :, None], 0)
