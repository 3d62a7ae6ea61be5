"""The probe: a small classifier, trained on drawn pictures only, that names subject, scene, style and identity.

It knows nothing of diffusion. Its scores are "probe accuracy", never CLIP or DINO scores.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from personalq.errors import ModelError

HEADS = ("subject", "scene", "style", "identity")
SIDE = 96


@dataclass(frozen=True)
class Verdict:
    """What the probe sees in one picture."""

    subject: str
    scene: str
    style: str
    identity: str


class Probe(nn.Module):
    """Five strided convolutions, then one linear head per question."""

    def __init__(self, labels: dict[str, list[str]]) -> None:
        super().__init__()
        self.labels = labels
        widths = (3, 24, 48, 96, 128, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(128 * 9, 128), nn.SiLU())
        self.heads = nn.ModuleDict({head: nn.Linear(128, len(labels[head])) for head in HEADS})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits [B, labels] per head for pictures [B, 3, 96, 96] in -1..1."""
        seen = self.trunk(pictures)
        return {name: head(seen) for name, head in self.heads.items()}

    @torch.no_grad()
    def look(self, pictures: Sequence[Image.Image]) -> list[Verdict]:
        """The most likely label of every head for each picture, of any size."""
        logits = self(as_tensor(pictures))
        best = {head: logits[head].argmax(-1).tolist() for head in HEADS}
        return [Verdict(*(self.labels[head][best[head][i]] for head in HEADS)) for i in range(len(pictures))]


def as_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of any size as [B, 3, 96, 96] in -1..1."""
    array = np.stack([np.asarray(picture.convert("RGB").resize((SIDE, SIDE))) for picture in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_probe(path: Path) -> Probe:
    """The probe stored at `path`, its labels in the file's metadata.

    Raises ModelError when there is none or it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            probe = Probe(json.loads(file.metadata()["labels"]))
            probe.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise ModelError(f"No usable probe at {path}: {error}. Run sample_repo/recipe/train_probe.py.") from error
    return probe.eval()
