"""How sure a measured share is. It knows numbers only, not what they count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float] | None:
    """Wilson's score interval of a share (JASA 22, 1927); None for n = 0.

    `successes` may hold halves: a value of ½ spreads less than 0 or 1 would, so the interval is then too wide.
    """
    if n == 0:
        return None
    share, square = successes / n, z * z / n
    middle = (share + square / 2) / (1 + square)
    reach = z * math.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True)
class Difference:
    """A mean difference of paired values, its 95 % interval, and the share of resamples at or below zero."""

    mean: float
    low: float
    high: float
    below: float


def paired_bootstrap(
    ours: Sequence[float], theirs: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> Difference | None:
    """ours - theirs over the same queries, drawn with replacement; percentile interval. None without queries."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values cannot be paired with {len(theirs)}.")
    if not ours:
        return None
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(gaps), size=(resamples, len(gaps)))
    means = gaps[drawn].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(gaps.mean()), float(low), float(high), float((means <= 0).mean()))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """The chance that a positive scores above a negative, ties counting half; None when either is empty."""
    if not positive or not negative:
        return None
    above = np.asarray(positive)[:, None] - np.asarray(negative)[None, :]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def calibration_error(shares: Sequence[float], happened: Sequence[bool], bins: int = 10) -> float | None:
    """Expected calibration error: Σ_bin n_bin / n · |mean share - frequency| over `bins` equal widths."""
    if not shares:
        return None
    said, came = np.asarray(shares, dtype=np.float64), np.asarray(happened, dtype=np.float64)
    at: NDArray[np.int64] = np.minimum((said * bins).astype(np.int64), bins - 1)
    gaps = [abs(float(said[at == each].sum() - came[at == each].sum())) for each in range(bins)]
    return sum(gaps) / len(said)


def quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """The median and the 95th percentile, in the unit of `values`."""
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.quantile(np.asarray(values, dtype=np.float64), [0.5, 0.95])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}
