"""The latent space, fixed before training: a principal-component transform of 8 × 8 patches.

A linear transform needs no training, so the UNet can start at once; the autoencoder learns to encode
to it and to decode from it better than its linear inverse (`train_vae.py`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from captions import draw_facts
from draw import SIZE, render

PATCH, CHANNELS = 8, 16


@dataclass(frozen=True)
class PatchPCA:
    """`encode` maps pictures [B, 3, 96, 96] in -1..1 to latents [B, 16, 12, 12] of unit mean variance."""

    mean: Tensor
    """[192]"""
    into: Tensor
    """[16, 192]: components, partly whitened (each divided by the square root of its deviation)."""
    back: Tensor
    """[192, 16]: the pseudo-inverse of `into`."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [B, 16, h, w] of pictures [B, 3, 8h, 8w]."""
        patches = torch.nn.functional.pixel_unshuffle(pictures, PATCH)
        return torch.einsum("kc,bchw->bkhw", self.into, patches - self.mean[:, None, None])

    def decode(self, latents: Tensor) -> Tensor:
        """The linear inverse: pictures [B, 3, 8h, 8w]."""
        patches = torch.einsum("ck,bkhw->bchw", self.back, latents) + self.mean[:, None, None]
        return torch.nn.functional.pixel_shuffle(patches, PATCH)

    @classmethod
    def fitted(cls, path: Path, pictures: int = 6000) -> PatchPCA:
        """Load from `path`, or fit on fresh renders and save there."""
        if path.exists():
            return cls(**load_file(path))
        patches = torch.nn.functional.pixel_unshuffle(batch(random.Random("pca"), pictures), PATCH)
        flat = patches.permute(0, 2, 3, 1).reshape(-1, patches.shape[1]).double()
        mean = flat.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((flat - mean).T))
        values, vectors = values.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS]
        deviation = values.sqrt()
        scale = deviation.sqrt() * deviation.mean().sqrt()
        pca = {
            "mean": mean.float(),
            "into": (vectors / scale).T.float().contiguous(),
            "back": (vectors * scale).float().contiguous(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(pca, path)
        return cls(**pca)


def to_tensor(pictures: list) -> Tensor:
    """PIL pictures to [B, 3, 96, 96] in -1..1."""
    array = np.stack([np.asarray(p) for p in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def batch(rng: random.Random, count: int) -> Tensor:
    """Fresh renders from the training distribution, [count, 3, 96, 96]."""
    pictures = []
    for _ in range(count):
        facts = draw_facts(rng)
        pictures.append(render(rng, facts.subject, facts.scene, facts.style, facts.hue))
    assert pictures[0].size == (SIZE, SIZE)
    return to_tensor(pictures)
