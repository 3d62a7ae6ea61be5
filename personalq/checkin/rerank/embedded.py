"""The default reranker: named features, a reader and a small forest, all packaged. No network; it fits nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.intent import remaining
from personalq.checkin.profile import Profile, card
from personalq.checkin.rerank.features import NAMES, Asked, table
from personalq.checkin.rerank.forest import Forest
from personalq.checkin.rerank.protocol import Calibration
from personalq.checkin.rerank.reader import KEPT, Reader
from personalq.errors import RerankerError
from personalq.records import Candidate, Intent

WEIGHTS = Path(__file__).with_name("embedded.json")
FOREST = Path(__file__).with_name("forest.safetensors")
COLUMNS = 2 * len(NAMES) + 3
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
    "read_cover": "its card speaks of what is asked for",
}
_PULL = 0.3
_DATE = 1.5
"""Log-odds of a date inside the time asked for, beside the forest's, which learned little: few checkpoints have one."""


@dataclass(frozen=True)
class Fitted:
    """What training leaves: one weight a feature, a forest over them, and the calibration of its log-odds."""

    weights: NDArray[np.float64]
    forest: Forest
    calibration: Calibration

    @classmethod
    def read(cls, weights: Path = WEIGHTS, forest: Path = FOREST) -> Fitted:
        """Raises RerankerError when a file is missing or was fitted for other features."""
        try:
            stored = json.loads(weights.read_text(encoding="utf-8"))
            linear = np.asarray([float(stored["weights"][name]) for name in NAMES])
            calibration = Calibration(float(stored["temperature"]), float(stored["none_logit"]), fitted=True)
        except (OSError, ValueError, KeyError, TypeError) as broken:
            raise RerankerError(
                f"{weights.name} cannot be used ({broken}); run personalq.checkin.rerank.training."
            ) from broken
        return cls(linear, Forest.read(forest, COLUMNS), calibration)

    def log_odds(self, rows: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
        """Of every candidate of a feature table (at least one) that it fits, shape (candidates,); not calibrated."""
        return self.forest.score(against(rows, rows @ self.weights, groups))


class Embedded:
    """`Reranker` over the features of this catalogue's profiles.

    A linear score s = w·x compares the candidates; the forest sees the features, how far each lies under the best of
    its column, s, and how far s is ahead of the best other model.
    """

    name = "embedded"

    def __init__(
        self,
        profiles: dict[str, Profile],
        rarity: Callable[[str], float],
        fitted: Fitted | None = None,
        reader: Reader | None = None,
    ) -> None:
        self._fitted = fitted or Fitted.read()
        self._reader = reader or Reader()
        self._profiles = profiles
        self._rarity = rarity
        self.temperature = self._fitted.calibration.temperature
        self.none_logit = self._fitted.calibration.none_logit

    def over(self, profiles: dict[str, Profile], rarity: Callable[[str], float]) -> Embedded:
        """The same for another catalogue; the reader, and what it remembers, is shared."""
        return Embedded(profiles, rarity, self._fitted, self._reader)

    def learn(self, ids: Iterable[str], on_progress: Callable[[int, int, str], None] | None = None) -> None:
        """Read the cards of these checkpoints now rather than with the first request that may mean them."""
        self._reader.learn([card(self._profiles[each].checkpoint) for each in islice(ids, KEPT)], on_progress)

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> tuple[list[float], list[str]]:
        """Log-odds and, for each candidate, the features that spoke for it most."""
        if not candidates:
            return [], []
        rows = self.features(intent, candidates)
        groups = [self._profiles[candidate.checkpoint.id].group for candidate in candidates]
        odds = self._fitted.log_odds(rows, groups) + _DATE * rows[:, NAMES.index("date")]
        return odds.tolist(), [self._reason(row) for row in rows]

    def features(self, intent: Intent, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """The feature table, shape (candidates, len(NAMES)). Raises RerankerError for a foreign candidate."""
        try:
            profiles = [self._profiles[candidate.checkpoint.id] for candidate in candidates]
        except KeyError as foreign:
            raise RerankerError(f"Checkpoint {foreign} is not in this catalogue; build CheckIn anew.") from None
        read = self._reader.read(remaining(intent), [card(profile.checkpoint) for profile in profiles])
        return table(Asked.of(intent, self._rarity), candidates, profiles, read)

    def _reason(self, row: NDArray[np.float64]) -> str:
        pulls = row * self._fitted.weights
        order = [int(at) for at in np.argsort(-pulls) if pulls[at] > _PULL and NAMES[at] in _SAID]
        return "; ".join(_SAID[NAMES[at]] for at in order[:2]) or "a faint resemblance"


def against(rows: NDArray[np.float64], scores: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """What the forest sees, shape (candidates, COLUMNS): the features, how far under the column's best, s, how far
    under the best s, and how far s is ahead of the best candidate of another model (of 0 when there is none)."""
    best: dict[str, float] = {}
    for group, score in zip(groups, scores.tolist(), strict=True):
        best[group] = max(best.get(group, -np.inf), score)
    ordered = sorted(best.values(), reverse=True)
    rival = [(ordered[1] if best[group] == ordered[0] else ordered[0]) if len(ordered) > 1 else 0.0 for group in groups]
    return np.column_stack([rows, rows - rows.max(axis=0), scores, scores - scores.max(), scores - np.asarray(rival)])
