"""What a browser keeps, and what a picture says about itself: both bring the same pixels back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Apps
from PIL import Image
from steps import (
    choose,
    expect,
    generate,
    number,
    open_tab,
    picture,
    prompt,
    see_toast,
    select,
    set_number,
)

Open = Callable[..., Any]


def reload(page: Any) -> None:
    page.reload(wait_until="domcontentloaded")
    page.locator("#status .pq-status:not(.loading)").wait_for()


def pixels(page: Any) -> tuple[bytes, bytes]:
    return picture(page, "picture-a").tobytes(), picture(page, "picture-b").tobytes()


def seed(page: Any) -> str:
    return str(page.get_by_label("Seed", exact=True).input_value())


def see_history(page: Any) -> None:
    """One favourite above one other entry."""
    open_tab(page, "History")
    expect(page.locator("#history h2")).to_have_text(["Favourites", "Made before"], ignore_case=True)
    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#history li").first.get_by_text("Remove from favourites")).to_be_visible()


def test_history_outlives_a_reload_and_a_restart(app_url: str, serve: Apps, open_page: Open) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    generate(page, steps=2)
    first, drawn_from, words = pixels(page), seed(page), prompt(page)
    page.get_by_role("button", name="New seed").click()
    expect(page.get_by_label("Seed", exact=True)).not_to_have_value(drawn_from)
    generate(page)
    assert pixels(page)[0] != first[0]
    open_tab(page, "History")
    expect(page.locator("#history li")).to_have_count(2)
    page.locator("#history li").last.get_by_text("Add to favourites").click()
    see_history(page)
    reload(page)
    see_history(page)
    serve.restart(app_url)
    reload(page)
    see_history(page)
    page.locator("#history li").first.get_by_text("Use again").click()
    expect(page.get_by_label("Edit the prompt")).to_have_value(words)
    assert (seed(page), number(page, "steps")) == (drawn_from, 2)
    generate(page)
    assert pixels(page) == first
    open_tab(page, "History")
    expect(page.locator("#history li")).to_have_count(3)
    page.locator("#history li").last.get_by_text("Remove", exact=True).click()
    expect(page.locator("#history li")).to_have_count(2)


def test_a_downloaded_picture_brings_its_settings_back(app_url: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    page.get_by_label("Edit the prompt").fill("a photo of lunacat cat in a forest")
    set_number(page, "weight-a", 0.7)
    select(page, "precision", "TAQ 4-bit")
    generate(page, steps=3)
    made, drawn_from = pixels(page), seed(page)
    with page.expect_download() as download:
        page.locator("#picture-b").get_by_label("Download").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert "taq-w4a8" in path.name

    other = open_page(app_url)
    open_tab(other, "History")
    other.locator("#dropped input[type=file]").set_input_files(path)
    expect(other.get_by_label("Edit the prompt")).to_have_value("a photo of lunacat cat in a forest")
    expect(other.locator("#prompt")).to_contain_text("lunacat")
    expect(other.locator("#chat")).to_contain_text(drawn_from)
    expect(other.get_by_label("Weight of Luna cat").first).to_be_visible()
    assert (seed(other), number(other, "steps"), number(other, "weight-a")) == (drawn_from, 3, 0.7)
    expect(other.locator("#precision input")).to_have_value("TAQ 4-bit")
    generate(other)
    assert pixels(other) == made


def test_files_that_say_nothing_are_told_so(app_url: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(app_url)
    open_tab(page, "History")
    plain, text = tmp_path / "plain.png", tmp_path / "text.png"
    Image.new("RGB", (64, 64), "teal").save(plain)
    text.write_text("This is not a picture.")
    page.locator("#dropped input[type=file]").set_input_files(plain)
    see_toast(page, "no longer says how it was made")
    page.locator("#dropped input[type=file]").set_input_files(text)
    see_toast(page, "PNG")
    expect(page.get_by_role("tab", name="History")).to_have_attribute("aria-selected", "true")
    open_tab(page, "Draw")
    expect(page.locator("#starters")).to_be_visible()


def test_settings_and_theme_survive_and_can_be_cleared(app_url: str, open_page: Open) -> None:
    page = open_page(app_url, color_scheme="light")
    choose(page, "Luna")
    generate(page, steps=1)
    select(page, "precision", "NF4 4-bit")
    open_tab(page, "Settings")
    page.get_by_label("Every word").check()
    page.get_by_label("Blind test").check()
    page.get_by_label("Previews while").uncheck()
    page.get_by_label("Dark", exact=True).check()
    dark = page.locator("body.dark")
    expect(dark).to_have_count(1)
    page.wait_for_function("localStorage.length > 0")
    page.wait_for_timeout(500)
    reload(page)
    expect(dark).to_have_count(1)
    open_tab(page, "Settings")
    expect(page.get_by_label("Every word")).to_be_checked()
    expect(page.get_by_label("Blind test")).to_be_checked()
    expect(page.get_by_label("Previews while")).not_to_be_checked()
    expect(page.get_by_label("Dark", exact=True)).to_be_checked()
    open_tab(page, "Draw")
    choose(page, "Luna")
    expect(page.locator("#precision input")).to_have_value("NF4 4-bit")
    generate(page)

    open_tab(page, "Settings")
    page.get_by_role("button", name="Clear my data").click()
    expect(page.locator("#cleared")).to_contain_text("Gone: your history")

    def see_nothing() -> None:
        open_tab(page, "Settings")
        expect(page.get_by_label("Blind test")).not_to_be_checked()
        expect(page.get_by_label("System", exact=True)).to_be_checked()
        expect(dark).to_have_count(0)
        open_tab(page, "History")
        expect(page.locator("#history li")).to_have_count(0)
        open_tab(page, "Draw")
        expect(page.locator("#pictures img")).to_have_count(0)
        expect(page.locator("#starters")).to_be_visible()
        expect(page.locator("#studio")).to_be_hidden()

    see_nothing()
    reload(page)
    see_nothing()
