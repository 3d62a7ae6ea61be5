"""Intervals against published or hand-computed values."""

from __future__ import annotations

import pytest

from personalq.bench.intervals import auroc, calibration_error, paired_bootstrap, quantiles, wilson


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
