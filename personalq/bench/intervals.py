"""How sure a measured share, mean or difference is. It knows numbers only, not what they count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

EXACT = 16
"""Up to so many differences every pattern of signs is tried, 65,536 of them; beyond, as many are drawn."""


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


class Clusters:
    """Bootstrap of values that come in clusters: clusters are drawn with replacement, then values in each of them.

    Values of one cluster resemble one another, so drawing values alone would promise too much (Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, section 3.8). Every cluster counts the same, however many values
    it has. One draw serves all measures of the same values, which is what pairs them.
    """

    def __init__(self, clusters: Sequence[Hashable], resamples: int = 4000, seed: int = 0) -> None:
        """`clusters` names the cluster of each value, in the values' order. Raises ValueError where there is none."""
        if not clusters:
            raise ValueError("Nothing can be drawn from no clusters.")
        places: dict[Hashable, list[int]] = {}
        for place, cluster in enumerate(clusters):
            places.setdefault(cluster, []).append(place)
        self.members = list(places.values())
        rng, count = np.random.default_rng(seed), len(self.members)
        times = rng.multinomial(count, [1 / count] * count, size=resamples)  # how often each cluster is drawn
        self.drawn = np.zeros((resamples, len(clusters)))  # the weight of each value in each resample; rows sum to one
        for cluster, inside in enumerate(self.members):
            size = len(inside)
            self.drawn[:, inside] = rng.multinomial(times[:, cluster] * size, [1 / size] * size) / (size * count)

    def means(self, values: Sequence[float]) -> list[float]:
        """The mean of each cluster."""
        return [float(np.mean([values[place] for place in inside])) for inside in self.members]

    def mean(self, values: Sequence[float]) -> Difference:
        """The mean over clusters, its 95 % percentile interval, and the share of resamples at or below zero."""
        resampled = self.drawn @ self._array(values)
        low, high = np.quantile(resampled, [0.025, 0.975])
        below = float((resampled <= 0).mean())
        return Difference(float(np.mean(self.means(values))), float(low), float(high), below)

    def gap(self, ours: Sequence[float], theirs: Sequence[float]) -> Difference:
        """The mean of ours - theirs, pair by pair."""
        return self.mean([a - b for a, b in zip(ours, theirs, strict=True)])

    def ratio(self, ours: Sequence[float], theirs: Sequence[float]) -> Difference | None:
        """The mean of ours over the mean of theirs, both from the same draw; None where theirs is zero."""
        below, above = self.drawn @ self._array(theirs), self.drawn @ self._array(ours)
        if not bool((below != 0).all()):
            return None
        resampled = above / below
        low, high = np.quantile(resampled, [0.025, 0.975])
        whole = float(np.mean(self.means(ours)) / np.mean(self.means(theirs)))
        return Difference(whole, float(low), float(high), float((resampled <= 0).mean()))

    def _array(self, values: Sequence[float]) -> NDArray[np.float64]:
        if len(values) != self.drawn.shape[1]:
            raise ValueError(f"{len(values)} values do not fit {self.drawn.shape[1]} places in the clusters.")
        return np.asarray(values, dtype=np.float64)


def sign_flip(gaps: Sequence[float], draws: int = 1 << EXACT, seed: int = 0) -> float | None:
    """Two-sided p of paired differences whose signs would be chance (Fisher's randomisation test); None without any.

    It asks of how many sign patterns the mean is at least as far from zero; exact for up to `EXACT` differences.
    With k differences it cannot fall below 2^(1-k).
    """
    if not gaps:
        return None
    values = np.asarray(gaps, dtype=np.float64)
    if len(values) <= EXACT:
        signs = np.array(list(itertools.product((1, -1), repeat=len(values))), dtype=np.int8)
    else:
        signs = np.random.default_rng(seed).choice(np.array([1, -1], dtype=np.int8), size=(draws, len(values)))
        signs[0] = 1  # what was observed is one of the patterns
    far = np.abs(signs @ values)
    return float((far >= abs(values.sum()) * (1 - 1e-12)).mean())


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """The p of several tests made at once, adjusted so that none of them errs in 5 % (Holm, 1979)."""
    adjusted, largest = {}, 0.0
    for rank, (name, chance) in enumerate(sorted(chances.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, chance * (len(chances) - rank)))
        adjusted[name] = largest
    return adjusted


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
