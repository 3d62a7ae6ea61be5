"""Queries with their right answers, read from JSON lines. It runs nothing and judges nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from personalq.errors import BenchError

QueryKind = Literal["single", "ambiguous", "no_match", "compose"]
KINDS: tuple[QueryKind, ...] = get_args(QueryKind)


@dataclass(frozen=True)
class Query:
    """One request and what it means. `targets` is empty only for a no-match."""

    id: str
    text: str
    kind: QueryKind
    targets: tuple[str, ...] = ()
    facets: tuple[str, ...] = ()
    answer: str | None = None
    """What the user types when asked."""
    answer_id: str | None = None
    """The checkpoint that the answer means."""
    subject: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    """The two sides of a composition."""
    base_compat: str | None = None
    """Of a composition: "same", "differ" or "unstated"."""
    as_of: str | None = None

    @property
    def exact(self) -> bool:
        """Whether only the listed targets count, because the request states a version."""
        return "version" in self.facets


def read_queries(path: Path, known: Collection[str]) -> tuple[Query, ...]:
    """The queries of `path`, one JSON object a line, over a catalogue with the ids `known`.

    Fields: query, kind, targets; optional id, facets, answer, answer_id, pair {subject, style}, base_compat, asof. The
    fields of REPO-PROMPTS (query, ground_truth, requires_clarification, no_match) are read too; every version is a
    checkpoint of its own there. Others are ignored. Raises BenchError, naming the line, for a broken query or one that
    names a checkpoint that is not in the catalogue, and for a file without queries.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as broken:
        raise BenchError(f"The queries {path} cannot be read ({broken}); check the path.") from None
    found = [
        parse_query(line, f"{path.name}, line {number}", known) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise BenchError(f"{path} holds no queries; write one JSON object a line.")
    return tuple(found)


def parse_query(line: str, where: str, known: Collection[str]) -> Query:
    """One query. Raises BenchError that starts with `where`."""
    try:
        row = json.loads(line)
    except ValueError as broken:
        raise BenchError(f"{where}: no JSON ({broken}).") from None
    if not isinstance(row, dict):
        raise BenchError(f"{where}: write a JSON object with query, kind and targets.")
    if "kind" not in row and "ground_truth" in row:
        row = _from_paper(row)
    if not isinstance(row.get("query"), str) or not row["query"].strip():
        raise BenchError(f"{where}: it has no query text.")
    if row.get("kind") not in KINDS:
        raise BenchError(f"{where}: its kind is {row.get('kind')!r}; it must be one of {', '.join(KINDS)}.")
    pair = row.get("pair") if isinstance(row.get("pair"), dict) else {}
    query = Query(
        id=str(row.get("id") or where.rsplit(" ", 1)[-1]),
        text=row["query"],
        kind=row["kind"],
        targets=_ids(row, "targets", where),
        facets=_ids(row, "facets", where),
        answer=_text(row, "answer"),
        answer_id=_text(row, "answer_id"),
        subject=_ids(pair, "subject", where),
        style=_ids(pair, "style", where),
        base_compat=_text(row, "base_compat"),
        as_of=_text(row, "asof") or _text(row, "as_of"),
    )
    _check(query, where, known)
    return query


def _from_paper(row: Mapping[str, Any]) -> dict[str, Any]:
    """`ground_truth` is an id or a list of them, or null; `candidate_pool` holds all that a vague request may mean."""
    truth = row["ground_truth"] or []
    truth = [truth] if isinstance(truth, str) else truth
    kind = "no_match" if row.get("no_match") else "ambiguous" if row.get("requires_clarification") else "single"
    facets = [*row.get("facets", []), *(["version"] if truth else [])]
    found = {**row, "kind": kind, "targets": truth, "facets": facets}
    if kind == "ambiguous":
        found |= {"targets": row.get("candidate_pool") or truth, "answer_id": truth[0] if truth else None}
    return found


def _text(row: Mapping[str, Any], field: str) -> str | None:
    value = row.get(field)
    return value if isinstance(value, str) and value.strip() else None


def _ids(row: Mapping[str, Any], field: str, where: str) -> tuple[str, ...]:
    value = row.get(field) or []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BenchError(f"{where}: {field} must be a list of texts.")
    return tuple(value)


def _check(query: Query, where: str, known: Collection[str]) -> None:
    """Raises BenchError for ids that are not known and for answers that are missing."""
    named = [*query.targets, *query.subject, *query.style, *([query.answer_id] if query.answer_id else [])]
    for each in named:
        if each not in known:
            raise BenchError(f"{where}: the checkpoint {each!r} is not in the catalogue.")
    if query.kind == "compose" and not (query.subject and query.style):
        raise BenchError(f"{where}: a composition needs pair.subject and pair.style.")
    if query.kind in ("single", "ambiguous") and not query.targets:
        raise BenchError(f"{where}: a {query.kind} query needs targets.")
