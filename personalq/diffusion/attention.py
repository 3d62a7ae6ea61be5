"""Text cross-attention with keys and values computed once per prompt. Knows no number formats.

How the keys and values are kept is a `TextAttention`: full precision here, others elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from personalq.errors import ModelError

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

    def __init__(self, text: TextAttention[KV], protected: Tensor) -> None:
        self.text = text
        self.protected = protected
        """[B, L] bool, on the device of the denoiser; B is 2 (unconditional, conditional) or 1."""
        self.kept: dict[str, KV] = {}

    @property
    def nbytes(self) -> int:
        """Bytes kept for all layers."""
        return sum(kv.nbytes for kv in self.kept.values())

    def attend(self, layer: str, attn: Attention, query: Tensor, embeddings: Tensor) -> Tensor:
        """Attend `query` [B, h, N, d] to the text [B, L, D], projecting the text only if it is not kept yet."""
        if layer not in self.kept:
            key, value = (heads(project(embeddings), attn.heads) for project in (attn.to_k, attn.to_v))
            self.kept[layer] = self.text.project(key, value, self.protected)
        return self.text.attend(query, self.kept[layer])


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
        mixed: Tensor = self.cache.attend(self.layer, attn, query, encoder_hidden_states)
        out: Tensor = mixed.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        for layer in attn.to_out:  # a projection, then dropout
            out = layer(out)
        scaled: Tensor = out / attn.rescale_output_factor
        return scaled


def heads(x: Tensor, count: int) -> Tensor:
    """[B, n, h * d] to [B, h, n, d]."""
    return x.view(*x.shape[:-1], count, -1).transpose(1, 2)


def text_layers(unet: nn.Module) -> dict[str, Attention]:
    """The text cross-attention layers of a UNet by dotted name; ModelError if one is of a shape not handled here."""
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, Attention) and m.is_cross_attention}
    for name, attn in layers.items():
        extras = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.added_kv_proj_dim)
        if any(extras) or attn.residual_connection or not attn.scale_qk:
            raise ModelError(f"The attention layer {name} is not of the Stable Diffusion kind; use an SD or SDXL base.")
    return layers


@contextmanager
def prompt_attention(unet: nn.Module, text: TextAttention[KV], protected: Tensor) -> Iterator[PromptCache[KV]]:
    """Give the UNet's text cross-attention a cache for one prompt; on leaving, restore it and drop the cache.

    `protected` [B, L] bool must have the batch of the denoising steps: unconditional row first under guidance.
    """
    layers = text_layers(unet)
    before = {name: attn.processor for name, attn in layers.items()}
    cache = PromptCache(text, protected)
    try:
        for name, attn in layers.items():
            attn.set_processor(CachedTextProcessor(name, cache))
        yield cache
    finally:
        for name, attn in layers.items():
            attn.set_processor(before[name])
        cache.kept.clear()
