"""Selection measured: PersonalQ, its ablations and the baselines on the same queries. It judges no query itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from personalq.bench.ablations import ablations
from personalq.bench.baselines import baselines, with_threshold
from personalq.bench.measures import COLUMNS, compared, failures, measure
from personalq.bench.queries import Query, read_queries
from personalq.bench.report import device_line, table
from personalq.bench.verdicts import System, Verdict, lineage, put
from personalq.catalog.jsonl import read_jsonl
from personalq.checkin.dialogue import CheckIn
from personalq.checkin.rerank.protocol import Reranker
from personalq.errors import BenchError
from personalq.records import Checkpoint

Progress = Callable[[int, int, str], None]
OURS = "personalq"


def selection(
    catalog: Path,
    queries: Path,
    cache: Path | None = None,
    reranker: Reranker | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Every row on the queries of one file; see `measure` for what a row holds and `points` for the rules.

    Baselines neither ask nor find no match, unless a threshold says so, and write no prompt: what they cannot do counts
    0, what they do not do is null. Raises BenchError for files that cannot be used.
    """
    checkpoints = read_jsonl(catalog).checkpoints
    if not checkpoints:
        raise BenchError(f"{catalog} holds no checkpoint; see its problems with `personalq index`.")
    asked = read_queries(queries, {checkpoint.id for checkpoint in checkpoints})
    return rows(checkpoints, asked, cache, reranker, on_progress)


def rows(
    checkpoints: Sequence[Checkpoint],
    queries: Sequence[Query],
    cache: Path | None = None,
    reranker: Reranker | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """The same over records: {"device", "n", "rows", "against", "failures"}."""
    same = lineage(checkpoints)
    plain: list[tuple[str, System]] = [(ranked.name, ranked) for ranked in baselines(checkpoints, cache)]
    whole: list[tuple[str, System]] = [(OURS, CheckIn(checkpoints, cache, reranker))]
    whole += ablations(checkpoints, cache, reranker)
    done: list[tuple[str, list[Verdict]]] = []
    for number, (name, system) in enumerate([*plain, *whole]):
        verdicts = []
        for at, query in enumerate(queries, 1):
            verdicts.append(put(system, query, same))
            if on_progress:
                on_progress(number * len(queries) + at, (len(plain) + len(whole)) * len(queries), name)
        done.append((name, verdicts))
    others = done[: len(plain)]
    others += [(f"{name} + threshold", with_threshold(verdicts, same)) for name, verdicts in others[1:]]
    mine = done[len(plain)]
    return {
        "device": device_line(torch.device("cpu")),
        "n": dict(Counter(query.kind for query in queries)),
        "checkpoints": len(checkpoints),
        "rows": [measure(name, verdicts) for name, verdicts in [*others, *done[len(plain) :]]],
        "against": compared(mine, others),
        "failures": failures(mine[1]),
    }


def as_text(result: dict[str, Any], with_failures: bool) -> str:
    """The result for people: the table, the comparison with the best baseline and, if asked, our failures."""
    counted = ", ".join(f"{n} {kind}" for kind, n in result["n"].items())
    shown = [
        {heading: row[column] for column, heading in COLUMNS.items()}
        | {"p50 ms": row["latency_ms"]["p50"]}
        | {"p95 ms": row["latency_ms"]["p95"]}
        for row in result["rows"]
    ]
    told = [f"{result['device']}\n{result['checkpoints']:,} checkpoints; {counted}", table(shown)]
    ours = next(row for row in result["rows"] if row["name"] == OURS)
    told.append(
        "personalq, 95 % intervals: " + "; ".join(_interval(ours, name) for name in _SHOWN if ours[name] is not None)
    )
    told += [_versus(kind, against) for kind, against in (result["against"] or {}).items()]
    if with_failures:
        told += [_failure(each) for each in result["failures"]]
    return "\n\n".join(told[:3]) + "\n" + "\n".join(told[3:])


_SHOWN = (
    "single_right",
    "ambiguous_right",
    "ambiguous_asked",
    "no_match_precision",
    "no_match_recall",
    "compose_right",
)


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
