"""Generate and Stop over a scripted desk."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from scripted_desk import PIP, Desk, selection

from personalq.errors import GenerationError
from personalq.ui import comparison, present
from personalq.ui.comparison import KEEP, Comparison, Pictures


def browser() -> Any:
    """One visitor's browser."""
    return SimpleNamespace(session_hash="one")


def compared(desk: Desk, seed: float | None = 7, prompt: str = "zwx dog") -> list[Pictures]:
    sess = {"chosen": present.chosen(selection(PIP, "my dog"))}
    page = Comparison(desk)  # type: ignore[arg-type]
    return list(page.on_compare([], sess, prompt, seed, 3, 3.5, "taq-w4a8", browser()))


def test_both_pictures_arrive_with_their_readings() -> None:
    desk = Desk()
    shown = compared(desk)
    assert desk.job is not None and desk.job.seed == 7 and desk.job.spans[0].role == "trigger"
    assert [p.reference for p in shown if isinstance(p.reference, Image.Image)] != []
    assert [p.quantised for p in shown if isinstance(p.quantised, Image.Image)] != []
    tables = [p.memory for p in shown if p.memory is not KEEP and p.memory]
    assert len(tables) == 2 and "taq-w4a8 here" in tables[1] and "taq-w4a8" not in tables[0]
    assert any("step 2 of 3" in p.progress for p in shown)
    assert shown[0].stop["visible"] and not shown[0].go["interactive"]
    assert not shown[-1].stop["visible"] and shown[-1].go["interactive"]


def test_an_empty_seed_is_drawn_and_written_back() -> None:
    desk = Desk()
    first = compared(desk, None)[0]
    assert desk.job is not None and first.seed == desk.job.seed and 0 <= first.seed <= comparison.LAST_SEED


def test_closing_the_event_closes_the_denoiser() -> None:
    desk = Desk()
    page = Comparison(desk)  # type: ignore[arg-type]
    run = page.on_compare([], {}, "a dog", 1, 3, 3.5, "nf4", browser())
    next(run), next(run)
    assert not desk.closed
    run.close()
    assert desk.closed


@pytest.mark.parametrize(("desk", "prompt"), [(Desk(fails=GenerationError("smaller, please")), "a"), (Desk(), " ")])
def test_a_failed_comparison_says_so_and_frees_the_buttons(desk: Desk, prompt: str) -> None:
    shown: list[Pictures] = []
    with pytest.raises(gr.Error) as raised:
        for values in Comparison(desk).on_compare([], {}, prompt, 1, 3, 3.5, "nf4", browser()):  # type: ignore[arg-type]
            shown.append(values)
    assert shown[-1].go["interactive"] and not shown[-1].stop["visible"]
    assert shown[-1].chat[-1]["content"] == raised.value.message


def test_stopping_waits_for_the_denoiser_and_frees_the_buttons() -> None:
    page = Comparison(Desk())  # type: ignore[arg-type]
    run = page.on_compare([], {}, "a dog", 1, 3, 3.5, "nf4", browser())
    next(run), next(run)
    stopping = page.on_stop(browser())
    progress, go, stop = next(stopping)
    assert "Stopping" in progress and go is KEEP and not stop["interactive"]
    waited: list[Any] = []
    waiter = threading.Thread(target=lambda: waited.extend(stopping))
    waiter.start()
    waiter.join(0.1)
    assert waited == []
    run.close()
    waiter.join(30)
    progress, go, stop = waited[0]
    assert "Stopped" in progress and go["interactive"] and not stop["visible"]


def test_stopping_nothing_frees_the_buttons_too() -> None:
    assert list(Comparison(Desk()).on_stop(browser()))[-1][1]["interactive"]  # type: ignore[arg-type]
