"""From a request to a decision: one straight line of named steps. It keeps nothing between requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from personalq.checkin.bases import fits
from personalq.checkin.clock import Clock
from personalq.checkin.intent import parse
from personalq.checkin.question import Worth, about_versions, best_question, label_of
from personalq.checkin.ranking import Ranking, rank
from personalq.checkin.rerank.protocol import Reranker
from personalq.checkin.retrieve import Index
from personalq.checkin.rewrite import rewrite
from personalq.checkin.slots import explained, said, slots
from personalq.checkin.ties import level
from personalq.checkin.versions import meant, resolve
from personalq.records import Candidate, Checkpoint, Decision, Intent, NoMatch, Question, Request, Selection

STAGES = ("intent", "lexical", "dense", "fuse", "rerank", "decide", "rewrite")
NEAREST = 3


VersionPolicy = Literal["newest", "ask"]


@dataclass(frozen=True)
class Thresholds:
    """τ₀, τ₁ and κ of the decision rule, and what both slots must reach to be composed."""

    none: float = 0.4
    select: float = 0.55
    ask: float = 0.15
    certain: float = 0.9
    """One model's share of what is not "none" that is enough."""
    compose: float = 0.5
    version_policy: VersionPolicy = "newest"
    """What to do with versions that the request leaves open: take the newest, or ask which."""


@dataclass(frozen=True)
class Reading:
    """A request with its rankings, before the decision: all an answer to a question needs."""

    request: Request
    intent: Intent
    whole: Ranking
    parts: tuple[Ranking, Ranking] | None


def read(index: Index, reranker: Reranker, request: Request, clock: Clock) -> Reading:
    """Understand and rank a request. Raises RequestError for one without words."""
    with clock.stage("intent"):
        intent = parse(request, index.bases, index.nouns)
    whole = level(index, rank(index, reranker, intent, request.base, clock))
    parts = None if intent.opt_out else slots(index, reranker, intent, whole, request.base, clock)
    return Reading(request, intent, whole, (level(index, parts[0]), level(index, parts[1])) if parts else None)


def decide(index: Index, reading: Reading, thresholds: Thresholds, clock: Clock) -> Decision:
    """NoMatch, Selection or Question by the posterior; see `Thresholds`."""
    with clock.stage("decide"):
        if reading.intent.opt_out:
            return NoMatch((), "The request asks for no checkpoint.", reading.whole.candidates)
        both = composing(index, reading, thresholds)
        if both is not None:
            open_slot = max((_ask(slot, thresholds) for slot in both), key=_value)
            return open_slot.question if open_slot else select(index, reading, both, clock)
        ranking = reading.whole
        if not ranking.candidates:
            return NoMatch((), _nothing(index, reading))
        if ranking.none > thresholds.none:
            return no_match(index, reading, _absent(index, reading))
        if sure(ranking, thresholds):
            return which_version(index, reading, thresholds) or select(
                index, reading, (ranking,), clock, described=thresholds.version_policy == "ask"
            )
        worth = best_question(ranking)
        if worth and worth.value > thresholds.ask:
            return worth.question
        if ranking.none > ranking.top:
            return no_match(index, reading, "Nothing in the catalogue is close enough to the request.")
        return select(index, reading, (ranking,), clock)


def which_version(index: Index, reading: Reading, thresholds: Thresholds) -> Question | None:
    """The question about the versions of the best model that the request leaves open, where the policy is to ask."""
    if thresholds.version_policy == "newest" or thresholds.ask == math.inf:
        return None
    found = meant(index, reading.intent, reading.whole.models[0].group, reading.request.base, described=True)
    return about_versions(found.open, reading.whole.candidates) if len(found.open) > 1 else None


def sure(ranking: Ranking, thresholds: Thresholds) -> bool:
    """P(g*) ≥ τ₁, or one model holds nearly all of what is not "none" and more than "none"."""
    alone = ranking.top >= thresholds.certain * (1 - ranking.none) and ranking.top > ranking.none
    return ranking.top >= thresholds.select or alone


def select(
    index: Index, reading: Reading, rankings: Sequence[Ranking], clock: Clock, described: bool = False
) -> Decision:
    """The best model of each ranking in the version meant, and the prompt with their triggers."""
    chosen: list[Checkpoint] = []
    remarks: list[str] = []
    for ranking in rankings:
        model = ranking.models[0]
        found = meant(index, reading.intent, model.group, reading.request.base, described)
        if not found.open:
            return no_match(index, reading, found.remark)
        chosen.append(found.open[-1])
        remarks.append(f"{label_of(found.open[-1])}: {model.best.reason}. {found.remark}".strip())
    confidence = min(ranking.top for ranking in rankings)
    candidates = merged(rankings) if len(rankings) > 1 else rankings[0].candidates
    return selection(reading.intent, chosen, confidence, " ".join(remarks), candidates, clock)


def selection(
    intent: Intent,
    chosen: Sequence[Checkpoint],
    confidence: float,
    why: str,
    candidates: Sequence[Candidate],
    clock: Clock,
) -> Selection:
    """Write the prompt for checkpoints already chosen."""
    with clock.stage("rewrite"):
        written = rewrite(intent, chosen)
    return Selection(tuple(chosen), written.prompt, written.spans, confidence, why, tuple(candidates), written.warnings)


def no_match(index: Index, reading: Reading, why: str) -> NoMatch:
    """Name the nearest models, one version each."""
    nearest = tuple(model.best for model in reading.whole.models[:NEAREST])
    named = ", ".join(label_of(candidate.checkpoint) for candidate in nearest)
    return NoMatch(nearest, f"{why} Nearest: {named}." if named else why, reading.whole.candidates)


def merged(rankings: Sequence[Ranking]) -> tuple[Candidate, ...]:
    """The candidates of several slots, each checkpoint once, most probable first."""
    best: dict[str, Candidate] = {}
    for candidate in (candidate for ranking in rankings for candidate in ranking.candidates):
        known = best.get(candidate.checkpoint.id)
        if known is None or candidate.probability > known.probability:
            best[candidate.checkpoint.id] = candidate
    return tuple(sorted(best.values(), key=lambda candidate: -candidate.probability))


def composing(index: Index, reading: Reading, thresholds: Thresholds) -> tuple[Ranking, Ranking] | None:
    """The style's and the subject's ranking when both are meant, else None.

    One slot must be settled, and the other settled too or, for a subject the user calls theirs ("my dog"), present.
    """
    if reading.parts is None:
        return None
    subject, style = reading.parts
    if not subject.models or not style.models or subject.models[0].group == style.models[0].group:
        return None
    wanted, look = subject.models[0].best.checkpoint, style.models[0].best.checkpoint
    if wanted.role == "style" or look.role != "style" or not _apart(index, reading.intent, subject, style):
        return None
    if reading.intent.style is None and not _plainly_both(index, reading.intent, wanted, look):
        return None
    settled = [ranking.top >= thresholds.compose for ranking in (subject, style)]
    mine = " my " in f" {reading.intent.text.casefold()} "
    present = all(ranking.none <= thresholds.none for ranking in (subject, style))
    return (style, subject) if all(settled) or (mine and present and any(settled)) else None


def _ask(ranking: Ranking, thresholds: Thresholds) -> Worth | None:
    """The question worth asking about a slot of a composition, if any."""
    if ranking.top >= thresholds.compose:
        return None
    worth = best_question(ranking)
    return worth if worth and worth.value > thresholds.ask else None


def _value(worth: Worth | None) -> float:
    return worth.value if worth else 0.0


def _plainly_both(index: Index, intent: Intent, wanted: Checkpoint, look: Checkpoint) -> bool:
    """Without a phrase such as "in the ... style": both are called by a whole name and can be loaded together."""
    named = all(said(index.by_id[checkpoint.id], intent.text) for checkpoint in (wanted, look))
    return named and look.kind != "dreambooth" and fits(wanted.base, look.base) is not False


def _apart(index: Index, intent: Intent, subject: Ranking, style: Ranking) -> bool:
    """Whether each side is named by words of the request that the other does not say."""
    text = intent.text
    mine = set(explained(index.by_id[subject.models[0].best.checkpoint.id], text))
    theirs = set(explained(index.by_id[style.models[0].best.checkpoint.id], text))
    return bool(mine - theirs) and bool(theirs - mine)


def _absent(index: Index, reading: Reading) -> str:
    """Why nothing fits: a version that does not exist, where the request names the model, or nothing at all."""
    nearest = reading.whole.models[0]
    if explained(index.by_id[nearest.best.checkpoint.id], reading.intent.text):
        checkpoint, remark = resolve(index, reading.intent, nearest.group, reading.request.base)
        if checkpoint is None:
            return remark
    return "Nothing in the catalogue is what the request describes."


def _nothing(index: Index, reading: Reading) -> str:
    if not index.checkpoints:
        return "The catalogue is empty; add checkpoints to the repository and index it."
    base = reading.intent.base or reading.request.base
    kind = {"ti": "textual inversion", "dreambooth": "full model"}.get(str(reading.intent.kind), "checkpoint")
    return f"There is no {kind} for {base} in the catalogue." if base else f"There is no {kind} in the catalogue."
