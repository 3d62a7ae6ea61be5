"""The whole benchmark on a small made-up catalogue: rows, keys and the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_records import made
from typer.testing import CliRunner

from personalq.__main__ import app
from personalq.bench.means import Means
from personalq.bench.selection import selection
from personalq.bench.stylus import Composer
from personalq.checkin.rerank.chat import Chat
from personalq.checkin.rerank.endpoint import Completion
from personalq.cli.build import bench_means
from personalq.errors import BenchError, EndpointError, PersonalQError, SettingsError
from personalq.records import Question, Request, Selection
from personalq.settings import Settings

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
    "dense + threshold", "RRF + threshold", "personalq", "personalq, no dense", "personalq, fused order only",
    "personalq, no question", "personalq, no none",
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


class Obliging:
    """An endpoint that finds the first thing it is shown to be what is meant, in either form of reply."""

    def complete(
        self, messages: Sequence[Mapping[str, str]], reply_format: Mapping[str, Any], seconds: float
    ) -> Completion:
        if reply_format["json_schema"]["name"] == "composition":
            topics = [{"topic": "all", "adapters": [{"index": 0, "reason": "the first"}]}]
            return Completion(json.dumps({"topics": topics}), "stop")
        count = reply_format["json_schema"]["schema"]["properties"]["scores"]["minItems"]
        scores = [{"index": at, "score": 10 if at == 0 else 0} for at in range(count)]
        return Completion(json.dumps({"scores": scores, "none": 0}), "stop")


class Away:
    """An endpoint that cannot be reached."""

    def complete(self, *_: object) -> Completion:
        raise EndpointError("The server is away.")


def test_a_language_model_adds_its_rows(files: tuple[Path, Path], tmp_path: Path) -> None:
    means = Means(tmp_path / "cache", reranker=Chat(Obliging(), "m"), composer=Composer(Obliging(), "m"))
    found = {row["name"]: row for row in selection(*files, means)["rows"]}
    assert {"RRF, then chat", "Stylus as published, m", "Stylus un-handicapped, m", "personalq"} <= set(found)
    assert found["RRF, then chat"]["single_right"] == 1.0
    assert found["Stylus un-handicapped, m"]["single_right"] == 1.0
    assert "calibrate" in next(iter(found["personalq"]["remarks"]))


def test_a_language_model_that_is_away_is_counted_not_hidden(files: tuple[Path, Path], tmp_path: Path) -> None:
    means = Means(tmp_path / "cache", reranker=Chat(Away(), "m"), composer=Composer(Away(), "m"))
    found = {row["name"]: row for row in selection(*files, means)["rows"]}
    for name in ("RRF, then chat", "Stylus as published, m", "personalq"):
        [(remark, times)] = found[name]["remarks"].items()
        assert "The server is away." in remark
        assert times == 3


def test_the_chat_settings_reach_both_users_of_the_model() -> None:
    settings = Settings.read(reranker="chat", llm_url="http://localhost:9/v1", llm_model="m", encoder="some-encoder")
    means = bench_means(settings)
    assert means.reranker is not None
    assert means.composer is not None
    assert (means.reranker.name, means.composer.model, means.encoder) == ("chat", "m", "some-encoder")
    assert bench_means(Settings.read(), "ask").versions == "ask"
    with pytest.raises(SettingsError, match="newest, ask"):
        bench_means(Settings.read(), "oldest")
    plain = bench_means(Settings.read())
    assert (plain.reranker, plain.composer) == (None, None)


@pytest.mark.parametrize("command", ["selection", "repo-prompts"])
def test_the_commands_have_help(command: str) -> None:
    done = CliRunner().invoke(app, ["bench", command, "--help"])
    assert done.exit_code == 0
    assert "--failures" in done.stdout


def test_the_version_policy_reaches_check_in(tmp_path: Path) -> None:
    versions = [made(f"waldo-v{n}", "waldo", "wldo corgi") for n in (1, 2)]
    dated = [
        replace(each, name="Waldo", version=f"v{n}", version_ordinal=float(n)) for n, each in enumerate(versions, 1)
    ]
    request = Request("waldo on the moon")
    newest = Means(tmp_path).checkin(dated).ask(request)
    assert isinstance(newest, Selection)
    assert [each.id for each in newest.checkpoints] == ["waldo-v2"]
    assert isinstance(Means(tmp_path, versions="ask").checkin(dated).ask(request), Question)
