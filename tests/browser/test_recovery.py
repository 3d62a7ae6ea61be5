"""What fails, is stopped early or is left to chance can be made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steps import await_pictures, choices, choose, expect, generate, open_part, picture, prompt, see_toast, set_number

Open = Callable[..., Any]


def seed(page: Any) -> str:
    return str(page.get_by_label("Seed", exact=True).input_value())


def set_size(page: Any, size: str) -> None:
    field = page.locator("#size input")
    field.fill(size)
    field.press("Tab")


def test_a_picture_that_failed_is_tried_again_by_one_click(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    set_number(page, "steps", 1)
    open_part(page, "More: negative prompt")
    set_size(page, "100 x 100")
    for _ in range(2):
        page.get_by_role("button", name="Generate both").click()
        see_toast(page, "100")
        again = choices(page).filter(has_text="Try again")
        expect(again).to_have_count(1)
        expect(page.locator("#progress")).to_contain_text("Failed")
        expect(page.locator("#go")).to_be_enabled()
    assert prompt(page) == "a picture of lunacat cat"
    set_size(page, "96 x 128")
    choices(page).filter(has_text="Try again").click()
    await_pictures(page)
    expect(page.locator("#progress")).to_contain_text("Both pictures")
    assert picture(page, "picture-b").size == (96, 128)
    expect(page.locator("#chat button.option")).to_have_count(0)


def test_a_full_queue_is_said_and_can_be_tried_again(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    full = {"detail": "Queue is full. Max size is 32 and size is 32."}
    page.route("**/queue/join*", lambda asked: asked.fulfill(status=503, json=full))
    page.get_by_role("button", name="Generate both").click()
    expect(page.locator("#progress")).to_contain_text("Too many pictures are waiting")
    expect(page.locator("#stop")).to_be_hidden()
    page.unroute("**/queue/join*")
    generate(page, steps=1)


def test_stopped_before_the_first_step(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    set_number(page, "steps", 30)
    page.get_by_role("button", name="Generate both").click()
    page.locator("#stop").click()
    expect(page.locator("#progress")).to_contain_text("Stopped")
    expect(page.locator("#go")).to_be_enabled()
    expect(page.locator("#stop")).to_be_hidden()
    generate(page, steps=1)
    expect(page.locator("#stop")).to_be_hidden()


def test_an_open_seed_is_drawn_and_written_back(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    page.get_by_label("Lock seed").uncheck()
    before = seed(page)
    generate(page, steps=1)
    drawn, made = seed(page), picture(page, "picture-a").tobytes()
    assert drawn != before
    expect(page.locator("#progress")).to_contain_text(drawn)
    page.get_by_label("Lock seed").check()
    generate(page)
    assert seed(page) == drawn and picture(page, "picture-a").tobytes() == made
    page.get_by_role("button", name="New seed").click()
    expect(page.get_by_label("Seed", exact=True)).not_to_have_value(drawn)
    generate(page)
    assert picture(page, "picture-a").tobytes() != made
