"""What a visitor does on the page, and what it shows."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image, ImageStat

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
PNG = b"\x89PNG\r\n\x1a\n"


def ask(page: Any, text: str) -> None:
    page.get_by_label("Your request").fill(text)
    page.keyboard.press("Enter")


def choices(page: Any) -> Any:
    """The options under the last reply, once they are there."""
    options = page.locator("#chat button.option")
    options.first.wait_for()
    return options


def settle(page: Any) -> None:
    """Lets what was just opened become alive.

    Gradio makes the widgets of a part when it is shown, and gives them their values a frame later: faster than any
    hand, but a script that fills a field between the two loses what it wrote.
    """
    page.evaluate(
        "frames => new Promise(done => { const next = () => frames-- ? requestAnimationFrame(next) : done();"
        " next(); })",
        5,
    )


def choose(page: Any, name: str) -> None:
    """A concept of the empty page."""
    page.locator("#shelf .pq-card", has_text=name).click()
    page.locator("#go").wait_for()
    settle(page)


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    settle(page)


def open_part(page: Any, title: str) -> None:
    """A part of the first screen that is folded."""
    part = page.locator(".gr-accordion", has=page.get_by_role("button", name=title))
    part.get_by_role("button", name=title).click()
    part.locator("input, textarea").first.wait_for()
    settle(page)


def set_number(page: Any, slider: str, value: float) -> None:
    field = page.locator(f"#{slider} input[type=number]")
    field.wait_for()
    settle(page)
    field.fill(f"{value:g}")
    field.press("Tab")
    expect(field).to_have_value(f"{value:g}")


def set_size(page: Any, size: str) -> None:
    field = page.locator("#size input")
    field.fill(size)
    field.press("Tab")


def begin(page: Any) -> None:
    """A comparison that takes long on a fast machine too, under way."""
    if not page.locator("#size").is_visible():
        open_part(page, "More: negative prompt")
    set_size(page, "384 x 384")
    set_number(page, "steps", 50)
    page.locator("#go").click()
    expect(page.locator("#progress")).to_contain_text("Full precision · step")


def number(page: Any, slider: str) -> float:
    return float(page.locator(f"#{slider} input[type=number]").input_value())


def select(page: Any, dropdown: str, label: str) -> None:
    field = page.locator(f"#{dropdown} input")
    field.click()
    page.get_by_role("option", name=label, exact=True).click()
    expect(field).to_have_value(label)


def see_toast(page: Any, *words: str) -> None:
    for word in words:
        expect(page.locator(".toast-wrap")).to_contain_text(word)


def prompt(page: Any) -> str:
    return str(page.get_by_label("Edit the prompt").input_value())


@contextmanager
def drawing(page: Any) -> Iterator[None]:
    """What is done within begins a comparison; afterwards it has come to its end.

    A short one may end between two frames, so no button is waited for that is off meanwhile: the words above the
    pictures are new ones.
    """
    page.evaluate("document.querySelector('#progress .pq-progress')?.setAttribute('data-old', '')")
    yield
    page.wait_for_function(
        """() => /Both pictures (from|are)/.test(document.querySelector('#progress')?.textContent)
          && !document.querySelector('#progress [data-old]') && !document.getElementById('go').disabled"""
    )


def generate(page: Any, steps: int | None = None) -> None:
    """Both pictures, to the end."""
    if steps is not None:
        set_number(page, "steps", steps)
    with drawing(page):
        page.get_by_role("button", name="Generate both").click()


def served(page: Any, name: str) -> bytes:
    """The file behind the picture that is shown."""
    shown = page.locator(f"#{name} img").first
    expect(shown).to_have_attribute("src", re.compile(r"\.png"))
    body: bytes = page.request.get(shown.get_attribute("src")).body()
    assert body[:8] == PNG
    return body


def picture(page: Any, name: str) -> Image.Image:
    """The pixels of the picture that is shown."""
    return Image.open(io.BytesIO(served(page, name))).convert("RGB")


def is_drawn(image: Image.Image) -> bool:
    return max(ImageStat.Stat(image).stddev) > 3
