"""What every reranker promises. It knows no particular one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from personalq.records import Candidate, Intent

Scores = tuple[list[float], list[str]]
"""One logit and one short reason for each candidate."""


class Reranker(Protocol):
    """Scores candidates for an intent; `temperature` and `none_logit` turn its logits into a posterior."""

    name: str
    temperature: float
    none_logit: float

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> tuple[list[float], list[str]]:
        """One logit and one short reason for each candidate, in the same order.

        Raises RerankerError when nothing could be scored.
        """
        ...


@dataclass(frozen=True)
class Calibration:
    """T and b of p(c) = e^{s_c / T} / Z, p(none) = e^b / Z, and whether they were fitted or only assumed."""

    temperature: float
    none_logit: float
    fitted: bool = False


class OptedIn(ABC):
    """A `Reranker` that only a setting brings in: it runs some model, whose logits need a calibration of their own."""

    name: str
    assumed: ClassVar[Calibration]
    """Used until `personalq.checkin.rerank.calibrate` has fitted one. Not measured: a starting point, and said so."""
    whole_only: ClassVar[bool] = False
    """True where every call costs: the request is scored as a whole, its slots by the default reranker."""

    def __init__(self, model: str, calibration: Calibration | None) -> None:
        chosen = calibration or self.assumed
        self.model = model
        self.calibrated = chosen.fitted
        self.temperature = chosen.temperature
        self.none_logit = chosen.none_logit

    @abstractmethod
    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> Scores:
        """As `Reranker.score`."""
