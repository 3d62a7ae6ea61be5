"""The grid of weights and precisions over a scripted desk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from page_tags import EVIL, Tags
from PIL import Image
from scripted_desk import FEW, PLENTY, Desk, browser, controls, session, settle

from personalq.errors import GenerationError, RequestError
from personalq.ui.events.comparison import Comparison
from personalq.ui.events.grid import KEEP, MOST_ROWS, Grid, Grids, rows
from personalq.ui.limits import Allowance, Limits
from personalq.ui.visitors import Visitors


@pytest.fixture()
def visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visitors:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Visitors()


def page_of(visitors: Visitors, desk: Desk | None = None, allowed: Allowance = PLENTY) -> Grids:
    return Grids(Comparison(desk or Desk(), Limits(allowed), visitors))  # type: ignore[arg-type]


def made(page: Grids, weights: str = "0, 1", precisions: Any = ("nf4",), sess: Any = None, **given: Any) -> list[Grid]:
    return list(started(page, weights, precisions, sess, **given))


def started(
    page: Grids, weights: str = "0, 1", precisions: Any = ("nf4",), sess: Any = None, **given: Any
) -> Iterator[Grid]:
    sess = session() if sess is None else sess
    return page.on_grid(browser(), sess, weights, list(precisions), *controls(sess, **given))


def failing(page: Grids, *values: Any, **given: Any) -> tuple[Grid, gr.Error]:
    shown: list[Grid] = []
    with pytest.raises(gr.Error) as raised:
        for one in started(page, *values, **given):
            shown.append(one)
    return settle(shown), raised.value


# --- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "weights"),
    [
        ("0, 0.5, 1", [0, 0.5, 1]),
        ("1", [1]),
        (" -1;2  3\n4 ", [-1, 2, 3, 4]),
        ("1,,2,", [1, 2]),
        ("1e-1 .5", [0.1, 0.5]),
        ("0 " * MOST_ROWS, [0] * MOST_ROWS),
    ],
)
def test_weights_are_read_as_people_write_them(typed: str, weights: list[float]) -> None:
    assert list(rows(typed)) == weights


@pytest.mark.parametrize("typed", ["", " , ", "one", "1 two", "nan", "inf, 1", "1e999", "0 " * (MOST_ROWS + 1), "1:2"])
def test_weights_that_cannot_be_are_told(typed: str) -> None:
    with pytest.raises(RequestError, match="write up to six numbers"):
        rows(typed)


def test_a_long_text_is_told_in_few_words() -> None:
    with pytest.raises(RequestError) as told:
        rows("x" * 10_000)
    assert len(str(told.value)) < 200


# --- the grid ----------------------------------------------------------------------------------


def test_the_table_fills_a_picture_at_a_time(visitors: Visitors) -> None:
    shown = made(page_of(visitors), "0, 1", ["nf4"])
    tables = [Tags(one.grid_out) for one in shown if one.grid_out is not KEEP]
    assert [len(table.all("img")) for table in tables] == [0, 1, 2, 3, 4, 4]
    assert "3 of 4 pictures" in tables[3].text and "of 4 pictures" not in tables[-1].text
    alts = [one["alt"] for one in tables[-1].all("img")]
    assert alts == [
        "Full precision at weight 0", "NF4 4-bit at weight 0", "Full precision at weight 1", "NF4 4-bit at weight 1",
    ]  # fmt: skip


def test_precisions_stand_in_the_pages_order_behind_the_reference(visitors: Visitors) -> None:
    desk = Desk()
    made(page_of(visitors, desk), "0.5", ["nf4", "taq-w8a8", "reference", "none such", "nf4", {}])
    assert desk.asked == ([0.5], ["reference", "taq-w8a8", "nf4"])
    made(page_of(visitors, desk), "0.5", [])
    assert desk.asked == ([0.5], ["reference"])


def test_the_job_is_the_pages_but_for_one_picture(visitors: Visitors) -> None:
    desk = Desk()
    first = next(one for one in made(page_of(visitors, desk), batch=4, steps=2, seed=5) if one.seed is not KEEP)
    assert desk.job is not None and (desk.job.count, desk.job.steps, desk.job.seed, first.seed) == (1, 2, 5, 5)
    assert desk.job.spans[0].role == "trigger"


def test_the_whole_sheet_can_be_downloaded(visitors: Visitors) -> None:
    shown = made(page_of(visitors), "0, 1, 2", ["nf4"])
    last = settle(shown)
    path = Path(last.grid_file["value"])
    assert last.grid_file["visible"] and path.name == "personalq-grid-7.png"
    assert Image.open(path).size == (2, 3) and visitors.folder("127.0.0.1 one") in path.parents
    assert not next(one for one in shown if one.grid_file is not KEEP).grid_file["visible"]


def test_while_it_is_made_it_can_be_stopped_and_not_begun_again(visitors: Visitors) -> None:
    shown = made(page_of(visitors))
    busy, last = settle(shown[:-1]), settle(shown)
    assert not busy.grid_go["interactive"] and busy.grid_stop["visible"]
    assert last.grid_go["interactive"] and not last.grid_stop["visible"]


def test_it_can_be_stopped_before_its_first_picture_is_done(visitors: Visitors) -> None:
    desk = Desk()
    run = started(page_of(visitors, desk), steps=50)
    assert any(one == Grid() for one in run) and not desk.closed
    run.close()
    assert desk.closed


def test_stopping_closes_the_denoiser_and_keeps_the_table(visitors: Visitors) -> None:
    desk = Desk()
    page = page_of(visitors, desk)
    run = started(page)
    assert any("1 of 4 pictures" in str(one.grid_out) for one in run)
    assert not desk.closed
    run.close()
    stopped = settle(page.on_stop(browser()))
    assert desk.closed and stopped.grid_out is KEEP
    assert stopped.grid_go["interactive"] and not stopped.grid_stop["visible"]
    assert made(page)


def test_what_is_cleared_leaves_no_table(visitors: Visitors) -> None:
    page = page_of(visitors)
    gone = page.on_away()
    assert settle(made(page)).grid_file["visible"] and gone.grid_out == "" and not gone.grid_file["visible"]
    assert gone.grid_file["value"] is None and gone.grid_go["interactive"]


# --- when it fails -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "given", "said"),
    [
        (("x",), {}, "not understood"),
        ((EVIL,), {}, "not understood"),
        (("1", [], {}), {}, "ask again"),
        (("1",), {"prompt_box": ""}, "prompt is empty"),
        (("1",), {"seed": -1}, "seed"),
        (("1",), {"size": "0"}, "not understood"),
    ],
)
def test_values_that_cannot_be_are_said_and_cost_nothing(
    visitors: Visitors, values: tuple[Any, ...], given: dict[str, Any], said: str
) -> None:
    desk = Desk()
    page = page_of(visitors, desk, FEW)
    last, raised = failing(page, *values, **given)
    assert said in raised.message and "<img" not in raised.message
    assert last.grid_go["interactive"] and desk.job is None
    page.page.limits.take("127.0.0.1 one", "picture")


def test_a_failure_offers_no_way_out_that_would_start_something_else(visitors: Visitors) -> None:
    page = page_of(visitors, Desk(fails=GenerationError("Out of memory at step 1.")))
    last, raised = failing(page)
    (said,) = page.page.on_failed(last.failed, [])
    assert said == {"role": "assistant", "content": raised.message}
    assert last.grid_go["interactive"] and not last.grid_stop["visible"]


def test_every_picture_of_it_counts(visitors: Visitors) -> None:
    allowed = Allowance(turns_per_minute=1, pictures_per_hour=5, uploads_per_hour=1, at_once=1, crowd=9)
    assert made(page_of(visitors, allowed=allowed), "0, 1", ["nf4"])
    _, raised = failing(page_of(visitors, allowed=allowed), "0, 1, 2", ["nf4"])
    assert "5 pictures an hour" in raised.message


def test_an_error_of_ours_frees_the_buttons_and_tells_no_more(visitors: Visitors) -> None:
    shown: list[Grid] = []
    with pytest.raises(ZeroDivisionError):
        for one in started(page_of(visitors, Desk(fails=ZeroDivisionError("secret")))):
            shown.append(one)
    assert settle(shown).grid_go["interactive"] and "secret" not in repr(shown)
