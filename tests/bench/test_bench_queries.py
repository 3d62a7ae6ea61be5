"""Query files: what is read, what is ignored, and which line an error names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from personalq.bench.queries import read_queries
from personalq.errors import BenchError

KNOWN = {"a", "b", "c"}


def written(folder: Path, *rows: object) -> Path:
    path = folder / "queries.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_fields_are_read_and_others_ignored(tmp_path: Path) -> None:
    full = {
        "id": "q1", "query": "my dog", "kind": "ambiguous", "targets": ["a", "b"], "facets": ["version"],
        "answer": "the first", "answer_id": "a", "asof": "2025-01-02", "lang": "en", "mood": {"new": 1},
    }  # fmt: skip
    pair = {"query": "a in b", "kind": "compose", "targets": [], "pair": {"subject": ["a"], "style": ["b"]}}
    first, second = read_queries(written(tmp_path, full, "", {**pair, "base_compat": "unstated"}), KNOWN)
    assert (first.id, first.targets, first.exact, first.as_of) == ("q1", ("a", "b"), True, "2025-01-02")
    assert (first.answer, first.answer_id) == ("the first", "a")
    assert (second.id, second.subject, second.style, second.base_compat) == ("3", ("a",), ("b",), "unstated")
    assert not second.exact


def test_the_fields_of_repo_prompts(tmp_path: Path) -> None:
    base = {"query": "x", "candidate_pool": ["a", "b"], "requires_clarification": False, "no_match": False}
    rows = [
        {**base, "ground_truth": "a"},
        {**base, "ground_truth": ["b"], "requires_clarification": True, "answer": "b"},
        {**base, "ground_truth": None, "no_match": True, "candidate_pool": []},
    ]
    single, ambiguous, none = read_queries(written(tmp_path, *rows), KNOWN)
    assert (single.kind, single.targets, single.exact) == ("single", ("a",), True)
    assert (ambiguous.kind, ambiguous.targets, ambiguous.answer_id) == ("ambiguous", ("a", "b"), "b")
    assert (none.kind, none.targets) == ("no_match", ())


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"query": "x", "kind": "single", "targets": ["zz"]}, "line 2: the checkpoint 'zz' is not in the catalogue"),
        ({"query": "x", "kind": "ambiguous", "targets": ["a"], "answer_id": "zz"}, "line 2: the checkpoint 'zz'"),
        ({"query": "x", "kind": "double", "targets": ["a"]}, "line 2: its kind is 'double'"),
        ({"query": " ", "kind": "single", "targets": ["a"]}, "line 2: it has no query text"),
        ({"query": "x", "kind": "single"}, "line 2: a single query needs targets"),
        ({"query": "x", "kind": "single", "targets": "a"}, "line 2: targets must be a list"),
        ({"query": "x", "kind": "compose", "targets": ["a"]}, "line 2: a composition needs pair"),
        ("{broken", "line 2: no JSON"),
        ("[1]", "line 2: write a JSON object"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, row: object, told: str) -> None:
    good = {"query": "x", "kind": "single", "targets": ["a"]}
    with pytest.raises(BenchError, match=told):
        read_queries(written(tmp_path, good, row), KNOWN)


def test_a_file_without_queries_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no queries"):
        read_queries(written(tmp_path, "", "  "), KNOWN)
    with pytest.raises(BenchError, match="check the path"):
        read_queries(tmp_path / "missing.jsonl", KNOWN)
