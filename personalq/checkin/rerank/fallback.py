"""The reranker of one turn: the chosen one, or the default once that has failed. It scores nothing itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from personalq.checkin.rerank.protocol import OptedIn, Reranker, Scores
from personalq.errors import RerankerError
from personalq.records import Candidate, Intent

CALIBRATE = "python -m personalq.checkin.rerank.calibrate"


class Fallback:
    """`Reranker` for a single turn; made anew for the next one, which tries the chosen reranker again.

    Its logits are already calibrated, s_c / T - b under whichever reranker gave them, so that they can be mixed.
    """

    temperature = 1.0
    none_logit = 0.0

    def __init__(self, chosen: Reranker, default: Reranker) -> None:
        self.name = chosen.name
        self._chosen = chosen
        self._default = default
        self._failure = ""
        self._used = False

    @property
    def for_slots(self) -> Reranker:
        """Who scores subject and style of a request apart: the default where every call of the chosen one costs."""
        return self._default if isinstance(self._chosen, OptedIn) and self._chosen.whole_only else self

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know of the turn's scores."""
        if self._failure:
            return (f"{self._failure} The built-in reranker was used instead.",)
        if self._used and isinstance(self._chosen, OptedIn) and not self._chosen.calibrated:
            return (f"The {self.name} reranker's confidence is not calibrated for {self._chosen.model}: {CALIBRATE}.",)
        return ()

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> Scores:
        """The chosen reranker's scores, or the default's after a RerankerError. Raises only what the default raises."""
        if not self._failure and self._chosen is not self._default:
            try:
                found = _even(self._chosen, intent, candidates)
                self._used = True
                return found
            except RerankerError as failed:
                self._failure = str(failed)
        return _even(self._default, intent, candidates)


def _even(reranker: Reranker, intent: Intent, candidates: Sequence[Candidate]) -> Scores:
    logits, reasons = reranker.score(intent, candidates)
    if not len(logits) == len(reasons) == len(candidates) or not all(math.isfinite(logit) for logit in logits):
        raise RerankerError(f"The {reranker.name} reranker gave scores that are no numbers.")
    return [logit / reranker.temperature - reranker.none_logit for logit in logits], reasons
