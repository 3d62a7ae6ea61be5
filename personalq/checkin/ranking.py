"""One slot of a request with every candidate's probability, and the version a model resolves to. It never asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from personalq.checkin.bases import fits
from personalq.checkin.clock import Clock
from personalq.checkin.posterior import posterior
from personalq.checkin.profile import spaced
from personalq.checkin.rerank.features import has_version
from personalq.checkin.rerank.protocol import Reranker
from personalq.checkin.retrieve import Index
from personalq.checkin.words import content_words, words
from personalq.records import Candidate, Checkpoint, Intent, Role

_VARIANT = re.compile(r"\b(?:version|variant|build|edition|the one) (?:with|without|that|where|for|in|of)\b", re.IGNORECASE)
"""Says that words of the request describe a version rather than the picture."""


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


def resolve(index: Index, intent: Intent, group: str, loaded: str | None) -> tuple[Checkpoint | None, str]:
    """The version of a model that is meant, and a remark on it; None when the version stated does not exist.

    A version asked for by number, date, kind, base or words of its own wins; else the newest that fits the base.
    """
    members = list(index.members(group))
    pool = [member for member in members if fits(member.base, loaded) is not False] or members
    pool = _prefer(pool, lambda member: member.role != "utility" and member.loadable)
    pool = _prefer(pool, lambda member: fits(member.base, intent.base) is True)
    pool = _prefer(pool, lambda member: intent.kind is None or member.kind == intent.kind)
    pool = _prefer(pool, lambda member: _inside(intent, member))
    if intent.version not in (None, "first", "newest") and any(_numbered(member) for member in members):
        pool = [member for member in pool if has_version(member, str(intent.version))]
        if not pool:
            known = ", ".join(dict.fromkeys(member.version for member in members if member.version)) or "unnamed"
            return None, f"There is no version {intent.version} of {members[0].name}; there is {known}."
    within, asked = spaced(intent.text), set(content_words(intent.text))
    shared = set.intersection(*(set(words(member.version or "")) for member in pool))
    pool = _prefer(pool, lambda member: bool((set(words(member.version or "")) - shared - {"v"}) & asked))
    pool = _prefer(
        pool, lambda member: any(spaced(trigger) in within for trigger in member.triggers if spaced(trigger))
    )
    if _VARIANT.search(intent.text):
        told = {member.id: set(content_words(member.description)) for member in pool}
        common = set.intersection(*told.values())
        pool = _prefer(pool, lambda member: bool((told[member.id] - common) & asked))
    ordered = sorted(pool, key=_age)
    chosen = ordered[0] if intent.version == "first" else ordered[-1]
    return chosen, _remark(chosen, intent, len(pool), len(members))


def _prefer(pool: list[Checkpoint], wanted: Callable[[Checkpoint], bool]) -> list[Checkpoint]:
    return [member for member in pool if wanted(member)] or pool


def _numbered(member: Checkpoint) -> bool:
    return member.version_ordinal is not None or bool(member.version)


def _age(member: Checkpoint) -> tuple[float, str, str]:
    ordinal = member.version_ordinal if member.version_ordinal is not None else -1.0
    return ordinal, member.created_at or "", member.id


def _inside(intent: Intent, member: Checkpoint) -> bool:
    if intent.time_range is None or not member.created_at:
        return False
    return intent.time_range[0] <= member.created_at[:10] <= intent.time_range[1]


def _remark(chosen: Checkpoint, intent: Intent, open_versions: int, versions: int) -> str:
    if versions < 2:
        return ""
    label = chosen.version or "the version of " + (chosen.created_at or "unknown date")
    if intent.version == "first":
        return f"{label} is its first version."
    if open_versions > 1 or intent.version == "newest":
        return f"{label} is the newest of its {versions} versions."
    return f"{label} is the version asked for."
