"""Calibrate an opted-in reranker: `python -m personalq.checkin.rerank.calibrate --reranker chat CATALOG QUERIES`.

Reads requests with their right answers, one JSON object a line ("query", "kind", "targets", "asof"); keeps nothing of
them but two numbers. The default reranker is fitted by `personalq.checkin.rerank.training` instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from personalq.catalog.jsonl import read_jsonl
from personalq.checkin.clock import Clock
from personalq.checkin.intent import parse
from personalq.checkin.rerank.calibration import Scored, cross_validated, write
from personalq.checkin.rerank.choose import chosen
from personalq.checkin.rerank.protocol import OptedIn
from personalq.checkin.retrieve import Index
from personalq.errors import PersonalQError, RequestError, RerankerError, SettingsError
from personalq.records import Request
from personalq.settings import RERANKERS, Settings

KINDS = ("single", "ambiguous", "no_match")
MOST_FAILED = 0.1
"""Share of requests that may fail before the calibration is given up."""


def scored(
    index: Index, reranker: OptedIn, queries: Path, on_progress: Callable[[int, int], None] | None = None
) -> tuple[list[Scored], int]:
    """Every request scored as Check-in would score it, and how many were left out.

    Left out: compositions, requests whose answer the retrieval did not find, and those the reranker failed on. Raises
    RequestError for lines that cannot be read, RerankerError when more than MOST_FAILED of the requests fail.
    """
    asked = [row for row in _lines(queries) if row.get("kind") in KINDS]
    rows: list[Scored] = []
    failures: list[str] = []
    for at, row in enumerate(asked, start=1):
        try:
            found = _row(index, reranker, row)
        except RerankerError as failed:
            failures.append(str(failed))
            found = None
            if len(failures) > max(1.0, MOST_FAILED * len(asked)):
                raise RerankerError(f"{len(failures)} of {at} requests failed. {failures[-1]}") from None
        if found is not None:
            rows.append(found)
        if on_progress:
            on_progress(at, len(asked))
    return rows, len(asked) - len(rows)


def _row(index: Index, reranker: OptedIn, row: dict[str, object]) -> Scored | None:
    """None when the answer is not among the candidates."""
    intent = parse(Request(str(row["query"]), as_of=_text(row.get("asof"))), index.bases, index.nouns)
    candidates = index.candidates(intent, None, Clock())
    logits, _ = reranker.score(intent, candidates)
    best: dict[str, float] = {}
    for candidate, logit in zip(candidates, logits, strict=True):
        group = index.by_id[candidate.checkpoint.id].group
        best[group] = max(best.get(group, logit), logit)
    values = np.asarray(list(best.values()), dtype=np.float64)
    if not np.isfinite(values).all():
        raise RerankerError(f"The {reranker.name} reranker gave scores that are no numbers.")
    named: Sequence[object] = row["targets"] if isinstance(row.get("targets"), list) else ()  # type: ignore[assignment]
    targets = {index.by_id[str(target)].group for target in named if str(target) in index.by_id}
    right = np.asarray([group in targets for group in best], dtype=np.float64)
    if row["kind"] != "no_match" and not right.any():
        return None
    return Scored(values, right)


def _lines(queries: Path) -> list[dict[str, object]]:
    try:
        found = [json.loads(line) for line in queries.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as broken:
        raise RequestError(
            f"The queries {queries} cannot be read ({type(broken).__name__}); one JSON a line."
        ) from None
    if not all(isinstance(row, dict) and isinstance(row.get("query"), str) for row in found):
        raise RequestError(f"Every line of {queries} must be a JSON object with a query.")
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def calibrate(settings: Settings, catalog: Path, queries: Path) -> str:
    """Score, fit, store; what was found, for people. Raises PersonalQError."""
    reranker = chosen(settings)
    if reranker is None:
        raise SettingsError(f"Name the reranker to calibrate with --reranker: {', '.join(RERANKERS[1:])}.")
    index = Index(read_jsonl(catalog).checkpoints, settings.cache, encoder=settings.encoder)
    with tqdm(desc="Scoring", leave=False) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        rows, left_out = scored(index, reranker, queries, tell)
    report = cross_validated(rows, reranker.assumed)
    path = write(settings.cache, reranker.name, reranker.model, report)
    fitted = report.calibration
    return (
        f"{reranker.name} {reranker.model}: temperature {fitted.temperature:.3g}, none {fitted.none_logit:.3g}\n"
        f"log-loss over {report.requests} requests ({left_out} left out): {report.assumed_loss:.3f} as assumed, "
        f"{report.held_out_loss:.3f} held out\nstored in {path}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, calibrate, print; every error of ours becomes one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(description="Calibrate an opted-in reranker.")
    parser.add_argument("catalog", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--reranker", choices=RERANKERS[1:])
    parser.add_argument("--llm-url")
    parser.add_argument("--llm-model")
    parser.add_argument("--llm-provider")
    parser.add_argument("--device")
    parser.add_argument("--cache", type=Path)
    flags = vars(parser.parse_args(arguments))
    catalog, queries = flags.pop("catalog"), flags.pop("queries")
    try:
        sys.stdout.write(calibrate(Settings.read(**flags), catalog, queries) + "\n")
    except PersonalQError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
