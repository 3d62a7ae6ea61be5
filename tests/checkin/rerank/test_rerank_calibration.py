"""Temperature and "none": fitted where there is something to fit, stored by reranker and model, used afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_endpoint import KEY, Answer, scripted

from personalq.checkin.rerank.calibrate import main
from personalq.checkin.rerank.calibration import FILE, Report, Scored, cross_validated, fit, log_loss, read, write
from personalq.checkin.rerank.choose import chosen
from personalq.checkin.rerank.protocol import Calibration
from personalq.errors import RerankerError
from personalq.settings import Settings

ASSUMED = Calibration(1.0, 0.0)


def drawn(count: int, temperature: float, none_logit: float, targets: int = 1) -> list[Scored]:
    """Requests whose right answer really is drawn from the posterior of this temperature and none."""
    draw = np.random.default_rng(7)
    rows = []
    for _ in range(count):
        logits = draw.normal(0, 3, size=6)
        weights = np.exp(np.append(logits / temperature, none_logit))
        at = draw.choice(7, p=weights / weights.sum())
        right = np.zeros(6)
        if at < 6:
            right[at] = 1
            right[draw.choice(6, size=targets - 1, replace=False)] = 1
        rows.append(Scored(logits, right))
    return rows


def test_a_fit_finds_what_the_answers_were_drawn_from() -> None:
    found = fit(drawn(4000, temperature=2.5, none_logit=1.2), ASSUMED)
    assert found.temperature == pytest.approx(2.5, rel=0.1)
    assert found.none_logit == pytest.approx(1.2, abs=0.15)
    assert found.fitted


def test_the_loss_is_minus_log_of_the_posterior_spread_over_targets() -> None:
    row = Scored(np.asarray([2.0, 1.0, -1.0]), np.asarray([1.0, 1.0, 0.0]))
    weights = np.exp([2.0 / 1.5, 1.0 / 1.5, -1.0 / 1.5, 0.4])
    shares = weights / weights.sum()
    told = log_loss([row], Calibration(1.5, 0.4))
    assert told == pytest.approx(-(np.log(shares[0]) + np.log(shares[1])) / 2)
    nothing = Scored(row.logits, np.zeros(3))
    assert log_loss([nothing], Calibration(1.5, 0.4)) == pytest.approx(-np.log(shares[3]))


def test_held_out_requests_are_told_better_than_by_what_is_assumed() -> None:
    report = cross_validated(drawn(200, temperature=4.0, none_logit=2.0), ASSUMED)
    assert report.held_out_loss < report.assumed_loss - 0.1
    assert report.requests == 200


def test_perfect_and_useless_scores() -> None:
    perfect = [Scored(np.asarray([5.0, -5.0]), np.asarray([1.0, 0.0]))] * 20 + [
        Scored(np.asarray([-5.0, -5.0]), np.zeros(2))
    ] * 20
    found = fit(perfect, ASSUMED)
    assert 0 < found.temperature < 2
    assert np.isfinite(found.none_logit)
    wrong = [Scored(np.asarray([-3.0, 3.0]), np.asarray([1.0, 0.0]))] * 20
    with pytest.raises(RerankerError, match="do not tell"):
        fit(wrong, ASSUMED)
    with pytest.raises(RerankerError, match="nothing to calibrate"):
        cross_validated([], ASSUMED)


def test_calibrations_are_kept_by_reranker_and_model(tmp_path: Path) -> None:
    assert read(tmp_path, "chat", "a") is None
    first, second = Calibration(2.0, -1.0, True), Calibration(0.5, 3.0, True)
    write(tmp_path, "chat", "a", Report(first, 10, 1.0, 0.5))
    write(tmp_path, "causal", "a", Report(second, 10, 1.0, 0.5))
    assert read(tmp_path, "chat", "a") == first
    assert read(tmp_path, "causal", "a") == second
    assert read(tmp_path, "chat", "b") is None


@pytest.mark.parametrize(
    "text",
    ["no json", "[1]", '{"chat a": 3}', '{"chat a": {"temperature": 0, "none_logit": 1}}', '{"chat a": {}}',
     '{"chat a": {"temperature": NaN, "none_logit": 1}}', '{"chat a": {"temperature": "2e", "none_logit": 1}}'],
)  # fmt: skip
def test_a_broken_store_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RerankerError, match="delete the file"):
        read(tmp_path, "chat", "a")


NAMES = ("Biscuit", "Mochi", "Clover", "Ember", "Pixel", "Waffle")


def believes(data: dict[str, Any]) -> str:
    """A model that is always sure and right three times in four."""
    text = data["request"]["text"]
    wrong = sum(map(ord, text)) % 4 == 0
    scored = []
    for card in data["candidates"]:
        meant = (card["name"] in text) != wrong
        scored.append({"index": card["index"], "score": 10 if meant else 0})
    return json.dumps({"scores": scored, "none": 0 if any(name in text for name in NAMES) else 10})


def test_the_command_calibrates_and_the_reranker_takes_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog, queries = tmp_path / "catalog.jsonl", tmp_path / "queries.jsonl"
    catalog.write_text("\n".join(json.dumps({"id": n.lower(), "name": n, "kind": "lora"}) for n in NAMES))
    asked = [
        {"query": f"{name} {place}", "kind": "single", "targets": [name.lower()]}
        for name in NAMES
        for place in ("on the moon", "at sea", "in a tree", "at home")
    ]
    asked += [{"query": "a teapot in the rain", "kind": "no_match", "targets": []}] * 6
    asked += [{"query": "x and y", "kind": "compose", "targets": ["ember"]}]
    queries.write_text("\n".join(map(json.dumps, asked)))
    monkeypatch.setenv("PERSONALQ_LLM_KEY", KEY)
    with scripted(Answer(believes)) as server:
        flags = ["--reranker", "chat", "--llm-url", server.url, "--llm-model", "sure", "--cache", str(tmp_path)]
        main([*flags, str(catalog), str(queries)])
        assert len(server.calls) == 25  # 24 and the no-match once: the same request is not asked twice.
        told = capsys.readouterr()
        assert "over 30 requests (0 left out)" in told.out
        assert KEY not in told.out + told.err
        assert server.host not in told.out + told.err
        settings = Settings(cache=tmp_path, reranker="chat", llm_url=server.url, llm_model="sure")
        ready = chosen(settings)
    assert ready is not None
    assert ready.calibrated
    assert ready.temperature > ready.assumed.temperature  # It is too sure of itself.


def test_the_command_gives_up_when_the_model_keeps_failing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog, queries = tmp_path / "catalog.jsonl", tmp_path / "queries.jsonl"
    catalog.write_text(json.dumps({"id": "a", "name": "Biscuit", "kind": "lora"}))
    rows = [{"query": f"Biscuit number {at}", "kind": "single", "targets": ["a"]} for at in range(30)]
    queries.write_text("\n".join(map(json.dumps, rows)))
    with scripted(Answer("no")) as server:
        flags = ["--reranker", "chat", "--llm-url", server.url, "--llm-model", "m", "--cache", str(tmp_path)]
        with pytest.raises(SystemExit):
            main([*flags, str(catalog), str(queries)])
        assert len(server.calls) < 6
    assert "requests failed" in capsys.readouterr().err
    assert not (tmp_path / FILE).exists()
    for wrong in ([], ["--reranker", "chat"], ["--reranker", "chat", "--llm-model", "m"]):
        with pytest.raises(SystemExit):
            main([*wrong, str(catalog), str(queries)])
        assert capsys.readouterr().err.startswith("error: ")
