"""Logits into probabilities over models and "none". It knows groups and numbers, not words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def posterior(
    logits: Sequence[float] | NDArray[np.float64], groups: Sequence[str], temperature: float, none_logit: float
) -> tuple[NDArray[np.float64], float]:
    """p(c), shape (candidates,), and p(none).

    p(none) = e^b / Z with Z = e^b + Σ_g max_{c in g} e^{s_c / T}: a model counts once, however many versions it
    has, and its probability is shared among them in proportion to e^{s_c / T}.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if not len(scaled):
        return scaled, 1.0
    top = max(float(scaled.max()), none_logit)
    weights = np.exp(scaled - top)
    best: dict[str, float] = {}
    total: dict[str, float] = {}
    for group, weight in zip(groups, weights, strict=True):
        best[group] = max(best.get(group, 0.0), float(weight))
        total[group] = total.get(group, 0.0) + float(weight)
    shared = np.asarray(
        [
            weight * best[group] / total[group] if total[group] else 0.0
            for group, weight in zip(groups, weights, strict=True)
        ]
    )
    none = float(np.exp(none_logit - top))
    z = none + float(shared.sum())
    return shared / z, none / z
