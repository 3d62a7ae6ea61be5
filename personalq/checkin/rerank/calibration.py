"""Temperature and "none" of an opted-in reranker: fitted by log-loss, kept in the user's cache. It scores nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.rerank.protocol import Calibration
from personalq.errors import RerankerError

FILE = "rerankers.json"
FOLDS = 5
_RIDGE = 1e-3
"""Pull of (1/T, b) towards what is assumed; keeps them finite where scores separate right from wrong perfectly."""
_STEEPEST = 100.0


@dataclass(frozen=True)
class Scored:
    """One request: the best logit of every model, and which of them are right; none of them means "none" is."""

    logits: NDArray[np.float64]
    right: NDArray[np.float64]
    """Shape of `logits`; 1 where the model is a target, else 0."""


@dataclass(frozen=True)
class Report:
    """A fit with its mean log-loss in nats: as assumed, and of requests the fit had not seen."""

    calibration: Calibration
    requests: int
    assumed_loss: float
    held_out_loss: float


def fit(rows: Sequence[Scored], assumed: Calibration) -> Calibration:
    """T and b of least mean log-loss over p(g) = e^{s_g / T} / Z, p(none) = e^b / Z, ambiguous rows spreading their
    mass over their targets.

    Convex in (1/T, b); Newton's method with halving. Raises RerankerError without rows, or when larger scores are no
    more often right.
    """
    if not rows:
        raise RerankerError("There is nothing to calibrate on; give requests whose answers are in the catalogue.")
    start = np.asarray([1 / assumed.temperature, assumed.none_logit])
    point = start.copy()
    for _ in range(100):
        loss, slope, bend = _loss(rows, point, start)
        step = np.linalg.solve(bend, slope)
        length = 1.0
        while length > 1e-6 and _loss(rows, point - length * step, start)[0] > loss:
            length /= 2
        point = point - length * step
        if np.abs(length * step).max() < 1e-9:
            break
    if point[0] <= 1 / _STEEPEST:
        raise RerankerError("The model's scores do not tell right checkpoints from wrong ones; choose another model.")
    return Calibration(float(1 / min(point[0], _STEEPEST)), float(point[1]), fitted=True)


def cross_validated(rows: Sequence[Scored], assumed: Calibration, folds: int = FOLDS) -> Report:
    """The fit on all rows, judged by fits that never saw the row they are judged on; row k is in fold k mod `folds`."""
    losses: list[float] = []
    for fold in range(min(folds, len(rows))):
        seen = [row for at, row in enumerate(rows) if at % folds != fold]
        held = [row for at, row in enumerate(rows) if at % folds == fold]
        found = fit(seen, assumed) if seen else assumed
        losses += [log_loss([row], found) for row in held]
    return Report(fit(rows, assumed), len(rows), log_loss(rows, assumed), float(np.mean(losses)))


def log_loss(rows: Sequence[Scored], calibration: Calibration) -> float:
    """Mean of -Σ_t log p(t) / |targets|, or of -log p(none), in nats."""
    point = np.asarray([1 / calibration.temperature, calibration.none_logit])
    return float(np.mean([_row(row, point)[0] for row in rows]))


def read(cache: Path, backend: str, model: str) -> Calibration | None:
    """What was stored for this reranker and model; None when nothing was. Raises RerankerError for a broken file."""
    stored = _stored(cache / FILE).get(_key(backend, model))
    if stored is None:
        return None
    try:
        found = Calibration(float(stored["temperature"]), float(stored["none_logit"]), fitted=True)
    except (TypeError, ValueError, LookupError):
        raise _broken(cache / FILE) from None
    if not (math.isfinite(found.temperature) and math.isfinite(found.none_logit) and found.temperature > 0):
        raise _broken(cache / FILE)
    return found


def write(cache: Path, backend: str, model: str, report: Report) -> Path:
    """Store a fit beside those of other rerankers; the file."""
    path = cache / FILE
    entry = {
        "temperature": report.calibration.temperature,
        "none_logit": report.calibration.none_logit,
        "requests": report.requests,
        "assumed_log_loss": round(report.assumed_loss, 4),
        "held_out_log_loss": round(report.held_out_loss, 4),
    }
    stored = {**_stored(path), _key(backend, model): entry}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path


def _key(backend: str, model: str) -> str:
    return f"{backend} {model}"


def _stored(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        raise _broken(path) from None
    if not isinstance(found, dict):
        raise _broken(path)
    return found


def _broken(path: Path) -> RerankerError:
    return RerankerError(f"The calibrations in {path} cannot be read; delete the file and calibrate again.")


def _row(row: Scored, point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Loss, gradient (2,) and Hessian (2, 2) of one request at (1/T, b)."""
    inputs = np.zeros((len(row.logits) + 1, 2))
    inputs[:-1, 0], inputs[-1, 1] = row.logits, 1.0
    wanted = np.append(row.right, 0.0) if row.right.any() else np.append(row.right, 1.0)
    wanted = wanted / wanted.sum()
    scores = inputs @ point
    top = scores.max()
    total = top + np.log(np.exp(scores - top).sum())
    shares = np.exp(scores - total)
    mean = shares @ inputs
    bend = (inputs * shares[:, None]).T @ inputs - np.outer(mean, mean)
    return float(total - wanted @ scores), mean - wanted @ inputs, bend


def _loss(
    rows: Sequence[Scored], point: NDArray[np.float64], start: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The mean over requests with the ridge."""
    parts = [_row(row, point) for row in rows]
    away = point - start
    loss = float(np.mean([part[0] for part in parts])) + _RIDGE * float(away @ away)
    slope = np.mean([part[1] for part in parts], axis=0) + 2 * _RIDGE * away
    bend = np.mean([part[2] for part in parts], axis=0) + 2 * _RIDGE * np.eye(2)
    return loss, slope, bend
