"""Which text rows a LoRA moves most, for checkpoints that have no trigger to protect.

It knows no prompts and no number formats; the mask it makes is one like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from personalq.diffusion.branch import Branch
from personalq.diffusion.load import Pipeline, denoiser
from personalq.diffusion.lora import read_lora
from personalq.diffusion.text import TextEmbeddings
from personalq.records import Checkpoint

TaqMode = Literal["trigger", "moved rows", "start only"]
"""What was protected: the trigger, the rows that the LoRAs move most, or CLIP's start token alone."""

PROJECTIONS = (".attn2.to_k", ".attn2.to_v")
"""The layers through which a UNet sees its text."""

TINY = 1e-12

ROWS = 4
"""Rows protected in a trigger's stead: about as many as a trigger has."""


@torch.no_grad()
def moved_rows(
    pipe: Pipeline, checkpoints: Sequence[tuple[Checkpoint, float]], embeds: Tensor, relative: bool = True
) -> Tensor:
    """How far LoRAs at their weights move each text row x of `embeds` [B, L, D]: scores fp32 [B, L], on its device.

    The sum of ||x dW|| / ||x W|| over the keys and values of all cross-attention layers, dW = sum_i w_i B_i A_i and
    x W what the layer gives; zero where no LoRA touches those. Not `relative`, ||x dW|| alone is summed: that ranks
    long rows first, and CLIP's padding is long. Raises what `lora.read_lora` raises.
    """
    loras = [(read_lora(pipe, checkpoint), weight) for checkpoint, weight in checkpoints if checkpoint.kind == "lora"]
    updates: dict[str, list[tuple[Branch, float]]] = {}
    for branches, weight in loras:
        for name, branch in branches.items():
            if name.endswith(PROJECTIONS) and branch.down.shape[1:] == embeds.shape[-1:]:
                updates.setdefault(name.partition(".")[2], []).append((branch, weight))
    scores = torch.zeros(embeds.shape[:2], device=embeds.device)
    for name, pairs in updates.items():
        moved = sum(weight * _through(embeds, branch) for branch, weight in pairs)
        distance = torch.as_tensor(moved).norm(dim=-1)
        if relative:
            distance /= denoiser(pipe).get_submodule(name)(embeds).float().norm(dim=-1).clamp_min(TINY)
        scores += distance
    return scores


def top_moved(scores: Tensor, count: int) -> Tensor:
    """The `count` rows of the highest scores [B, L] in each sample, bool [B, L]; rows that nothing moves are not in."""
    best = scores.topk(min(count, scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True) & (scores > 0)


def rows_without_trigger(
    pipe: Pipeline, checkpoints: Sequence[tuple[Checkpoint, float]], text: TextEmbeddings, count: int = ROWS
) -> tuple[Tensor, TaqMode]:
    """The rows to protect of a prompt that names no trigger, bool [B, L], and in words which they are.

    The conditional sample's `count` rows that the LoRAs move most. Where none moves any, those that `text.encode`
    marked: without a trigger these are the start token's. Raises what `lora.read_lora` raises.
    """
    moved = top_moved(moved_rows(pipe, checkpoints, text.embeds), count)
    if not bool(moved[-1].any()):
        return text.protected, "start only"
    mask = torch.zeros_like(text.protected)
    mask[-1] = moved[-1]
    return mask, "moved rows"


def _through(x: Tensor, branch: Branch) -> Tensor:
    """x A^T B^T in fp32."""
    return x.float() @ branch.down.to(x.device).float().mT @ branch.up.to(x.device).float().mT
