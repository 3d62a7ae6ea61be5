"""The default reranker: a logistic model over named features, no network, no torch. It fits nothing itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.profile import Profile
from personalq.checkin.rerank.features import EVIDENCE, NAMES, Asked, evidence, table
from personalq.errors import RerankerError
from personalq.records import Candidate, Intent

WEIGHTS = Path(__file__).with_name("embedded.json")
_SAID = {
    "exact": "its name or trigger is in the request",
    "name_share": "the request says its name",
    "subject_strong": "its name covers the subject",
    "subject_anywhere": "its description covers the subject",
    "all_strong": "its name covers the request",
    "all_anywhere": "its description covers the request",
    "noun": "it is of the class asked for",
    "version": "it is the version asked for",
    "version_words": "its version is described in the request",
    "date": "it was made when the request says",
    "base": "it is made for the base asked for",
    "kind": "it is the kind of file asked for",
    "title": "its title means something close",
    "body": "its description means something close",
}


@dataclass(frozen=True)
class Coefficients:
    """One weight a feature of a candidate, one a piece of evidence against "none"."""

    weights: NDArray[np.float64]
    temperature: float
    """Divides w·x when candidates are compared, not when they are weighed against "none"."""
    evidence: NDArray[np.float64]
    bias: float
    """Log-odds against "none" when there is no evidence."""

    @classmethod
    def read(cls, path: Path = WEIGHTS) -> Coefficients:
        """Raises RerankerError when the file is missing or was fitted for other features."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            weights = np.asarray([float(stored["weights"][name]) for name in NAMES])
            evidence = np.asarray([float(stored["evidence"][name]) for name in EVIDENCE])
            return cls(weights, float(stored["temperature"]), evidence, float(stored["bias"]))
        except (OSError, ValueError, KeyError, TypeError) as broken:
            raise RerankerError(f"{path.name} cannot be used ({broken}); run personalq.checkin.rerank.fit.") from broken


class Embedded:
    """`Reranker` over the features of this catalogue's profiles.

    Two logistic models: s_c = w·x_c / T says which candidate, and v·z + a whether any. A logit is
    s_c - log Σ e^s + v·z + a, so that with T = 1 and b = 0 the posterior has p(none) = 1 / (1 + e^{v·z + a}).
    """

    name = "embedded"
    temperature = 1.0
    none_logit = 0.0

    def __init__(
        self, profiles: dict[str, Profile], rarity: Callable[[str], float], coefficients: Coefficients | None = None
    ) -> None:
        self._fitted = coefficients or Coefficients.read()
        self._profiles = profiles
        self._rarity = rarity

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> tuple[list[float], list[str]]:
        """Logits and, for each candidate, the features that spoke for it most."""
        if not candidates:
            return [], []
        rows = self.features(intent, candidates)
        groups = [self._profiles[candidate.checkpoint.id].group for candidate in candidates]
        return logits(rows, groups, self._fitted).tolist(), [self._reason(row) for row in rows]

    def features(self, intent: Intent, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """The feature table, shape (candidates, len(NAMES)). Raises RerankerError for a foreign candidate."""
        try:
            profiles = [self._profiles[candidate.checkpoint.id] for candidate in candidates]
        except KeyError as foreign:
            raise RerankerError(f"Checkpoint {foreign} is not in this catalogue; build CheckIn anew.") from None
        return table(Asked.of(intent, self._rarity), candidates, profiles)

    def _reason(self, row: NDArray[np.float64]) -> str:
        pulls = row * self._fitted.weights
        order = [int(at) for at in np.argsort(-pulls) if pulls[at] > 0.3 and NAMES[at] in _SAID]
        return "; ".join(_SAID[NAMES[at]] for at in order[:2]) or "a faint resemblance"


def logits(rows: NDArray[np.float64], groups: Sequence[str], fitted: Coefficients) -> NDArray[np.float64]:
    """Calibrated logits of a feature table (at least one row), each model counted once by its best version."""
    scores = rows @ fitted.weights / fitted.temperature
    best: dict[str, float] = {}
    for group, score in zip(groups, scores.tolist(), strict=True):
        best[group] = max(best.get(group, score), score)
    models = np.asarray(list(best.values()))
    total = models.max() + np.log(np.exp(models - models.max()).sum())
    present = evidence(rows, fitted.weights) @ fitted.evidence + fitted.bias
    found: NDArray[np.float64] = scores - total + present
    return found
