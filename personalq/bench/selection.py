"""Selection measured: PersonalQ, its ablations and the baselines on the same queries. It judges no query itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from personalq.bench.ablations import ablations
from personalq.bench.baselines import Reranked, baselines, with_threshold
from personalq.bench.means import Means
from personalq.bench.measures import COLUMNS, by_facet, compared, failures, measure
from personalq.bench.queries import Query, read_queries
from personalq.bench.report import device_line, table
from personalq.bench.stylus import FREE, PUBLISHED, Stylus
from personalq.bench.verdicts import Same, System, Verdict, lineage, put
from personalq.catalog.jsonl import read_jsonl
from personalq.errors import BenchError
from personalq.records import Checkpoint

Progress = Callable[[int, int, str], None]
Named = tuple[str, list[Verdict]]
OURS = "personalq"


def selection(catalog: Path, queries: Path, means: Means, on_progress: Progress | None = None) -> dict[str, Any]:
    """Every row on the queries of one file; see `measure` for what a row holds and `points` for the rules.

    Baselines neither ask nor find no match, unless a threshold says so, and write no prompt: what they cannot do counts
    0, what they do not do is null. Raises BenchError for files that cannot be used.
    """
    checkpoints = read_jsonl(catalog).checkpoints
    if not checkpoints:
        raise BenchError(f"{catalog} holds no checkpoint; see its problems with `personalq index`.")
    return rows(checkpoints, read_queries(queries, {each.id for each in checkpoints}), means, on_progress)


def rows(
    checkpoints: Sequence[Checkpoint], queries: Sequence[Query], means: Means, on_progress: Progress | None = None
) -> dict[str, Any]:
    """The same over records: {"device", "n", "checkpoints", "rows", "against", "facets", "failures"}."""
    same = lineage(checkpoints)
    plain = rivals(checkpoints, means)
    whole: list[tuple[str, System]] = [(OURS, means.checkin(checkpoints)), *ablations(checkpoints, means)]
    done = run([*plain, *whole], queries, same, on_progress)
    others, mine = done[: len(plain)], done[len(plain)]
    others += [(f"{name} + threshold", with_threshold(verdicts, same)) for name, verdicts in others if name in CUT]
    return {
        "device": device_line(torch.device("cpu")),
        "n": dict(Counter(query.kind for query in queries)),
        "checkpoints": len(checkpoints),
        "rows": [measure(name, verdicts) for name, verdicts in [*others, *done[len(plain) :]]],
        "against": compared(mine, others),
        "facets": by_facet(mine[1]),
        "failures": failures(mine[1]),
    }


CUT = ("BM25 (words)", "BM25 (n-grams)", "dense", "RRF")
"""The baselines that are also tried with a threshold."""


def rivals(checkpoints: Sequence[Checkpoint], means: Means) -> list[tuple[str, System]]:
    """The systems to compare with, by name."""
    ranked = baselines(checkpoints, means.new_encoder)
    found: list[tuple[str, System]] = [(each.name, each) for each in ranked]
    if means.reranker is not None:
        alone = Reranked(ranked[-1], means.reranker)
        found.append((alone.name, alone))
    for variant in (PUBLISHED, FREE):
        stylus = Stylus(variant, checkpoints, means.new_encoder(), means.composer)
        found.append((stylus.name, stylus))
    return found


def run(
    systems: Sequence[tuple[str, System]], queries: Sequence[Query], same: Same, on_progress: Progress | None
) -> list[Named]:
    """Every query put to every system."""
    done: list[Named] = []
    total = len(systems) * len(queries)
    for name, system in systems:
        verdicts: list[Verdict] = []
        for query in queries:
            verdicts.append(put(system, query, same))
            if on_progress:
                on_progress(len(done) * len(queries) + len(verdicts), total, name)
        done.append((name, verdicts))
    return done


# --- for people --------------------------------------------------------------------------------

_SHOWN = (
    "single_right",
    "ambiguous_right",
    "ambiguous_asked",
    "no_match_precision",
    "no_match_recall",
    "compose_right",
)


def as_text(result: dict[str, Any], with_failures: bool) -> str:
    """The result for people: the table, our intervals, the best baselines and, if asked, our failures."""
    counted = ", ".join(f"{n} {kind}" for kind, n in result["n"].items())
    head = f"{result['device']}\n{result['checkpoints']:,} checkpoints; {counted}"
    ours = next(row for row in result["rows"] if row["name"] == OURS)
    intervals = [_interval(ours, name) for name in _SHOWN if ours[name] is not None]
    told = [f"{OURS}, 95 % intervals: {'; '.join(intervals)}"]
    told += [_versus(kind, against) for kind, against in (result["against"] or {}).items()]
    if with_failures:
        told += ["", *(_failure(each) for each in result["failures"])]
    return "\n\n".join([head, table([_shown(row) for row in result["rows"]]), "\n".join(told)])


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    times = {f"{name} ms": row["latency_ms"][name] for name in ("p50", "p95")}
    return {heading: row[column] for column, heading in COLUMNS.items()} | times


def _failure(each: dict[str, Any]) -> str:
    where = f"rank {each['rank']}, none {each['none']}"
    return f"{each['kind']} {each['id']}: {each['query']}\n    {each['came']} ({where})"


def _interval(row: dict[str, Any], name: str) -> str:
    low, high = row["intervals"][name]
    return f"{name} {row[name]:.3f} ({low:.3f} to {high:.3f})"


def _versus(kind: str, gap: dict[str, Any]) -> str:
    low, high = gap["interval"]
    return (
        f"{kind}: {gap['difference']:+.3f} points over {gap['against']} ({low:+.3f} to {high:+.3f}), "
        f"{gap['share_not_above_zero']:.1%} of resamples not above zero"
    )
