"""Keys: Ctrl+Enter generates, Esc stops, 1 to 5 answer, X flips; and in a field they are only typed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from steps import ask, choices, choose, expect, generate, open_part, set_number, set_size

REQUEST = "my dog on the beach"


def test_a_digit_answers_the_question_and_in_a_field_is_typed(app_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    ask(page, REQUEST)
    label = choices(page).nth(1).inner_text()
    page.get_by_label("Your request").fill("")
    page.get_by_label("Your request").press_sequentially("2x")
    expect(page.get_by_label("Your request")).to_have_value("2x")
    assert choices(page).count() > 2
    page.get_by_label("Your request").fill("")
    page.locator("h1").click()
    page.keyboard.press("2")
    expect(page.locator("#prompt")).to_be_visible()
    expect(page.locator("#chat [data-testid=user]").last).to_have_text(label)


def test_ctrl_enter_generates_and_esc_stops(app_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    open_part(page, "More: negative prompt")
    set_size(page, "384 x 384")
    set_number(page, "steps", 50)
    page.get_by_label("Edit the prompt").fill("a picture of lunacat cat in the snow")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#progress")).to_contain_text(re.compile(r"step \d+ of 50"))
    for opened, open_it in (
        (page.get_by_role("listbox"), page.locator("#precision input")),
        (page.locator("#picture-a.fullscreen"), page.locator("#picture-a [aria-label*=ullscreen]").first),
    ):
        open_it.click()
        expect(opened).to_be_visible()
        page.keyboard.press("Escape")  # closes what is open, and nothing else
        expect(opened).to_have_count(0)
        expect(page.locator("#progress")).to_contain_text("step")
    page.locator("#precision input").focus()
    page.keyboard.press("Tab")  # away from a list, which stays open for Gradio
    assert page.get_by_label("Edit the prompt").input_value() == "a picture of lunacat cat in the snow"
    page.keyboard.press("Escape")
    expect(page.locator("#progress")).to_contain_text("Stopped")
    expect(page.locator("#go")).to_be_enabled()
    page.keyboard.press("Escape")
    expect(page.locator("#go")).to_be_enabled()
    generate(page, steps=2)


def test_x_flips_in_its_view_alone(app_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    generate(page, steps=1)
    flipped = page.locator("#pictures[data-flipped]")
    page.locator("h1").click()
    page.keyboard.press("x")
    expect(flipped).to_have_count(0)
    page.get_by_label("Flip", exact=True).check()
    page.keyboard.press("x")
    expect(flipped).to_have_count(1)
    page.get_by_label("Edit the prompt").press("x")
    expect(flipped).to_have_count(1)
