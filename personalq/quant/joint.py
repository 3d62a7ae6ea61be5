"""Trigger-aware joint attention (SD3, FLUX): rows and columns of protected tokens stay exact among quantised text.

The text's keys and values are new at every step, so nothing is stored: other rows are rounded to their codes' values
and used at once, which is exact arithmetic with simulated savings. The picture's keys, values and columns are left as
their layers made them, as self-attention is in a UNet. It knows nothing of prompts, blocks or models.

Shapes: B batch, h heads, n queries, N picture and L text tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.formats import INT8
from personalq.quant.layers import QLinear
from personalq.quant.ops import quantize_rows
from personalq.quant.trigger import TriggerAware, quantize_probabilities, quantize_rows4, unpacked
from personalq.records import QType, Recipe

KeyValue: TypeAlias = tuple[Tensor, Tensor]

QUERY_BLOCK = 256
"""Queries whose probabilities of the text's columns are held at a time."""


@dataclass(frozen=True)
class TextRows:
    """Which text rows of a batch are protected."""

    kept: Tensor
    """[B, 1, L, 1] bool."""
    where: tuple[Tensor, Tensor]
    """The same as sample and row of each."""
    every: bool

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.where[0])


class TriggerAwareJoint:
    """Projects and attends as a recipe says. Which rows are protected comes as a mask, with the text."""

    def __init__(self, recipe: Recipe) -> None:
        """Raises QuantizationError for formats of rows or probabilities that are not built."""
        self.recipe = TriggerAware(recipe).recipe  # the formats are the same there

    def rows(self, protected: Tensor) -> TextRows:
        """What the mask [B, L], true = protected, says. A recipe without a row format keeps every row."""
        kept = torch.ones_like(protected) if self.recipe.text_rows is None else protected
        sample, row = protected.nonzero(as_tuple=True)
        return TextRows(kept[:, None, :, None], (sample, row), bool(kept.all()))

    def project(self, layer: nn.Module, x: Tensor, rows: TextRows) -> Tensor:
        """`layer` applied to x [B, n, D], whose first L rows are the text's, with the protected ones exact.

        Where the layer, or the one that an adapter wraps, quantises its input, it takes all rows as always; the
        protected ones are then multiplied anew in the type of x with its weight dequantised, which is not kept.
        Adapters add to the exact rows.
        """
        packed = next((part for part in layer.modules() if isinstance(part, QLinear)), None)
        if packed is None or packed.activation is None or rows.count == 0:
            plain: Tensor = layer(x)
            return plain
        # First of all hooks: those of adapters add to what this one leaves.
        hook = packed.register_forward_hook(partial(_exact_rows, where=rows.where), prepend=True)
        try:
            out: Tensor = layer(x)
        finally:
            hook.remove()
        return out

    def attend(self, query: Tensor, picture: KeyValue, text: KeyValue, rows: TextRows) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V for query [B, h, n, d] over both, columns of unprotected text rows quantised.

        Where every row is kept, and where probabilities are, this is plain attention over the rows. Raises
        QuantizationError when the mask does not fit the text's keys.
        """
        if rows.kept.shape[::2] != text[0].shape[::2]:
            raise QuantizationError(
                f"The mask is {list(rows.kept.shape)} for text keys {list(text[0].shape)}: "
                "pass one flag per sample and text token."
            )
        (key, value), format = text, self.recipe.text_rows
        if format is not None and not rows.every:
            key, value = rounded(key, rows.kept, -1, format), rounded(value, rows.kept, -2, format)
            if self.recipe.probabilities is not None:
                quantize = partial(_quantize_columns, kept=rows.kept.mT, format=self.recipe.probabilities)
                return attend_both(query, picture, (key, value), quantize)
        key, value = torch.cat([key, picture[0]], 2), torch.cat([value, picture[1]], 2)
        return F.scaled_dot_product_attention(query, key.to(query.dtype), value.to(query.dtype))


def rounded(x: Tensor, kept: Tensor, dim: int, format: QType) -> Tensor:
    """x [B, h, L, d] in fp32 with the rows that are not `kept` [B, 1, L, 1] at the values of their codes.

    One scale over `dim`: rows of keys (-1) or channels of values (-2). Scales see the rows that are not kept only.
    """
    others = x.masked_fill(kept, 0)
    codes, scale = quantize_rows(others, (dim,)) if format == INT8 else quantize_rows4(others, (dim,))
    return torch.where(kept, x.float(), unpacked(codes, x.shape[-1]) * scale)


def attend_both(query: Tensor, picture: KeyValue, text: KeyValue, quantize: Callable[[Tensor], Tensor]) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V over picture and text, the text's probabilities [B, h, n, L] put through `quantize`.

    The picture's part runs as one fused attention, whose log-sum-exp l joins it to the text's: with c = max(l, S_text),
    O = (exp(l - c) O_picture + q(exp(S_text - c)) V) / (exp(l - c) + sum exp(S_text - c)). `quantize` works by a scale
    for each query, so it may come before the division.
    """
    of_picture, lse_of_picture = fused_attention(query, *picture)
    key, value, out = text[0].float().mT, text[1].float(), []
    blocks = (torch.split(part, QUERY_BLOCK, 2) for part in (query, of_picture, lse_of_picture[..., None]))
    for block, mixed, lse in zip(*blocks, strict=True):
        logits = (block.float() * query.shape[-1] ** -0.5) @ key
        most = torch.maximum(lse, logits.amax(-1, keepdim=True))
        weights, share = logits.sub_(most).exp_(), (lse - most).exp_()
        total = share + weights.sum(-1, keepdim=True)
        out.append((quantize(weights) @ value).addcmul_(mixed.float(), share).div_(total).to(query.dtype))
    return torch.cat(out, 2)


def fused_attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d)) V [B, h, n, d] in the type of the query, and its log-sum-exp [B, h, n] in fp32.

    One fused kernel on the CPU, and on CUDA in 16 bits; otherwise as written.
    """
    if query.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    elif query.is_cuda and query.dtype != torch.float32 and query.shape[-1] % 8 == 0:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2]
    else:
        return fused_attention_reference(query, key, value)
    return out, lse


def fused_attention_reference(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """`fused_attention` as written, in fp32: slow, and what the other is tested against."""
    logits = (query.float() * query.shape[-1] ** -0.5) @ key.float().mT
    lse = logits.logsumexp(-1)
    return ((logits - lse[..., None]).exp() @ value.float()).to(query.dtype), lse


def _quantize_columns(weights: Tensor, kept: Tensor, format: QType) -> Tensor:
    """Probabilities [B, h, n, L] with the columns that are not `kept` [B, 1, 1, L] rounded, by a scale of their own."""
    others = quantize_probabilities(weights.masked_fill(kept, 0), format)
    return torch.where(kept, weights, others)


def _exact_rows(layer: QLinear, args: tuple[Tensor, ...], out: Tensor, *, where: tuple[Tensor, Tensor]) -> Tensor:
    """A packed layer's output with the rows at `where` multiplied anew in the type of its input, unrounded."""
    x = args[0]
    out[where] = F.linear(x[where], layer.dequantized().to(x.dtype), layer.bias)
    return out
