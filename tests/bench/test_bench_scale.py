"""The scale benchmark on the smallest catalogue: what it reports, and that the catalogue it makes is the same again."""

from __future__ import annotations

import pytest

from personalq.bench import scale as module
from personalq.bench.crowd import catalogue, requests
from personalq.bench.scale import as_text, scale, sizes
from personalq.checkin.decide import STAGES
from personalq.errors import BenchError


def test_a_catalogue_is_made_of_versions_and_is_the_same_for_a_seed() -> None:
    made = list(catalogue(300))
    assert len({each.id for each in made}) == len(made) == 300
    assert list(catalogue(300)) == made
    assert list(catalogue(300, seed=1)) != made
    assert 100 < len({each.group_id for each in made}) < 300
    assert all(each.triggers and len(each.description) > 20 for each in made)
    asked = requests(made, 50)
    assert len(set(asked)) == 50
    assert asked == requests(made, 50)


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_a_row_tells_every_measure(monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    monkeypatch.setattr(module, "REQUESTS", 6)
    monkeypatch.setattr(module, "CHANGES", 2)
    result = scale([120], store)
    (row,) = result["rows"]
    assert row["n"] == 120
    assert row["store"].startswith(store)
    assert row["vectors"] == "random"
    assert row["bm25_same_top"] is True
    assert row["bm25_ratio"] > 1
    for name in ("ask", "search", "encode", "add", "remove", *STAGES):
        assert 0 <= row[f"{name}_ms"]["p50"] <= row[f"{name}_ms"]["p95"]
    assert row["memory_bytes"] > 0
    assert (row["disk_bytes"] > 0) == (store == "disk")
    assert "p50 / p95" in as_text(result)
    assert store in as_text(result)


def test_an_addition_that_is_not_found_fails_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS", 2)
    monkeypatch.setattr(module, "CHANGES", 1)
    monkeypatch.setattr("personalq.checkin.dialogue.CheckIn.add", lambda *_: None)
    with pytest.raises(BenchError, match="not found"):
        scale([100], "memory")


def test_sizes_are_numbers() -> None:
    assert sizes("1000,10_000") == [1000, 10000]
    with pytest.raises(BenchError, match="list of sizes"):
        sizes("many")
    with pytest.raises(BenchError, match="100 checkpoints or more"):
        scale([10])
