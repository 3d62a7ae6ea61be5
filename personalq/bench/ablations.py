"""PersonalQ without one of its stages each. It uses the public parts of Check-in only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from personalq.bench.means import Means
from personalq.bench.verdicts import System
from personalq.checkin.decide import Thresholds
from personalq.checkin.dense import Encoder, Progress
from personalq.checkin.dialogue import CheckIn, Pending
from personalq.checkin.stores.protocol import Vectors
from personalq.records import Candidate, Checkpoint, Decision, Intent, NoMatch, Request


class FusedOrder:
    """A reranker that leaves the fused order as it is. Nothing calibrates that order, so the first gets all mass."""

    name = "fused order"
    temperature = 1.0
    none_logit = -1e3

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> tuple[list[float], list[str]]:
        """-20 a rank."""
        order = sorted(range(len(candidates)), key=lambda at: -candidates[at].fused)
        logits = [0.0] * len(candidates)
        for rank, at in enumerate(order):
            logits[at] = -20.0 * rank
        return logits, ["fused order"] * len(candidates)


class Blind(Encoder):
    """A sentence encoder to which no two texts are alike: all vectors are zero, and so are all cosines."""

    @property
    def identity(self) -> str:
        """Not that of the encoder whose vectors it withholds."""
        return f"blind-{super().identity}"

    def queries(self, texts: Sequence[str]) -> list[Vectors]:
        """Zeros, shape (width,) each."""
        return [np.zeros(self.width, dtype=np.float32) for _ in texts]

    def documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """Zeros, shape (N, width)."""
        return np.zeros((len(texts), self.width), dtype=np.float32)


class NeverNone:
    """A CheckIn that picks the most probable candidate where it would find no match."""

    def __init__(self, checkin: CheckIn) -> None:
        self._checkin = checkin

    def ask(self, request: Request) -> Decision:
        """A selection or a question; a NoMatch only when there is no candidate at all."""
        return self._picked(request, self._checkin.ask(request))

    def answer(self, pending: Pending, text: str) -> Decision:
        """Likewise, after the reply."""
        return self._picked(pending.request, self._checkin.answer(pending, text))

    def _picked(self, request: Request, decision: Decision) -> Decision:
        if not isinstance(decision, NoMatch) or not decision.candidates:
            return decision
        picked = self._checkin.choose(request, decision.candidates[0].checkpoint.id)
        return replace(picked, candidates=decision.candidates, timings_ms=decision.timings_ms)


def ablations(checkpoints: Sequence[Checkpoint], means: Means) -> list[tuple[str, System]]:
    """Named systems, each PersonalQ without one stage; nothing is fitted again for what is left."""
    always = means.checkin(checkpoints, thresholds=Thresholds(none=1.0))
    return [
        ("personalq, no dense", means.checkin(checkpoints, encoder=Blind(None, means.encoder))),
        ("personalq, fused order only", means.checkin(checkpoints, FusedOrder())),
        ("personalq, no question", means.checkin(checkpoints, thresholds=Thresholds(ask=math.inf))),
        ("personalq, no none", NeverNone(always)),
    ]
