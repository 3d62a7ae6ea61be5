"""Joint attention of picture and text (SD3, FLUX), with the text's rows told apart. Knows no number formats.

The text stream changes with every block and step, so nothing is kept from one step to the next. How its keys and values
are projected and attended to is a `JointText`: full precision here, others elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from personalq.diffusion.attention import heads
from personalq.errors import ModelError

ROWS = TypeVar("ROWS")
KeyValue: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values, [B, h, n, d] each."""
Rotation: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines of FLUX's rotary embedding, [L + N, d] each, the text's rows first."""


class JointText(Protocol[ROWS]):
    """How the text's keys and values are projected, and attended to beside the picture's."""

    def rows(self, protected: Tensor) -> ROWS:
        """What it needs to know of the protected rows [B, L] bool; asked once a prompt, handed back at each call."""
        ...

    def project(self, layer: nn.Module, x: Tensor, rows: ROWS) -> Tensor:
        """`layer`, which makes keys or values, applied to x [B, n, D], whose first L rows are the text's."""
        ...

    def attend(self, query: Tensor, picture: KeyValue, text: KeyValue, rows: ROWS) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V over the columns of both, for `query` [B, h, n, d]."""
        ...


class FullJoint:
    """The reference `JointText`: nothing is rounded, so nothing needs protection."""

    def rows(self, protected: Tensor) -> Tensor:
        """The mask as it is."""
        return protected

    def project(self, layer: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        """The layer as it is."""
        out: Tensor = layer(x)
        return out

    def attend(self, query: Tensor, picture: KeyValue, text: KeyValue, rows: Tensor) -> Tensor:
        """Scaled dot-product attention over the text's columns and the picture's."""
        key, value = (torch.cat(pair, 2) for pair in zip(text, picture, strict=True))
        return scaled_dot_product_attention(query, key, value)


class Joint(Generic[ROWS]):
    """One prompt's text rows and what they are attended to with, shared by all layers."""

    nbytes = 0
    """Nothing is kept from one step to the next."""

    def __init__(self, text: JointText[ROWS], protected: Tensor) -> None:
        self.text, self.length, self.rows = text, protected.shape[1], text.rows(protected)

    def project(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Keys or values of x [B, n, D], whose first L rows are the text's."""
        return self.text.project(layer, x, self.rows)

    def attend(self, query: Tensor, picture: KeyValue, text: KeyValue) -> Tensor:
        """`query` [B, h, n, d] over both; returns [B, n, h * d]."""
        return self.text.attend(query, picture, text, self.rows).transpose(1, 2).flatten(2).to(query.dtype)


class Stream(NamedTuple):
    """Queries, keys and values of one stream, [B, h, n, d]."""

    query: Tensor
    key: Tensor
    value: Tensor

    def rotated(self, rotation: Rotation | None, start: int) -> Stream:
        """Queries and keys with FLUX's rotary embedding, whose row `start` is the stream's first."""
        if rotation is None:
            return self
        here = tuple(part[start : start + self.query.shape[2]] for part in rotation)
        return Stream(apply_rotary_emb(self.query, here), apply_rotary_emb(self.key, here), self.value)


class DoubleProcessor:
    """A diffusers attention processor for a block with a stream for the picture and one for the text (SD3, FLUX)."""

    def __init__(self, joint: Joint[Any]) -> None:
        self.joint = joint

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Picture [B, N, C] and text [B, L, C] attend to both; returns both, in that order."""
        words, joint = encoder_hidden_states, self.joint
        if words is None or attention_mask is not None or words.shape[1] != joint.length:
            raise ModelError(f"Joint attention needs text of {joint.length} rows and no attention mask.")
        text = Stream(
            normed(attn.add_q_proj(words), attn, attn.norm_added_q),
            normed(joint.project(attn.add_k_proj, words), attn, attn.norm_added_k),
            heads(joint.project(attn.add_v_proj, words), attn.heads),
        ).rotated(image_rotary_emb, 0)
        picture = Stream(
            normed(attn.to_q(hidden_states), attn, attn.norm_q),
            normed(attn.to_k(hidden_states), attn, attn.norm_k),
            heads(attn.to_v(hidden_states), attn.heads),
        ).rotated(image_rotary_emb, joint.length)
        mixed = joint.attend(torch.cat([text.query, picture.query], 2), picture[1:], text[1:])
        of_text, of_picture = mixed[:, : joint.length], mixed[:, joint.length :]
        if not attn.context_pre_only:  # else the text stream ends here, and nobody looks at it
            of_text = attn.to_add_out(of_text)
        for layer in attn.to_out:  # a projection, then dropout
            of_picture = layer(of_picture)
        return of_picture, of_text


class SingleProcessor:
    """A diffusers attention processor for FLUX's blocks with one stream, in which the text goes before the picture."""

    def __init__(self, joint: Joint[Any]) -> None:
        self.joint = joint

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotation | None = None,
    ) -> Tensor:
        """Text and picture [B, L + N, C] attend to themselves; returns [B, L + N, C]."""
        if encoder_hidden_states is not None or attention_mask is not None:
            raise ModelError("A block with one stream needs no other one and no attention mask.")
        joint = self.joint
        both = Stream(
            normed(attn.to_q(hidden_states), attn, attn.norm_q),
            normed(joint.project(attn.to_k, hidden_states), attn, attn.norm_k),
            heads(joint.project(attn.to_v, hidden_states), attn.heads),
        ).rotated(image_rotary_emb, 0)
        text = both.key[:, :, : joint.length], both.value[:, :, : joint.length]
        picture = both.key[:, :, joint.length :], both.value[:, :, joint.length :]
        return joint.attend(both.query, picture, text)


def normed(x: Tensor, attn: Any, norm: nn.Module | None) -> Tensor:
    """[B, n, h * d] to [B, h, n, d], each head normalised where the model does so."""
    split = heads(x, attn.heads)
    return split if norm is None else norm(split)


def joint_layers(transformer: nn.Module) -> dict[str, Any]:
    """The attention layers that see both picture and text, by dotted name, in the order of the blocks.

    A second attention over the picture alone (SD3.5) is not among them. Raises ModelError when there are none, or
    their projections are fused.
    """
    layers = {}
    for name, module in transformer.named_modules():
        single = isinstance(module, FluxAttention) and module.pre_only
        if single or (isinstance(module, Attention | FluxAttention) and module.added_kv_proj_dim is not None):
            layers[name] = module
            if getattr(module, "fused_projections", False):
                raise ModelError(f"The projections of {name} are fused: unfuse them before generating.")
    if not layers:
        raise ModelError("No layer of this model attends to picture and text together; use an SD3 or FLUX base.")
    return layers


@contextmanager
def joint_attention(transformer: nn.Module, text: JointText[ROWS], protected: Tensor) -> Iterator[Joint[ROWS]]:
    """Let a transformer's joint attention go through `text` for one prompt; on leaving, restore its own.

    `protected` [B, L] bool must have the batch of the denoising steps: unconditional row first under guidance.
    """
    layers = joint_layers(transformer)
    before = {name: attn.processor for name, attn in layers.items()}
    joint = Joint(text, protected)
    try:
        for attn in layers.values():
            attn.set_processor(SingleProcessor(joint) if attn.added_kv_proj_dim is None else DoubleProcessor(joint))
        yield joint
    finally:
        for name, attn in layers.items():
            attn.set_processor(before[name])
