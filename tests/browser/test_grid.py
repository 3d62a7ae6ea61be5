"""A grid of weights and precisions: stopped in the middle, made to the end, downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from steps import choose, expect, open_part, see_toast, set_number

Open = Callable[..., Any]


@pytest.fixture()
def page(app_url: str, open_page: Open) -> Any:
    """The grid's panel, open."""
    opened = open_page(app_url)
    choose(opened, "Luna")
    open_part(opened, "Grid: concept weight")
    opened.get_by_label("Plain 4-bit").wait_for()
    return opened


def set_up(page: Any, weights: str, *precisions: str) -> None:
    page.locator("#grid-weights").get_by_role("textbox").fill(weights)
    for box in page.locator("#grid-precisions input").all():
        box.uncheck()
    for name in precisions:
        page.locator("#grid-precisions").get_by_label(name, exact=True).check()


def make(page: Any) -> None:
    page.get_by_role("button", name="Make the grid").click()


def test_a_grid_to_download(page: Any, tmp_path: Path) -> None:
    set_number(page, "steps", 1)
    set_up(page, "0, 1", "TAQ 8-bit", "Plain 4-bit")
    make(page)
    expect(page.locator("#grid-out th[scope=col]")).to_have_text(
        ["Weight", "Full precision", "TAQ 8-bit", "Plain 4-bit"]
    )
    expect(page.locator("#grid-out th[scope=row]")).to_have_text(["0", "1"])
    expect(page.locator("#grid-out img")).to_have_count(6)
    expect(page.locator("#grid-stop")).to_be_hidden()
    expect(page.locator("#grid-go")).to_be_enabled()
    sources = page.locator("#grid-out img").evaluate_all("all => all.map(one => one.src)")
    assert len(set(sources)) == 6
    with page.expect_download() as download:
        page.locator("#grid-file").click()
    path = tmp_path / "sheet.png"
    download.value.save_as(path)
    assert download.value.suggested_filename.startswith("personalq-grid-")
    with Image.open(path) as sheet:
        assert sheet.format == "PNG" and sheet.width > sheet.height > 128


def test_stopped_in_the_middle_and_made_again(page: Any) -> None:
    set_number(page, "steps", 10)
    set_up(page, "0, 0.5, 1, 1.5", "NF4 4-bit")
    make(page)
    expect(page.locator("#grid-out img").nth(1)).to_be_visible()
    page.locator("#grid-stop").click()
    expect(page.locator("#grid-go")).to_be_enabled()
    expect(page.locator("#grid-stop")).to_be_hidden()
    made = page.locator("#grid-out img").count()
    assert 2 <= made < 8
    expect(page.locator("#grid-file")).to_be_hidden()
    set_number(page, "steps", 1)
    set_up(page, "1")
    make(page)
    expect(page.locator("#grid-out img")).to_have_count(1)
    expect(page.locator("#grid-file")).to_be_visible()


def test_weights_that_are_none_are_said(page: Any) -> None:
    set_up(page, "one, two")
    make(page)
    see_toast(page, "are not understood")
    expect(page.locator("#chat")).to_contain_text("are not understood")
    expect(page.locator("#grid-go")).to_be_enabled()
