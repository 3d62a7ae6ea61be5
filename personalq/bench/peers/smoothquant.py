"""SmoothQuant (Xiao et al., arXiv 2211.10438): the range of an input channel is shared with the weights that read it.

Y = (X diag(s)^-1) (diag(s) W^T), s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), alpha = 1/2, the maxima of X from
calibration. Here for convolutions too, a factor per input channel. Then everything is rounded as in every other row.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from personalq.bench.peers.levels import Peer, peer, recipe_at
from personalq.bench.peers.seen import Calibration, Maxima
from personalq.quant.apply import Report, quantize_unet
from personalq.quant.decide import decide
from personalq.records import Recipe

ALPHA = 0.5


def smoothquant(calibration: Calibration) -> Iterator[Peer]:
    """SmoothQuant at eight-bit and four-bit inputs."""
    for level in ("w8a8", "w4a8", "w8a4", "w4a4"):
        recipe = recipe_at(level, name=f"smoothquant-{level}")
        pack = partial(quantize, recipe=recipe, calibration=calibration)
        yield peer(recipe, level, pack)


def quantize(model: nn.Module, recipe: Recipe, calibration: Calibration, alpha: float = ALPHA) -> Report:
    """Pack a denoiser with smoothed inputs. Raises QuantizationError as `quantize_unet` and the calibration do."""
    packed = {item.names[0] for item in decide(model, recipe, {}) if item.format is not None}
    maxima = {name: largest for name, largest in calibration(model).items() if name in packed}
    factors = {name: 1 / s[None] for name, s in smoothing(model, maxima, alpha).items()}
    return quantize_unet(model, recipe, smoothing=factors)


def smoothing(model: nn.Module, maxima: Maxima, alpha: float = ALPHA) -> dict[str, Tensor]:
    """s [I] of every layer that was seen, fp32, on the layer's device."""
    layers = {name: model.get_submodule(name).weight for name in maxima}
    return {
        name: divisors(maxima[name], weight, alpha) for name, weight in layers.items() if isinstance(weight, Tensor)
    }


def divisors(largest: Tensor, weight: Tensor, alpha: float = ALPHA) -> Tensor:
    """s [I] for inputs with these maxima [I] and a weight [O, I, ...]; one for a channel that either never uses.

    Their geometric mean is brought to one, which changes no product and keeps 16-bit inputs in range.
    """
    outputs = weight.detach().abs().transpose(0, 1).flatten(1).amax(1).float()
    largest = largest.to(outputs.device)
    used = (largest > 0) & (outputs > 0)
    s = torch.where(used, largest**alpha / outputs.clamp_min(torch.finfo(torch.float32).tiny) ** (1 - alpha), 1.0)
    s = torch.where(used, s / s[used].log().mean().exp() if bool(used.any()) else s, 1.0)
    return s.clamp_(1e-4, 1e4)
