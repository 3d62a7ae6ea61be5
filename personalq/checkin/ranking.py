"""One slot of a request with every candidate's probability. It never asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from personalq.checkin.clock import Clock
from personalq.checkin.posterior import posterior
from personalq.checkin.rerank.features import date_fit, version_fit
from personalq.checkin.rerank.protocol import Reranker
from personalq.checkin.retrieve import Index, allowed
from personalq.records import Candidate, Intent, Role

MODELS = 10
MOST = 20
"""Stated versions that are added to a short list, and of how many models."""


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
    found = index.candidates(intent, loaded, clock)
    found += index.rescore(intent, _stated(index, intent, found, loaded), clock)
    candidates = [each for each in found if each.checkpoint.role != never]
    with clock.stage("rerank"):
        logits, reasons = reranker.score(intent, candidates) if candidates else ([], [])
        return weigh(index, reranker, intent, candidates, logits, reasons)


def _stated(index: Index, intent: Intent, found: Sequence[Candidate], loaded: str | None) -> list[str]:
    """Versions that the request states, of the models on the short list, that are not on it themselves."""
    if intent.time_range is None and intent.version in (None, "first", "newest"):
        return []
    known = {candidate.checkpoint.id for candidate in found}
    groups = list(dict.fromkeys(index.by_id[candidate.checkpoint.id].group for candidate in found))[:MODELS]
    members = (member for group in groups for member in index.members(group) if member.id not in known)
    return [
        member.id
        for member in members
        if allowed(member, intent, loaded) and version_fit(intent, member) + date_fit(intent, member) >= 1
    ][:MOST]


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
