"""Text cross-attention with keys and values computed once per prompt. Knows no number formats.

How the keys and values are kept is a `TextAttention`: full precision here, others elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from personalq.errors import ModelError

BLOCK = 1 << 21
"""Logits of blocked attention held at a time."""

SHORT = 256
"""Fewer tokens than this are not worth blocks."""

ALIGNED = 16
"""Matrix products on CPUs like a number of columns that is a multiple of this."""

LARGEST_EXPONENT = 100.0
"""Powers of two up to this one can be summed in fp32 and bfloat16 by the million."""

KV = TypeVar("KV", bound="TextKV")


class TextKV(Protocol):
    """The kept keys and values of one layer and one prompt."""

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        ...


class TextAttention(Protocol[KV]):
    """How text keys and values are kept, and attended to."""

    def project(self, key: Tensor, value: Tensor, protected: Tensor) -> KV:
        """Keep `key` and `value` [B, h, L, d]; `protected` [B, L] bool marks the trigger rows."""
        ...

    def attend(self, query: Tensor, kv: KV) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V for `query` [B, h, N, d]; returns [B, h, N, d]."""
        ...


class FullKV:
    """Keys and values as they are, [B, h, L, d] each."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.key.nbytes + self.value.nbytes


class FullPrecision:
    """The reference `TextAttention`: nothing is rounded, so nothing needs protection."""

    def project(self, key: Tensor, value: Tensor, protected: Tensor) -> FullKV:
        """Keep both as they are."""
        return FullKV(key.contiguous(), value.contiguous())

    def attend(self, query: Tensor, kv: FullKV) -> Tensor:
        """Scaled dot-product attention."""
        return scaled_dot_product_attention(query, kv.key, kv.value)


class PromptCache(Generic[KV]):
    """Keys and values of one prompt for every cross-attention layer; filled by the first denoising step."""

    def __init__(self, text: TextAttention[KV], protected: Tensor, release: bool = False) -> None:
        self.text = text
        self.protected = protected
        """[B, L] bool, on the device of the denoiser; B is 2 (unconditional, conditional) or 1."""
        self.release = release
        """Projections are brought to the device only while they project, and are kept in host memory."""
        self.kept: dict[str, KV] = {}

    @property
    def nbytes(self) -> int:
        """Bytes kept for all layers."""
        return sum(kv.nbytes for kv in self.kept.values())

    def attend(self, layer: str, attn: Attention, query: Tensor, embeddings: Tensor) -> Tensor:
        """Attend `query` [B, h, N, d] to the text [B, L, D], projecting the text only if it is not kept yet."""
        if layer not in self.kept:
            key, value = (heads(self._through(project, embeddings), attn.heads) for project in (attn.to_k, attn.to_v))
            self.kept[layer] = self.text.project(key, value, self.protected)
        return self.text.attend(query, self.kept[layer])

    def _through(self, project: nn.Module, embeddings: Tensor) -> Tensor:
        out: Tensor = project.to(embeddings.device)(embeddings)
        if self.release:
            project.to("cpu")
        return out


class CachedTextProcessor:
    """A diffusers attention processor for one text cross-attention layer."""

    def __init__(self, layer: str, cache: PromptCache[Any]) -> None:
        self.layer, self.cache = layer, cache

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Image tokens [B, N, C] attend to text [B, L, D]; returns [B, N, C]."""
        if encoder_hidden_states is None or attention_mask is not None:
            raise ModelError(f"{self.layer}: text cross-attention needs text embeddings and no attention mask.")
        query = heads(attn.to_q(hidden_states), attn.heads)
        return _project_out(attn, self.cache.attend(self.layer, attn, query, encoder_hidden_states))


class BlockedProcessor:
    """A diffusers attention processor for one self-attention layer, with `blocked_attention`."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Image tokens [B, N, C] attend to each other; returns [B, N, C]."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ModelError("Self-attention in blocks takes no text and no attention mask.")
        query, key, value = (heads(part(hidden_states), attn.heads) for part in (attn.to_q, attn.to_k, attn.to_v))
        return _project_out(attn, blocked_attention(query, key, value))


def _project_out(attn: Attention, mixed: Tensor) -> Tensor:
    """[B, h, N, d] to [B, N, C], through the layer's last projection."""
    out = mixed.transpose(1, 2).flatten(2)
    for layer in attn.to_out:  # a projection, then dropout
        out = layer(out)
    scaled: Tensor = out / attn.rescale_output_factor
    return scaled


def blocked_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of [B, h, N, d], a block of queries of one head at a time: [B, h, N, d].

    On CPUs this is faster than the stock attention, which works in smaller blocks: one matrix product for the logits,
    their exponentials in place, one product with the values and a column of ones that adds up the normaliser. Logits
    are rounded to the type of the query. The largest of a row is only subtracted where exponentials could overflow.
    Short inputs take the stock attention.
    """
    if key.shape[2] < SHORT:
        return scaled_dot_product_attention(query, key, value)
    (batch, count, length, width), size = query.shape, key.shape[2]
    query = query.flatten(0, 1) * (width**-0.5 * math.log2(math.e))
    key, ones = key.flatten(0, 1), value.new_ones(batch * count, size, 1)
    value = pad(torch.cat([value.flatten(0, 1), ones], -1), (0, -(width + 1) % ALIGNED))
    risky = (query.norm(dim=-1).amax(1) * key.norm(dim=-1).amax(1) > LARGEST_EXPONENT).tolist()  # Cauchy-Schwarz
    rows = min(length, max(1, BLOCK // size))
    logits, out = query.new_empty(rows, size), query.new_empty(batch, length, count, width).transpose(1, 2)
    for head, into in enumerate(out[b, h] for b in range(batch) for h in range(count)):
        for start in range(0, length, rows):
            some = query[head, start : start + rows]
            weights = torch.mm(some, key[head].t(), out=logits[: len(some)])
            if risky[head]:
                weights.sub_(weights.amax(-1, keepdim=True))
            mixed = torch.mm(weights.exp2_(), value[head])
            torch.div(mixed[:, :width], mixed[:, width : width + 1], out=into[start : start + rows])
    return out


def heads(x: Tensor, count: int) -> Tensor:
    """[B, n, h * d] to [B, h, n, d]."""
    return x.view(*x.shape[:-1], count, -1).transpose(1, 2)


def self_layers(unet: nn.Module) -> dict[str, Attention]:
    """The self-attention layers of a UNet's transformer blocks by dotted name; others keep the processor they have."""
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, Attention) and not m.is_cross_attention}
    return {n: m for n, m in layers.items() if not _extras(m)}


def text_layers(unet: nn.Module) -> dict[str, Attention]:
    """The text cross-attention layers of a UNet by dotted name; ModelError if one is of a shape not handled here."""
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, Attention) and m.is_cross_attention}
    for name, attn in layers.items():
        if _extras(attn):
            raise ModelError(f"The attention layer {name} is not of the Stable Diffusion kind; use an SD or SDXL base.")
    return layers


def _extras(attn: Attention) -> bool:
    """Whether the layer does more than project, attend and project."""
    extras = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.added_kv_proj_dim)
    return any(extras) or attn.residual_connection or not attn.scale_qk


@contextmanager
def prompt_attention(
    unet: nn.Module, text: TextAttention[KV], protected: Tensor, blocked: bool = False, release: bool = False
) -> Iterator[PromptCache[KV]]:
    """Give the UNet's text cross-attention a cache for one prompt; on leaving, restore it and drop the cache.

    `protected` [B, L] bool must have the batch of the denoising steps: unconditional row first under guidance.
    With `blocked`, self-attention goes through `blocked_attention`. With `release`, the layers that project the text
    wait in host memory once they have projected, for the next prompt too.
    """
    layers, cache = text_layers(unet), PromptCache(text, protected, release)
    processors: dict[Attention, Any] = {attn: CachedTextProcessor(name, cache) for name, attn in layers.items()}
    if blocked:
        processors |= {attn: BlockedProcessor() for attn in self_layers(unet).values()}
    before = {attn: attn.processor for attn in processors}
    try:
        for attn, processor in processors.items():
            attn.set_processor(processor)
        yield cache
    finally:
        for attn, processor in before.items():
            attn.set_processor(processor)
        cache.kept.clear()
