"""One query put to one system, and whether what came back is right. It adds nothing up."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from personalq.bench.queries import Query
from personalq.checkin.dialogue import Pending, pending
from personalq.records import Checkpoint, Decision, NoMatch, Question, Request, Selection


class System(Protocol):
    """What is measured: a CheckIn, or a baseline that decides likewise."""

    def ask(self, request: Request) -> Decision:
        """The decision for a request."""
        ...

    def answer(self, pending: Pending, text: str) -> Decision:
        """The decision after the reply to a question."""
        ...


Same = Callable[[str], str]
"""From a checkpoint's id to its model, which all its versions share."""


@dataclass(frozen=True)
class Verdict:
    """What one system did with one query. `points` is 0, ½ or 1."""

    query: Query
    first: Decision
    final: Decision
    """After the answer, where a question was asked and the query has one."""
    points: float
    sides: float
    """Of a composition: the share of its two sides that was picked."""
    among: bool
    """Whether a target is picked at once, alone or beside others."""
    rank: int | None
    """Of the first right candidate, from 1; None when there is none."""
    pair_rank: int | None
    """Of a composition: the rank by which both sides are among the candidates."""
    covered: float
    """The share of the target models among the first 30 candidates."""
    none: float | None
    """The probability, or some other score, of "none of them"."""
    triggers: bool | None
    """Whether the prompt holds a stored trigger of every checkpoint; None when there is no such prompt."""
    total_ms: float

    @property
    def asked(self) -> bool:
        """Whether the system asked."""
        return isinstance(self.first, Question)

    @property
    def refused(self) -> bool:
        """Whether the system found no match."""
        return isinstance(self.first, NoMatch)


def put(system: System, query: Query, same: Same) -> Verdict:
    """Ask, answer the question of an ambiguous query, and judge. Errors of the system are not caught."""
    request = Request(query.text, as_of=query.as_of)
    begun = time.perf_counter()
    first = system.ask(request)
    total_ms = 1e3 * (time.perf_counter() - begun)
    final = first
    if isinstance(first, Question) and query.kind == "ambiguous" and query.answer:
        final = system.answer(pending(request, first), query.answer)
    return judge(query, first, final, same, total_ms)


def judge(query: Query, first: Decision, final: Decision, same: Same, total_ms: float) -> Verdict:
    """What `first`, and `final` after the answer, are worth for `query`."""
    ranked = [candidate.checkpoint.id for candidate in first.candidates]
    return Verdict(
        query=query,
        first=first,
        final=final,
        points=points(query, first, final, same),
        sides=sides(query, final, same),
        among=any(matches(each, query.targets, query.exact, same) for each in chosen(first)),
        rank=_rank(ranked, query.targets, query.exact, same),
        pair_rank=_pair_rank(ranked, query, same),
        covered=_covered(ranked[:30], query, same),
        none=none_share(first),
        triggers=triggers_exact(final),
        total_ms=total_ms,
    )


def points(query: Query, first: Decision, final: Decision, same: Same) -> float:
    """The rules of the evaluation.

    single: the one checkpoint picked, in any version unless one is stated; asking is an error. ambiguous: a target
    picked at once is ½; when asked, 1 if the answer leads to `answer_id`. no_match: 1 for finding none; a pick and a
    question are errors. compose: 1 when both sides are picked, with a warning where their bases differ or are unstated.
    """
    if query.kind == "no_match":
        return float(isinstance(first, NoMatch))
    if query.kind == "compose":
        return float(sides(query, final, same) == 1.0 and warned(query, final) is not False)
    picked = chosen(final)
    if len(picked) != 1:
        return 0.0
    if query.kind == "single":
        return float(isinstance(first, Selection) and matches(picked[0], query.targets, query.exact, same))
    if isinstance(first, Question):
        return float(picked[0] == query.answer_id)
    return 0.5 * matches(picked[0], query.targets, query.exact, same)


def chosen(decision: Decision) -> list[str]:
    """The ids picked; empty without a selection."""
    return [checkpoint.id for checkpoint in decision.checkpoints] if isinstance(decision, Selection) else []


def matches(identifier: str, targets: Collection[str], exact: bool, same: Same) -> bool:
    """Whether a checkpoint is a target, or another version of one unless `exact`."""
    return identifier in targets or (not exact and same(identifier) in {same(target) for target in targets})


def sides(query: Query, decision: Decision, same: Same) -> float:
    """The share of a composition's sides among the checkpoints picked; 0 for other queries and for a third pick."""
    picked = chosen(decision)
    if query.kind != "compose" or len(picked) > 2:
        return 0.0
    return (
        sum(any(matches(each, side, query.exact, same) for each in picked) for side in (query.subject, query.style)) / 2
    )


def warned(query: Query, decision: Decision) -> bool | None:
    """Whether a composition of different or unstated bases came with a warning on bases; None where none is due."""
    if query.kind != "compose" or query.base_compat not in ("unstated", "differ"):
        return None
    if not isinstance(decision, Selection) or len(decision.checkpoints) < 2:
        return None
    bases = [checkpoint.base or "same base model" for checkpoint in decision.checkpoints]
    return any("base model" in text or all(base in text for base in bases) for text in decision.warnings)


def triggers_exact(decision: Decision) -> bool | None:
    """Whether a selection's prompt holds a stored trigger of each of its checkpoints, byte for byte, under a span.

    Checkpoints that store no trigger must have no span of one. None for other decisions, for a system that writes no
    prompt, and when no picked checkpoint stores a trigger.
    """
    if not isinstance(decision, Selection) or not decision.prompt:
        return None
    if not any(checkpoint.triggers for checkpoint in decision.checkpoints):
        return None
    if any(not 0 <= span.start < span.end <= len(decision.prompt) for span in decision.spans):
        return False
    return all(_marked(decision, checkpoint) for checkpoint in decision.checkpoints)


def _marked(decision: Selection, checkpoint: Checkpoint) -> bool:
    pieces = [
        decision.prompt[span.start : span.end]
        for span in decision.spans
        if span.id == checkpoint.id and span.role != "concept"
    ]
    if not checkpoint.triggers:
        return not pieces
    return bool(pieces) and all(piece in checkpoint.triggers for piece in pieces)


def none_share(decision: Decision) -> float | None:
    """p(none) = 1 - Σ p(c). A NoMatch by rule (no checkpoint wanted, no such version) against the posterior is 1.

    A system without probabilities gets its best score with the sign turned, which orders but is no share. Without
    candidates it is 1 for a NoMatch, else None. Of a composition it is that of the slots taken together.
    """
    if not decision.candidates:
        return 1.0 if isinstance(decision, NoMatch) else None
    shares = [candidate.probability for candidate in decision.candidates]
    if not any(shares):
        return -max(candidate.rerank for candidate in decision.candidates)
    none = min(1.0, max(0.0, 1.0 - sum(shares)))
    by_rule = isinstance(decision, NoMatch) and none < max(shares)
    return 1.0 if by_rule else none


def _rank(ranked: Sequence[str], targets: Collection[str], exact: bool, same: Same) -> int | None:
    return next((at for at, each in enumerate(ranked, 1) if matches(each, targets, exact, same)), None)


def _pair_rank(ranked: Sequence[str], query: Query, same: Same) -> int | None:
    if query.kind != "compose":
        return None
    ranks = [_rank(ranked, side, query.exact, same) for side in (query.subject, query.style)]
    return max(rank for rank in ranks if rank) if all(ranks) else None


def _covered(ranked: Sequence[str], query: Query, same: Same) -> float:
    wanted = set(query.targets) if query.exact else {same(target) for target in query.targets}
    seen = set(ranked) if query.exact else {same(each) for each in ranked}
    return len(wanted & seen) / len(wanted) if wanted else 0.0


def lineage(checkpoints: Sequence[Checkpoint]) -> Same:
    """`Same` of a catalogue: the group of a checkpoint, or itself."""
    groups: Mapping[str, str] = {each.id: each.group_id or each.id for each in checkpoints}
    return lambda identifier: groups.get(identifier, identifier)
