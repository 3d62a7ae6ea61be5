"""Verdicts into one row of measures with their intervals. It runs no system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from personalq.bench.intervals import auroc, calibration_error, paired_bootstrap, quantiles, wilson
from personalq.bench.queries import QueryKind
from personalq.bench.verdicts import Verdict, warned
from personalq.records import NoMatch, Question, Selection

Row = dict[str, Any]
COLUMNS = {
    "name": "row",
    "overall": "overall",
    "single_right": "single",
    "single_asked": "asked (s)",
    "recall@1": "R@1",
    "recall@10": "R@10",
    "recall@30": "R@30",
    "ambiguous_right": "ambig.",
    "ambiguous_asked": "asked (a)",
    "no_match_precision": "none prec.",
    "no_match_recall": "none rec.",
    "compose_right": "pairs",
    "exact_trigger": "trigger",
    "none_auroc": "AUROC",
    "none_ece": "ECE",
}
"""What the table shows of a row, and its short heading."""


def measure(name: str, verdicts: Sequence[Verdict]) -> Row:
    """The row of one system: shares from 0 to 1, null where nothing was counted, and Wilson's intervals.

    `overall` is the mean of the points of all queries; `single_among` counts a target picked beside others, too.
    Latencies are of the first turn, in milliseconds. `remarks` counts what the systems said of themselves, such as a
    language model that did not answer.
    """
    single, ambiguous, no_match, compose = (
        of(verdicts, kind) for kind in ("single", "ambiguous", "no_match", "compose")
    )
    refused = [verdict for verdict in verdicts if verdict.refused]
    wanting = [verdict for verdict in compose if warned(verdict.query, verdict.final) is not None]
    counted: dict[str, tuple[float, int]] = {
        "overall": _count(verdicts, lambda verdict: verdict.points),
        "single_right": _count(single, lambda verdict: verdict.points),
        "single_among": _count(single, lambda verdict: verdict.among),
        "single_asked": _count(single, lambda verdict: verdict.asked),
        "single_refused": _count(single, lambda verdict: verdict.refused),
        "recall@1": _count(single, lambda verdict: _within(verdict.rank, 1)),
        "recall@10": _count(single, lambda verdict: _within(verdict.rank, 10)),
        "recall@30": _count(single, lambda verdict: _within(verdict.rank, 30)),
        "ambiguous_right": _count(ambiguous, lambda verdict: verdict.points),
        "ambiguous_asked": _count(ambiguous, lambda verdict: verdict.asked),
        "ambiguous_covered@30": _count(ambiguous, lambda verdict: verdict.covered),
        "no_match_precision": _count(refused, lambda verdict: verdict.query.kind == "no_match"),
        "no_match_recall": _count(no_match, lambda verdict: verdict.points),
        "no_match_asked": _count(no_match, lambda verdict: verdict.asked),
        "compose_right": _count(compose, lambda verdict: verdict.points),
        "compose_sides": _count(compose, lambda verdict: verdict.sides),
        "compose_recall@30": _count(compose, lambda verdict: _within(verdict.pair_rank, 30)),
        "compose_warned": _count(wanting, lambda verdict: warned(verdict.query, verdict.final) is True),
        "exact_trigger": _count(
            [verdict for verdict in verdicts if verdict.triggers is not None], lambda verdict: verdict.triggers is True
        ),
    }
    row: Row = {"name": name}
    row |= {key: round(right / n, 4) if n else None for key, (right, n) in counted.items()}
    row |= _none(single + ambiguous, no_match)
    row["latency_ms"] = quantiles([verdict.total_ms for verdict in verdicts])
    row["stages_ms"] = _stages(verdicts)
    row["remarks"] = dict(Counter(remark for verdict in verdicts for remark in verdict.first.remarks))
    row["intervals"] = {key: _rounded(wilson(right, n)) for key, (right, n) in counted.items()}
    return row


def of(verdicts: Iterable[Verdict], kind: QueryKind) -> list[Verdict]:
    """The verdicts on queries of one kind."""
    return [verdict for verdict in verdicts if verdict.query.kind == kind]


def compared(ours: tuple[str, Sequence[Verdict]], others: Sequence[tuple[str, Sequence[Verdict]]]) -> Row | None:
    """A paired bootstrap of our points against those of the best of `others`, over all queries and over each kind."""
    found: Row = {}
    for kind in ("all", "single", "ambiguous", "no_match", "compose"):
        mine = _points(ours[1], kind)
        if not mine or not others:
            continue
        name, theirs = max(((name, _points(each, kind)) for name, each in others), key=lambda pair: sum(pair[1]))
        gap = paired_bootstrap(mine, theirs)
        if gap is not None:
            found[kind] = {
                "against": name,
                "difference": round(gap.mean, 4),
                "interval": _rounded((gap.low, gap.high)),
                "share_not_above_zero": round(gap.below, 4),
            }
    return found or None


def by_facet(verdicts: Iterable[Verdict]) -> Row:
    """The mean points of the queries of every facet, by kind: {"single: time": {"n": 8, "right": 0.75}}."""
    found: dict[str, list[float]] = {}
    for verdict in verdicts:
        for facet in verdict.query.facets:
            found.setdefault(f"{verdict.query.kind}: {facet}", []).append(verdict.points)
    return {name: {"n": len(each), "right": round(sum(each) / len(each), 4)} for name, each in sorted(found.items())}


def failures(verdicts: Iterable[Verdict]) -> list[Row]:
    """The queries with less than full points: what was wanted and what came."""
    return [
        {
            "id": verdict.query.id,
            "kind": verdict.query.kind,
            "query": verdict.query.text,
            "wanted": list(verdict.query.targets),
            "points": verdict.points,
            "rank": verdict.rank,
            "none": None if verdict.none is None else round(verdict.none, 3),
            "came": _told(verdict),
        }
        for verdict in verdicts
        if verdict.points < 1
    ]


def _told(verdict: Verdict) -> str:
    first, final = verdict.first, verdict.final
    if isinstance(first, Selection):
        return "picked " + ", ".join(checkpoint.id for checkpoint in first.checkpoints)
    if isinstance(first, NoMatch):
        return f"no match: {first.why}"
    told = f"asked: {first.text}"
    if final is first:
        return told
    if isinstance(final, Selection):
        return f"{told} -> {verdict.query.answer!r} -> " + ", ".join(checkpoint.id for checkpoint in final.checkpoints)
    return f"{told} -> {verdict.query.answer!r} -> {'asked again' if isinstance(final, Question) else 'no match'}"


def _points(verdicts: Sequence[Verdict], kind: str) -> list[float]:
    return [verdict.points for verdict in verdicts if kind in ("all", verdict.query.kind)]


def _count(verdicts: Sequence[Verdict], value: Callable[[Verdict], float]) -> tuple[float, int]:
    return sum(float(value(verdict)) for verdict in verdicts), len(verdicts)


def _within(rank: int | None, most: int) -> bool:
    return rank is not None and rank <= most


def _rounded(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else [round(end, 4) for end in pair]


def _none(present: Sequence[Verdict], absent: Sequence[Verdict]) -> Row:
    """AUROC and calibration error of "none" over singles and ambiguous against no-matches."""
    here = [verdict.none for verdict in present if verdict.none is not None]
    gone = [verdict.none for verdict in absent if verdict.none is not None]
    area = auroc(gone, here)
    probable = all(0 <= share <= 1 for share in here + gone)
    error = calibration_error(here + gone, [False] * len(here) + [True] * len(gone)) if probable and gone else None
    return {
        "none_auroc": None if area is None else round(area, 4),
        "none_ece": None if error is None else round(error, 4),
    }


def _stages(verdicts: Sequence[Verdict]) -> Row:
    names = dict.fromkeys(stage for verdict in verdicts for stage in verdict.first.timings_ms if stage != "total")
    return {name: quantiles([verdict.first.timings_ms.get(name, 0.0) for verdict in verdicts]) for name in names}
