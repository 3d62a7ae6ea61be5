"""Folds LoRAs into float layers one at a time, before they are quantised, and says how much of them that leaves.

It knows no number formats and packs nothing: what a weight becomes is told to it as plain tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from personalq.diffusion.branch import Branch
from personalq.errors import IncompatibleCheckpointError

Loras = Sequence[tuple[Mapping[str, Branch], float]]
"""Branches by layer, as `lora.read_lora` gives them, each with its weight."""


class Merge:
    """LoRAs that are to be folded into the layers of one model as these are loaded."""

    def __init__(self, loras: Loras, part: str = "unet") -> None:
        """Updates of other parts than `part` are left alone."""
        self._updates: dict[str, list[tuple[Branch, float]]] = {}
        for branches, weight in loras:
            for name, branch in branches.items():
                if name.startswith(f"{part}."):
                    self._updates.setdefault(name.removeprefix(f"{part}."), []).append((branch, weight))
        self._left = set(self._updates)

    def delta_for(self, name: str, shape: Sequence[int]) -> Tensor | None:
        """dW = sum_i w_i B_i A_i of the layer `name`, fp32 in `shape`; None where no update touches it.

        A parameter's name, "<layer>.weight", will do too. The caller adds it to the float weight and lets it go.
        Raises IncompatibleCheckpointError when the layer has another shape than an update of it.
        """
        layer = name.removesuffix(".weight")
        updates = self._updates.get(layer, [])
        for branch, _ in updates:
            made = [branch.up.shape[0], *branch.down.shape[1:]]
            if made != list(shape):
                raise IncompatibleCheckpointError(
                    f"{layer} is {list(shape)} and its update {made}: choose the base that the LoRA was made for."
                )
        self._left.discard(layer)
        delta: Tensor | None = None
        for branch, weight in updates:
            own = branch.delta().mul_(weight).view(tuple(shape))
            delta = own if delta is None else delta.add_(own)
        return delta

    @torch.no_grad()
    def fold(self, name: str, layer: nn.Module) -> None:
        """Add its update to the float weight of a layer that has just been loaded, in place; many layers have none."""
        weight = layer._parameters.get("weight")
        if weight is not None:
            delta = self.delta_for(name, weight.shape)
            if delta is not None:
                weight.copy_(weight.float() + delta.to(weight.device))

    def check_complete(self) -> None:
        """Raise IncompatibleCheckpointError when an update was not asked for: the model lacks its layer."""
        if self._left:
            raise IncompatibleCheckpointError(
                f"{len(self._left)} of {len(self._updates)} LoRA layers found no place, such as {min(self._left)}: "
                "choose the base that the LoRA was made for."
            )


def merge(model: nn.Module, loras: Loras, part: str = "unet") -> None:
    """Fold LoRAs into a float model that is loaded already; load it again to have them out.

    Raises IncompatibleCheckpointError when an update does not fit; layers before it are then changed.
    """
    folding = Merge(loras, part)
    for name, layer in model.named_modules():
        folding.fold(name, layer)
    folding.check_complete()


@dataclass(frozen=True)
class Survival:
    """How much of an update dW is left in quantised weights; sums of layers are those of all their elements."""

    elements: int
    above: int
    """Elements with |dW| > s / 2: those that rounding to steps of s cannot undo."""
    squared: float
    """||dW||^2"""
    kept_squared: float
    """||Q(W + dW) - Q(W)||^2"""
    product: float
    """<dW, Q(W + dW) - Q(W)>"""

    def __add__(self, other: Survival) -> Survival:
        return Survival(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def share(self) -> float:
        """Share of the elements that are larger than half a step. Smaller ones survive by chance, |dW| / s of them."""
        return self.above / max(1, self.elements)

    @property
    def norm_ratio(self) -> float:
        """||Q(W + dW) - Q(W)|| / ||dW||: 1 keeps the size, more is rounding noise on top."""
        return math.sqrt(self.kept_squared / self.squared) if self.squared else 1.0

    @property
    def cosine(self) -> float:
        """Cosine of what is left with dW: 1 keeps the direction."""
        both = math.sqrt(self.kept_squared * self.squared)
        return self.product / both if both else float(self.kept_squared == self.squared)

    def as_row(self) -> dict[str, float | int]:
        """The measures by name, as a benchmark writes them."""
        return {
            "elements": self.elements,
            "share_above_half_step": self.share,
            "norm_ratio": self.norm_ratio,
            "cosine": self.cosine,
        }


NOTHING = Survival(0, 0, 0.0, 0.0, 0.0)
"""What sums begin with."""


def survival(delta: Tensor, step: Tensor, before: Tensor, after: Tensor) -> Survival:
    """How much of `delta` is in `after` = Q(W + dW), where `before` = Q(W): dequantised, all of one shape [O, ...].

    `step` is the distance between neighbouring values of the format that `after` is in: [O], [O, 1] or [O, G] for G
    groups of equal size along the flattened input, the last one perhaps short.
    """
    wanted, kept = delta.double().flatten(1), (after.double() - before.double()).flatten(1)
    inputs = wanted.shape[1]
    steps = step.double().view(len(wanted), -1)
    steps = steps.repeat_interleave(-(-inputs // steps.shape[1]), dim=1)[:, :inputs]
    return Survival(
        elements=wanted.numel(),
        above=int((wanted.abs() > steps / 2).sum()),
        squared=float(wanted.square().sum()),
        kept_squared=float(kept.square().sum()),
        product=float((wanted * kept).sum()),
    )
