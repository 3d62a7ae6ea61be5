"""The low-rank update of one layer: its numbers, whether it fits a layer, what it adds to what the layer gives.

It knows no files, and of layers only what they say of their own sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """The update of one layer, dW = B A."""

    down: Tensor
    """A: [r, I], or [r, I, kh, kw] beside a convolution."""
    up: Tensor
    """B with alpha / r in it: [O, r], or [O, r, 1, 1]."""

    @property
    def numel(self) -> int:
        """Numbers in both matrices."""
        return self.down.numel() + self.up.numel()

    def delta(self) -> Tensor:
        """dW as a matrix, fp32 [O, I * kh * kw]."""
        return self.up.float().flatten(1) @ self.down.float().flatten(1)


def laid_out(branches: Mapping[str, Branch], flat: Tensor) -> dict[str, Branch]:
    """The branches copied into `flat`, one after the other, and handed back as views of it."""
    views, at = {}, 0
    for name, branch in branches.items():
        pair = []
        for matrix in (branch.down, branch.up):
            view = flat[at : at + matrix.numel()].view(matrix.shape)
            pair.append(view.copy_(matrix))
            at += matrix.numel()
        views[name] = Branch(*pair)
    return views


def misfit(layer: Any, branch: Branch) -> str:
    """Why a branch cannot be added to what a layer gives; empty when it can.

    Linear and convolution layers are told by what they say of their sizes, so that packed ones are known too.
    """
    rank = branch.down.shape[0]
    if hasattr(layer, "in_features"):
        down, up = [rank, layer.in_features], [layer.out_features, rank]
    elif hasattr(layer, "in_channels") and hasattr(layer, "kernel_size"):
        if layer.groups != 1 or layer.padding_mode != "zeros":
            return "is a convolution with groups or another padding than zeros"
        down, up = [rank, layer.in_channels, *layer.kernel_size], [layer.out_channels, rank, 1, 1]
    else:
        return "is no linear or convolution layer of it"
    shapes = list(branch.down.shape), list(branch.up.shape)
    return "" if shapes == (down, up) else f"wants {down} and {up}, not {shapes[0]} and {shapes[1]}"


def added(out: Tensor, x: Tensor, branch: Branch, weight: float, layer: Any) -> Tensor:
    """out + weight * B A x, for a linear layer's x [..., I] or a convolution's [B, I, H, W]; in the type of `out`."""
    x = x.to(branch.down.dtype)
    if branch.down.ndim == 4:
        hidden = F.conv2d(x, branch.down, None, layer.stride, layer.padding, layer.dilation)
        return torch.add(out, F.conv2d(hidden, branch.up).to(out.dtype), alpha=weight)
    hidden = F.linear(x, branch.down).flatten(0, -2)
    base = out.to(hidden.dtype).flatten(0, -2)
    return torch.addmm(base, hidden, branch.up.t(), alpha=weight).view(out.shape).to(out.dtype)
