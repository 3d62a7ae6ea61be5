"""The places in a UNet where numbers can be rounded, one kind in one block at a time, and switched back exactly.

Rounding here puts values on the grid that the packed layers and the packed keys and values have, and goes on in the
model's own type; so its errors are those of the real formats and its speed says nothing. It measures nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from personalq.diffusion.attention import heads
from personalq.quant.formats import INT4_ACT, INT4_ROWS, LOG4
from personalq.quant.pack import pack_int4, unpack_int4
from personalq.quant.recipe import GROUP
from personalq.quant.trigger import quantize_probabilities
from personalq.records import QType

KINDS = {
    "self Q": r"attn1\.to_q$",
    "self K": r"attn1\.to_k$",
    "self V": r"attn1\.to_v$",
    "self probabilities": r"attn1$",
    "text Q": r"attn2\.to_q$",
    "text K": r"attn2\.to_k$",
    "text V": r"attn2\.to_v$",
    "text probabilities": r"attn2$",
    "attention out": r"attn[12]\.to_out\.0$",
    "feed-forward": r"\.ff\.net\.(0\.proj|2)$",
    "convolution": r"(conv|conv1|conv2|conv_shortcut|proj_in|proj_out)$",
    "time": r"time_emb_proj$",
}
"""Kinds of places, and the names of their modules."""

INSIDE = {"text K": "keys", "text V": "values", "self probabilities": "probabilities"}
INSIDE |= {"text probabilities": "probabilities"}
"""What activations of a kind are rounded inside attention; those of other kinds are the inputs of their layers.

Text is projected once a prompt from its embeddings, and the rows that are kept are what is packed."""

ROUNDED = {"weights": (True, False), "activations": (False, True)}
"""What is at four bits, as `rounding` takes it. Probabilities have no weights."""

BLOCK = re.compile(r"(down|up|mid)_block[s.]*(\d*)")


@dataclass
class Switch:
    """What one attention layer rounds at present: nothing, until it is told."""

    formats: Mapping[str, QType] = field(default_factory=dict)
    """Of "keys", "values" and "probabilities", those that are rounded."""
    chosen: Tensor | None = None
    """[B, L] bool, the text rows and columns that are rounded; None is all of them."""
    mass: Tensor | None = None
    """fp32 [B, L], where set: the probability of each column is added to it, averaged over heads and queries."""


class SwitchedAttention:
    """A diffusers attention processor, for self-attention and for text, that rounds what its switch says."""

    def __init__(self) -> None:
        self.switch = Switch()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Image tokens [B, N, C] attend to text [B, L, D] or to themselves; returns [B, N, C]."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            heads(project(x), attn.heads)
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source))
        )
        mixed = attended(query, *rounded_rows(key, value, self.switch), self.switch)
        out: Tensor = mixed.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        for layer in attn.to_out:  # a projection, then dropout
            out = layer(out)
        return out


def attended(query: Tensor, key: Tensor, value: Tensor, switch: Switch) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V [B, h, N, d], the chosen columns of the probabilities rounded as among themselves."""
    format = switch.formats.get("probabilities")
    if format is None and switch.mass is None:
        return F.scaled_dot_product_attention(query, key, value)
    weights = ((query.float() * query.shape[-1] ** -0.5) @ key.float().mT).softmax(-1)
    if switch.mass is not None:
        switch.mass += weights.mean((1, 2))
    if format is not None:
        inside = torch.ones_like(weights[:, :1, :1], dtype=torch.bool)
        if switch.chosen is not None:
            inside = switch.chosen[:, None, None]
        rounded = quantize_probabilities(weights.masked_fill(~inside, 0), format)
        weights = torch.where(inside, rounded, weights)
    out: Tensor = weights @ value.float()
    return out.to(value.dtype)


def rounded_rows(key: Tensor, value: Tensor, switch: Switch) -> tuple[Tensor, Tensor]:
    """Keys and values [B, h, L, d] with the chosen rows rounded: keys by row, values by channel of the chosen rows."""
    inside = torch.ones_like(key[:, :1, :, :1], dtype=torch.bool)
    if switch.chosen is not None:
        inside = switch.chosen[:, None, :, None]
    if "keys" in switch.formats:
        key = torch.where(inside, rounded(key, switch.formats["keys"], (-1,)), key)
    if "values" in switch.formats:
        value = torch.where(inside, rounded(value.masked_fill(~inside, 0), switch.formats["values"], (-2,)), value)
    return key, value


def rounded(x: Tensor, format: QType, dims: tuple[int, ...]) -> Tensor:
    """x on the grid of a symmetric format, s = max|x| / qmax over `dims`, in the type of x."""
    scale = (x.float().abs().amax(dims, keepdim=True) / format.qmax).clamp_min(torch.finfo(torch.float32).tiny)
    return ((x.float() / scale).round() * scale).to(x.dtype)


@dataclass(frozen=True)
class Site:
    """One kind of place in one block."""

    inside: str = ""
    """What is rounded inside attention, as `Switch` calls it; empty where inputs of layers are."""
    layers: list[nn.Module] = field(default_factory=list)
    attention: list[SwitchedAttention] = field(default_factory=list)


@contextmanager
def switched(unet: nn.Module) -> Iterator[dict[str, SwitchedAttention]]:
    """Give every attention layer a `SwitchedAttention`, by dotted name; restore the processors on leaving."""
    layers = {name: module for name, module in unet.named_modules() if isinstance(module, Attention)}
    before = {name: layer.processor for name, layer in layers.items()}
    now = {name: SwitchedAttention() for name in layers}
    try:
        for name, layer in layers.items():
            layer.set_processor(now[name])
        yield now
    finally:
        for name, layer in layers.items():
            layer.set_processor(before[name])


def sites(unet: nn.Module, attention: Mapping[str, SwitchedAttention]) -> dict[tuple[str, str], Site]:
    """The sites of a switched UNet by kind and block, such as ("text K", "down 1"); its edges are in no block."""
    found: dict[tuple[str, str], Site] = {}
    for name, module in unet.named_modules():
        block = BLOCK.match(name)
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), None)
        if block is None or kind is None or not isinstance(module, Attention | nn.Linear | nn.Conv2d):
            continue
        site = found.setdefault((kind, f"{block[1]} {block[2]}".strip()), Site(INSIDE.get(kind, "")))
        if not isinstance(module, Attention):
            site.layers.append(module)
        if site.inside:
            site.attention.append(attention[re.sub(r"\.to_[kv]$", "", name)])
    return found


@contextmanager
def rounding(chosen: Iterable[Site], weights: bool, activations: bool) -> Iterator[None]:
    """Round at these sites to four bits: weights to int4 in groups of 64, activations to what `INSIDE` says.

    Inputs of layers get fifteen levels by token, in convolutions by sample; keys and values likewise, by row and by
    channel; probabilities half octaves. LoRA branches beside a layer are left alone, and see its input as it is.
    """
    with ExitStack() as stack:
        for site in chosen:
            inputs = activations and not site.inside
            for layer in site.layers if weights or inputs else ():
                _replace_forward(stack, layer, weights, INT4_ACT if inputs else None)
            for processor in site.attention if activations else ():
                old = processor.switch
                stack.callback(setattr, processor, "switch", old)
                format = LOG4 if site.inside == "probabilities" else INT4_ROWS
                processor.switch = replace(old, formats={**old.formats, site.inside: format})
        yield


def _replace_forward(stack: ExitStack, layer: nn.Module, weight: bool, activation: QType | None) -> None:
    """Let a layer compute with rounded numbers until the stack closes; the module and its tensors are not touched."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    values = int4(layer.weight) if weight else layer.weight
    dims = (-1,) if isinstance(layer, nn.Linear) else (1, 2, 3)
    multiply = partial(_linear, layer) if isinstance(layer, nn.Linear) else partial(_convolve, layer)

    def forward(x: Tensor) -> Tensor:
        return multiply(x if activation is None else rounded(x, activation, dims), values)

    vars(layer)["forward"] = forward  # it hides the class's own, for this one instance
    stack.callback(vars(layer).pop, "forward")


def _linear(layer: nn.Linear, x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight, layer.bias)


def _convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = layer._conv_forward(x, weight, layer.bias)
    return out


def int4(weight: Tensor) -> Tensor:
    """The values that a weight [O, I, ...] has once it is packed at four bits in groups of 64, in its own type."""
    flat = (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1)
    packed = pack_int4(flat.detach(), GROUP)
    values = (unpack_int4(packed, flat.shape[1]).float() * packed.scale[:, None]).to(weight.dtype)
    if weight.ndim == 2:
        return values
    out, into, high, wide = weight.shape
    return values.view(out, high, wide, into).permute(0, 3, 1, 2)
