"""What every reranker promises. It knows no particular one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from personalq.records import Candidate, Intent


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
