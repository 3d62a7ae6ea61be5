"""One slot of a request with every candidate's probability. It never asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from personalq.checkin.clock import Clock
from personalq.checkin.posterior import posterior
from personalq.checkin.rerank.protocol import Reranker
from personalq.checkin.retrieve import Index
from personalq.records import Candidate, Intent, Role


@dataclass(frozen=True)
class Model:
    """All versions of one model, and the share of the posterior they hold together."""

    group: str
    probability: float
    best: Candidate


@dataclass(frozen=True)
class Ranking:
    """The posterior of one slot: candidates best first, models best first, and "none"."""

    intent: Intent
    candidates: tuple[Candidate, ...]
    models: tuple[Model, ...]
    none: float

    @property
    def top(self) -> float:
        """P(g*), 0 when there is no candidate."""
        return self.models[0].probability if self.models else 0.0


def rank(
    index: Index, reranker: Reranker, intent: Intent, loaded: str | None, clock: Clock, never: Role | None = None
) -> Ranking:
    """Retrieve, rerank and calibrate one slot, without the checkpoints of the role `never`.

    Raises RerankerError when the reranker fails.
    """
    candidates = [each for each in index.candidates(intent, loaded, clock) if each.checkpoint.role != never]
    with clock.stage("rerank"):
        logits, reasons = reranker.score(intent, candidates) if candidates else ([], [])
        return weigh(index, reranker, intent, candidates, logits, reasons)


def weigh(
    index: Index,
    reranker: Reranker,
    intent: Intent,
    candidates: Sequence[Candidate],
    logits: Sequence[float],
    reasons: Sequence[str],
) -> Ranking:
    """Logits to a `Ranking` under the reranker's calibration."""
    groups = [index.by_id[candidate.checkpoint.id].group for candidate in candidates]
    shares, none = posterior(logits, groups, reranker.temperature, reranker.none_logit)
    scored = [
        replace(candidate, rerank=logit, probability=float(share), reason=reason)
        for candidate, logit, share, reason in zip(candidates, logits, shares, reasons, strict=True)
    ]
    scored.sort(key=lambda candidate: -candidate.rerank)
    held: dict[str, float] = {}
    best: dict[str, Candidate] = {}
    for candidate in scored:
        group = index.by_id[candidate.checkpoint.id].group
        held[group] = held.get(group, 0.0) + candidate.probability
        best.setdefault(group, candidate)
    models = sorted((Model(group, held[group], best[group]) for group in held), key=lambda model: -model.probability)
    return Ranking(intent, tuple(scored), tuple(models), none)
