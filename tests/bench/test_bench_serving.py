"""The arithmetic of the serving benchmark, and its app in a process."""

from pathlib import Path
from typing import Any

import pytest

from personalq.bench.serving import load
from personalq.bench.serving.page import page
from personalq.bench.serving.result import as_text
from personalq.bench.serving.running import App, app
from personalq.errors import BenchError

RESULT: dict[str, Any] = {
    "device": "cpu",
    "cold_index": {"page_s": 1.0, "ready_s": 2.0},
    "warm_index": {"page_s": 1.0, "ready_s": 2.0},
    "page": {"candidates_s": 0.5},
    "questions_ms": {"requests": 5, "p50": 10.0, "p95": 20.0},
    "crowd": {"users": 2, "steps": 3, "served": 1, "first_s": 1, "last_s": 2, "pictures_per_minute": 4, "errors": []},
    "endurance": {"pairs": 2, "steps": 4, "resident": [(1, 2**20), (2, None)], "bytes_per_pair": 2048.0},
}


def test_the_slope_of_a_line_is_found_and_of_a_level_one_is_nothing() -> None:
    assert load.slope([(10, 100), (20, 130), (30, 160)]) == pytest.approx(3)
    assert load.slope([(10, 7), (20, 7), (30, 7)]) == 0


def test_the_lines_say_what_was_lost_and_what_was_not_measured() -> None:
    lines = as_text(RESULT)
    assert "2 users at once: 1 served" in lines and "1: 1 MiB" in lines and "None" not in lines
    assert "growth: 2.0 KiB" in lines and "candidates: 0.50 s" in lines


def test_an_app_that_does_not_come_up_says_how_to_see_why(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--repo"), app(["--repo", str(tmp_path / "nothing")], tmp_path):
        pass


def test_the_page_needs_a_chromium(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    with pytest.raises(BenchError, match="--chromium"):
        page(App("http://127.0.0.1:9", 1, 0.0, 0.0), tmp_path / "none", 1)
