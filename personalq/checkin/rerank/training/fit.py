"""Fits the linear weights, the forest and the calibration to feature tables. It knows columns, not texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.ensemble import HistGradientBoostingClassifier

from personalq.checkin.posterior import posterior
from personalq.checkin.rerank.embedded import against
from personalq.checkin.rerank.features import NAMES, with_reading
from personalq.checkin.rerank.forest import Forest
from personalq.checkin.rerank.protocol import Calibration
from personalq.checkin.rerank.training.examples import Array, Example

PRIOR = {"version": 2.5, "date": 1.5, "base": 2.5, "kind": 2.0, "negative": -3.0, "utility": -1.0}
PRIOR |= {"strange_miss": -0.5, "unmet": 0.0, "read_cover": 4.0, "read_fit": 2.0, "read_fit_top": 0.5}
"""What a feature should weigh before any request has been seen; others start at 1. A weight keeps its sign."""
STRENGTH = 0.02
DOUBT = 0.1
"""Share of requests whose answer no feature can tell; without it they blunt every weight."""
SEEDS = 3
TREES = {"max_iter": 150, "learning_rate": 0.05, "max_leaf_nodes": 12, "l2_regularization": 5.0, "min_samples_leaf": 20}
RIGHT, RIGHT_OF_SEVERAL = 5.0, 2.0
"""What the right rows of a request weigh together, and each more where several models are right."""


@dataclass(frozen=True)
class Model:
    """A feature table a request, with which row belongs to which model."""

    rows: Array
    groups: tuple[str, ...]
    right: Array
    kind: str

    @classmethod
    def of(cls, example: Example) -> Model:
        """The table of an example with what its reader said."""
        return cls(with_reading(example.rows, example.read), example.groups, example.right.astype(float), example.kind)


def linear(tables: Sequence[Model]) -> Array:
    """Weights of a conditional logit over models, each its best version: mean -Σ_t log p(t) / |targets| plus
    STRENGTH · |w - prior|², p mixed with DOUBT, by L-BFGS-B within the signs of the prior."""
    prior = np.asarray([PRIOR.get(name, 1.0) for name in NAMES])
    answered = [table for table in tables if table.right.any()]
    found = minimize(
        _penalised(answered, prior), prior, jac=True, method="L-BFGS-B", bounds=[_kept(each) for each in prior],
        options={"maxiter": 80},
    )  # fmt: skip
    return np.asarray(found.x)


def forest(tables: Sequence[Model], weights: Array) -> Forest:
    """Boosted trees that say of one row whether it fits, their log-odds averaged over SEEDS fits."""
    columns = np.vstack([against(table.rows, table.rows @ weights, table.groups) for table in tables])
    right = np.concatenate([table.right for table in tables])
    heft = np.concatenate([_heft(table) for table in tables])
    fits = [
        HistGradientBoostingClassifier(**TREES, random_state=seed).fit(columns, right, sample_weight=heft)
        for seed in range(SEEDS)
    ]
    return flat(fits)


def calibrate(log_odds: Sequence[tuple[Model, Array]]) -> Calibration:
    """T and b by log-loss; a request with several right models spreads its mass over them."""

    def loss(point: Array) -> float:
        calibration = Calibration(float(np.exp(point[0])), float(point[1]))
        return float(np.mean([-_log_share(table, odds, calibration) for table, odds in log_odds]))

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"maxiter": 200}).x
    return Calibration(float(np.exp(found[0])), float(found[1]), fitted=True)


def _penalised(tables: Sequence[Model], prior: Array) -> Callable[[Array], tuple[float, Array]]:
    def value(weights: Array) -> tuple[float, Array]:
        losses = [_which(table, weights) for table in tables]
        loss = sum(each for each, _ in losses) / len(tables) + STRENGTH * float(((weights - prior) ** 2).sum())
        slope = sum((each for _, each in losses), np.zeros_like(weights)) / len(tables)
        return loss, slope + 2 * STRENGTH * (weights - prior)

    return value


def _which(table: Model, weights: Array) -> tuple[float, Array]:
    """The loss of one request and its gradient."""
    scores = table.rows @ weights
    best: dict[str, int] = {}
    for at, group in enumerate(table.groups):
        if group not in best or scores[at] > scores[best[group]]:
            best[group] = at
    rows = list(best.values())
    shares = np.exp(scores[rows] - scores[rows].max())
    shares /= shares.sum()
    wanted = table.right[rows] / table.right[rows].sum()
    mixed = (1 - DOUBT) * shares + DOUBT / len(rows)
    trusted = wanted * (1 - DOUBT) * shares / mixed
    return -float((wanted * np.log(mixed)).sum()), (shares * trusted.sum() - trusted) @ table.rows[rows]


def _kept(prior: float) -> tuple[float | None, float | None]:
    return (0.0, None) if prior > 0 else (None, 0.0) if prior < 0 else (None, None)


def _heft(table: Model) -> Array:
    right = table.right.sum()
    each = RIGHT / max(right, 1.0) + (RIGHT_OF_SEVERAL if table.kind == "ambiguous" else 0.0)
    return np.where(table.right > 0, each, 1.0)


def _log_share(table: Model, odds: Array, calibration: Calibration) -> float:
    shares, none = posterior(odds, table.groups, calibration.temperature, calibration.none_logit)
    if table.kind == "no_match":
        return float(np.log(none + 1e-9))
    held: dict[str, float] = {}
    for group, right, share in zip(table.groups, table.right, shares, strict=True):
        if right:
            held[group] = held.get(group, 0.0) + float(share)
    return float(np.mean([np.log(share + 1e-4) for share in held.values()])) if held else 0.0


def flat(fits: Sequence[HistGradientBoostingClassifier]) -> Forest:
    """All trees of several fits in one row of nodes; a leaf points at itself."""
    columns, thresholds, lefts, rights, values, roots = [], [], [], [], [], []
    at = 0
    for fit in fits:
        for (tree,) in fit._predictors:
            nodes = tree.nodes
            leaf, own = nodes["is_leaf"].astype(bool), np.arange(at, at + len(nodes))
            columns.append(np.where(leaf, 0, nodes["feature_idx"]))
            thresholds.append(np.where(leaf, 0.0, nodes["num_threshold"]))
            lefts.append(np.where(leaf, own, nodes["left"].astype(np.int64) + at))
            rights.append(np.where(leaf, own, nodes["right"].astype(np.int64) + at))
            values.append(np.where(leaf, nodes["value"], 0.0) / len(fits))
            roots.append(at)
            at += len(nodes)
    base = float(np.mean([np.ravel(fit._baseline_prediction)[0] for fit in fits]))
    return Forest(
        column=np.concatenate(columns).astype(np.int32),
        threshold=np.concatenate(thresholds).astype(np.float64),
        left=np.concatenate(lefts).astype(np.int32),
        right=np.concatenate(rights).astype(np.int32),
        value=np.concatenate(values).astype(np.float32),
        roots=np.asarray(roots, dtype=np.int32),
        base=np.asarray([base], dtype=np.float32),
    )
