"""The whole benchmark on a small made-up catalogue: rows, keys and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from personalq.__main__ import app
from personalq.bench.selection import Means, selection
from personalq.errors import BenchError, PersonalQError

CATALOG = [
    {"id": "waldo", "name": "Waldo the corgi", "kind": "lora", "triggers": ["wldo corgi"], "description": "A corgi."},
    {"id": "teapot", "name": "Teapot of doom", "kind": "lora", "triggers": ["tpt teapot"], "description": "A teapot."},
    {"id": "engine", "name": "Blue steam engine", "kind": "lora", "triggers": ["bse train"], "description": "A train."},
]
QUERIES = [
    {"id": "1", "query": "waldo the corgi on the moon", "kind": "single", "targets": ["waldo"], "facets": ["name"]},
    {"id": "2", "query": "the teapot of doom at breakfast", "kind": "single", "targets": ["teapot"]},
    {"id": "3", "query": "a spreadsheet of taxes", "kind": "no_match", "targets": []},
]
ROWS = [
    "Random", "BM25 (words)", "BM25 (n-grams)", "dense", "RRF", "Stylus as published (retriever alone)",
    "Stylus un-handicapped (retriever alone)", "BM25 (words) + threshold", "BM25 (n-grams) + threshold",
    "dense + threshold", "RRF + threshold", "personalq", "personalq, fused order only", "personalq, no question",
    "personalq, no none",
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("PERSONALQ_CACHE", str(tmp_path / "cache"))
    catalog, queries = tmp_path / "catalog.jsonl", tmp_path / "queries.jsonl"
    catalog.write_text("\n".join(json.dumps(record) for record in CATALOG))
    queries.write_text("\n".join(json.dumps(record) for record in QUERIES))
    return catalog, queries


def test_the_command_prints_one_object_with_every_row(files: tuple[Path, Path]) -> None:
    arguments = ["bench", "selection", "--catalog", str(files[0]), "--queries", str(files[1]), "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["device"].startswith("cpu")
    assert found["n"] == {"single": 2, "no_match": 1}
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ROWS
    ours = rows["personalq"]
    assert (ours["single_right"], ours["recall@1"], ours["exact_trigger"]) == (1.0, 1.0, 1.0)
    assert (ours["ambiguous_right"], ours["compose_right"]) == (None, None)
    assert ours["latency_ms"]["p95"] >= ours["latency_ms"]["p50"] > 0
    assert {"intent", "lexical", "dense", "rerank"} <= set(ours["stages_ms"])
    assert rows["BM25 (words)"]["single_right"] == 1.0
    assert rows["BM25 (words)"]["no_match_recall"] == 0.0
    assert rows["BM25 (words)"]["exact_trigger"] is None
    assert rows["personalq, no none"]["no_match_recall"] == 0.0
    assert found["facets"] == {"single: name": {"n": 1, "right": 1.0}}
    assert found["against"]["single"]["difference"] == 0.0


def test_files_that_cannot_be_used_are_named(files: tuple[Path, Path]) -> None:
    catalog, queries = files
    queries.write_text(json.dumps({**QUERIES[0], "targets": ["gone"]}))
    with pytest.raises(BenchError, match="line 1: the checkpoint 'gone'"):
        selection(catalog, queries, Means())
    catalog.write_text("\n")
    with pytest.raises(PersonalQError, match="holds no"):
        selection(catalog, queries, Means())
