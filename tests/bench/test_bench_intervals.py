"""Intervals against published or hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from personalq.bench.intervals import (
    Clusters,
    auroc,
    calibration_error,
    holm,
    paired_bootstrap,
    quantiles,
    sign_flip,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_in_newcombe_1998(right: int, n: int, low: float, high: float) -> None:
    """Statistics in Medicine 17, 857-872, table I, method 3."""
    found = wilson(right, n)
    assert found is not None
    assert found == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing_and_of_everything() -> None:
    assert wilson(0, 0) is None
    found = wilson(20, 20)
    assert found == pytest.approx((1 - 0.1611, 1.0), abs=5e-5)


def test_the_bootstrap_of_equal_gaps_is_certain() -> None:
    found = paired_bootstrap([1.0, 1.0, 0.5], [0.5, 0.5, 0.0])
    assert found is not None
    assert (found.mean, found.low, found.high, found.below) == (0.5, 0.5, 0.5, 0.0)


def test_the_bootstrap_spreads_as_a_mean_does() -> None:
    """Gaps of 1 and 0, half each: the mean of 400 has a standard deviation of 0.5 / 20."""
    found = paired_bootstrap([1.0, 0.0] * 200, [0.0] * 400)
    assert found is not None
    assert found.mean == 0.5
    assert found.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)


def test_the_bootstrap_pairs_its_values() -> None:
    """Independent resampling of [1, 0] and [1, 0] would give gaps; paired there is none."""
    found = paired_bootstrap([1.0, 0.0], [1.0, 0.0])
    assert found is not None
    assert (found.low, found.high, found.below) == (0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="paired"):
        paired_bootstrap([1.0], [])
    assert paired_bootstrap([], []) is None


def test_auroc_counts_ties_half() -> None:
    assert auroc([0.9, 0.5], [0.1, 0.5]) == (1 + 1 + 1 + 0.5) / 4
    assert auroc([0.0], [1.0]) == 0.0
    assert auroc([], [1.0]) is None


def test_calibration_error_by_hand() -> None:
    """Two bins: said 0.05 and 0.05, came 0 of 2; said 0.95 and 1.0, came 1 of 2."""
    assert calibration_error([0.05, 0.05, 0.95, 1.0], [False, False, True, False]) == pytest.approx((0.1 + 0.95) / 4)
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0
    assert calibration_error([], []) is None


def test_quantiles() -> None:
    assert quantiles([1.0, 2.0, 3.0]) == {"p50": 2.0, "p95": 2.9}
    assert quantiles([]) == {"p50": None, "p95": None}


def test_every_resample_of_clusters_is_a_mean() -> None:
    clusters = Clusters(["a", "a", "a", "b", "c", "c"], resamples=50)
    assert clusters.drawn.sum(1) == pytest.approx(np.ones(50))
    assert clusters.drawn.min() == 0


def test_a_cluster_counts_once_however_many_values_it_has() -> None:
    found = Clusters(["a"] * 9 + ["b"]).mean([1.0] * 9 + [0.0])
    assert found.mean == 0.5
    assert (found.low, found.high) == (0.0, 1.0)


def test_values_of_one_cluster_that_agree_tell_no_more_than_one_value() -> None:
    """Twenty clusters of eight equal values: the standard deviation of the mean is 0.5 / sqrt(20), not / sqrt(160)."""
    values = [float(cluster % 2) for cluster in range(20) for _ in range(8)]
    found = Clusters([cluster for cluster in range(20) for _ in range(8)]).mean(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 20**0.5, abs=0.04)


def test_values_inside_clusters_are_drawn_too() -> None:
    """One cluster is drawn each time; what spreads is its 400 values of standard deviation 0.5."""
    found = Clusters(["only"] * 400).mean([1.0, 0.0] * 200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 20, abs=0.015)


def test_clusters_pair_differences_and_ratios() -> None:
    clusters, theirs = Clusters([0, 0, 1, 1, 2, 2]), [0.2, 0.4, 0.6, 0.8, 1.0, 0.1]
    ours = [value + 0.1 for value in theirs]
    gap = clusters.gap(ours, theirs)
    assert (gap.mean, gap.low, gap.high, gap.below) == pytest.approx((0.1, 0.1, 0.1, 0.0))
    ratio = clusters.ratio([2 * value for value in theirs], theirs)
    assert ratio is not None
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert clusters.ratio(ours, [0.0] * 6) is None
    with pytest.raises(ValueError, match="6 places"):
        clusters.mean([1.0])
    with pytest.raises(ValueError, match="no clusters"):
        Clusters([])


def test_sign_flip_by_hand() -> None:
    """Of the eight patterns of 3, 2, 1 two reach 6; of 2, -1, 1 six reach 2, for only +-(2 - 1 - 1) is nearer zero."""
    assert sign_flip([3.0, 2.0, 1.0]) == 2 / 8
    assert sign_flip([2.0, -1.0, 1.0]) == 6 / 8
    assert sign_flip([0.0, 0.0]) == 1.0
    assert sign_flip([]) is None


def test_sign_flip_draws_where_there_are_too_many_patterns() -> None:
    chance = sign_flip([1.0] * 20, draws=2000)
    assert chance is not None
    assert 0 < chance < 0.01
    assert sign_flip([1.0, -1.0] * 10, draws=2000) == 1.0


def test_holm_by_hand() -> None:
    """The smallest p times four, the next times three, then two and one; none below the one before it."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.8, "b": 0.9}) == {"a": 1.0, "b": 1.0}
