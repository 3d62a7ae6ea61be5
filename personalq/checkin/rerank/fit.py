"""Fit the embedded reranker: `python -m personalq.checkin.rerank.fit CATALOG.jsonl QUERIES.jsonl [--write]`.

Reads requests with their right answers; stores nothing of them but one number a feature.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalq.catalog.jsonl import read_jsonl
from personalq.checkin.clock import Clock
from personalq.checkin.intent import parse
from personalq.checkin.posterior import posterior
from personalq.checkin.rerank.embedded import WEIGHTS, Coefficients, Embedded, logits
from personalq.checkin.rerank.features import EVIDENCE, NAMES, compare, evidence
from personalq.checkin.retrieve import Index
from personalq.records import Request

Array = NDArray[np.float64]
PRIOR = {"version": 2.5, "version_words": 1.0, "date": 1.5, "base": 2.5, "kind": 2.0, "negative": -3.0, "utility": -1.0}
PRIOR |= {"strange_miss": -0.5, "unmet": 0.0}
"""What a rare feature should weigh before any query has been seen; others start at PRIOR_REST."""
EVIDENCE_PRIOR = {"best_version": 3.0, "best_base": 3.0, "best_kind": 2.0, "best_negative": -2.0, "share": 1.0}
EVIDENCE_PRIOR |= {"best_strange_miss": -0.5, "best_unmet": -0.5}
PRIOR_REST = 1.0
STRENGTH = 0.05
PRESENCE = 0.003
MADE = 1.0
"""What a no-match made by taking the answers away counts beside a real one."""
RARENESS = 0.5
"""How much of the log-odds of a real answer enters the bias: the development requests have few no-matches."""
DOUBT = 0.3
"""Share of requests whose answer no feature can tell; without it they blunt every weight."""
TEMPERATURE = 0.65
"""Sharpens the shares among candidates, which the ridge and the doubt leave too even; chosen by cross-validation."""
_STEPS = 1500
_RATE = 0.05
_FOLDS = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One request: its feature table (candidates, features), the model of each row, and the right models."""

    table: Array
    groups: tuple[str, ...]
    targets: frozenset[str]
    kind: str

    def without_targets(self) -> Example:
        """The same request over a catalogue that lacks what it means: a no-match made of nothing new."""
        kept = [at for at, group in enumerate(self.groups) if group not in self.targets]
        table = compare(self.table[kept])
        return Example(table, tuple(self.groups[at] for at in kept), frozenset(), "made no_match")


def examples(catalog: Path, queries: Path, cache: Path | None) -> list[Example]:
    """The single, ambiguous and no-match requests of `queries`, as feature tables over `catalog`."""
    index = Index(read_jsonl(catalog).checkpoints, cache)
    reranker = Embedded(index.by_id, index.rarity, Coefficients(np.ones(len(NAMES)), 1.0, np.ones(len(EVIDENCE)), 0.0))
    found = []
    for line in queries.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] not in ("single", "ambiguous", "no_match"):
            continue
        intent = parse(Request(row["query"], as_of=row.get("asof")), index.bases, index.nouns)
        candidates = index.candidates(intent, None, Clock())
        groups = tuple(index.by_id[candidate.checkpoint.id].group for candidate in candidates)
        found.append(
            Example(
                table=reranker.features(intent, candidates),
                groups=groups,
                targets=frozenset(index.by_id[target].group for target in row["targets"] if target in index.by_id),
                kind=row["kind"],
            )
        )
    return found


class _Stack:
    """All requests with an answer as one table, rows sorted by request and model: a step is a few array operations."""

    def __init__(self, rows: Sequence[Example]) -> None:
        tables, sizes, right, models = [], [], [], []
        for row in rows:
            order = sorted(range(len(row.groups)), key=lambda at: row.groups[at])
            groups = [row.groups[at] for at in order]
            names = list(dict.fromkeys(groups))
            hits = np.asarray([name in row.targets for name in names], dtype=np.float64)
            if not hits.any():
                continue
            tables.append(row.table[order])
            sizes += [groups.count(name) for name in names]
            right.append(hits / hits.sum())
            models.append(len(names))
        self.table = np.vstack(tables)
        self.starts = np.append(0, np.cumsum(sizes)[:-1])
        self.sizes = np.asarray(sizes)
        self.right = np.concatenate(right)
        self.models = np.asarray(models)
        self.firsts = np.append(0, np.cumsum(models)[:-1])

    def gradient(self, weights: Array) -> Array:
        """Of the mean of -Σ_t log p(t) / |targets|, p mixed with DOUBT; a model is its best version."""
        logits = self.table @ weights
        best = np.maximum.reduceat(logits, self.starts)
        chosen = logits >= np.repeat(best, self.sizes)
        masses = np.exp(best - np.repeat(np.maximum.reduceat(best, self.firsts), self.models))
        share = masses / np.repeat(np.add.reduceat(masses, self.firsts), self.models)
        trust = (1 - DOUBT) * share / ((1 - DOUBT) * share + DOUBT / np.repeat(self.models, self.models))
        right = self.right * trust
        error = share * np.repeat(np.add.reduceat(right, self.firsts), self.models) - right
        pulls = np.repeat(error / np.add.reduceat(chosen.astype(np.float64), self.starts), self.sizes) * chosen
        return np.asarray(pulls @ self.table / len(self.models))


def fit(rows: Sequence[Example], strength: float = STRENGTH, presence: float = PRESENCE) -> Coefficients:
    """First which, then whether: a conditional logit over candidates, then a logistic model against "none".

    Both minimise a mean log-loss plus strength · |w - prior|² by Adam, every weight kept to the sign of its prior. The
    second also sees every answerable request with its answers taken out of the catalogue; only its bias, which holds
    how common "none" is, is fitted on the real requests alone.
    """
    stack = _Stack(rows)
    weights = _descend(stack.gradient, np.asarray([prior_of(name) for name in NAMES]), strength)
    made = [row.without_targets() for row in rows if row.targets]
    pool = [row for row in [*rows, *made] if len(row.table)]
    z = np.asarray([evidence(row.table, weights) for row in pool])
    present = np.asarray([bool(row.targets) for row in pool], dtype=np.float64)
    told = np.asarray([0.0 if row.kind.startswith("made") else 1.0 for row in pool])
    heft = np.where(present == 1, 1 / present.sum(), np.where(told == 1, 1.0, MADE))
    heft[present == 0] /= heft[present == 0].sum()
    prior = np.append(np.asarray([EVIDENCE_PRIOR.get(name, 0.5) for name in EVIDENCE]), 0.0)
    inputs = np.append(z, np.ones((len(z), 1)), axis=1)

    def gradient(point: Array) -> Array:
        return np.asarray(((1 / (1 + np.exp(-inputs @ point)) - present) * heft / 2) @ inputs)

    found = _descend(gradient, prior, presence, free=1)
    shares = present[told == 1].mean()
    return Coefficients(weights, TEMPERATURE, found[:-1], float(found[-1] + np.log(shares / (1 - shares)) * RARENESS))


def _descend(gradient: Callable[[Array], Array], prior: Array, strength: float, free: int = 0) -> Array:
    """Adam from `prior`; the last `free` entries have neither ridge nor sign."""
    point = prior.copy()
    held = np.ones(len(prior))
    held[len(prior) - free :] = 0.0
    mean, square = np.zeros_like(point), np.zeros_like(point)
    for step in range(1, _STEPS + 1):
        slope = gradient(point) + 2 * strength * (point - prior) * held
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        point = point - _RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        kept = np.where(prior >= 0, np.maximum(point, 0.0), np.minimum(point, 0.0))
        point = np.where(held == 1, kept, point)
    return point


def prior_of(name: str) -> float:
    """The weight a feature has before any query has been seen."""
    return PRIOR.get(name, PRIOR_REST)


def cross_validate(rows: Sequence[Example], folds: int = _FOLDS) -> dict[str, float]:
    """By kind: the share of right best guesses, each request scored by a fit that never saw it, and the log-loss."""
    told: dict[str, list[float]] = {}
    for fold in range(folds):
        found = fit([row for at, row in enumerate(rows) if at % folds != fold])
        for row in (row for at, row in enumerate(rows) if at % folds == fold and len(row.table)):
            shares, none = posterior(logits(row.table, row.groups, found), row.groups, 1.0, 0.0)
            right = sum(share for share, group in zip(shares, row.groups, strict=True) if group in row.targets)
            best = row.groups[int(np.argmax(shares))]
            told.setdefault(f"{row.kind}: log-loss", []).append(
                -float(np.log(max(right if row.targets else none, 1e-9)))
            )
            told.setdefault(f"{row.kind}: none", []).append(float(none > 0.5))
            if row.targets:
                told.setdefault(f"{row.kind}: first", []).append(float(best in row.targets))
    return {name: round(float(np.mean(values)), 4) for name, values in sorted(told.items())}


def record(rows: Sequence[Example]) -> dict[str, object]:
    """What is stored beside this module: the coefficients, how they were fitted, and the cross-validation."""
    found = fit(rows)
    return {
        "how": "conditional logit over candidates, then a logistic model against none; ridge towards a prior, "
        f"{len(rows)} development requests, {_FOLDS}-fold cross-validation",
        "cross_validated": cross_validate(rows),
        "temperature": found.temperature,
        "bias": round(found.bias, 4),
        "evidence": {name: round(float(weight), 4) for name, weight in zip(EVIDENCE, found.evidence, strict=True)},
        "weights": {name: round(float(weight), 4) for name, weight in zip(NAMES, found.weights, strict=True)},
    }


def main() -> None:
    """Show the fit and, with `--write`, store it beside this module."""
    parser = argparse.ArgumentParser(description="Fit the embedded reranker.")
    parser.add_argument("catalog", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stored = json.dumps(record(examples(chosen.catalog, chosen.queries, chosen.cache)), indent=1)
    _log.info("%s", stored)
    if chosen.write:
        WEIGHTS.write_text(stored + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
