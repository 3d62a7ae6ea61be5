"""What fails, is stopped early or is left to chance can be made again."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from steps import (
    ask,
    begin,
    choices,
    choose,
    drawing,
    expect,
    generate,
    open_part,
    open_tab,
    picture,
    prompt,
    see_toast,
    served,
    set_number,
    set_size,
)

Open = Callable[..., Any]


def seed(page: Any) -> str:
    return str(page.get_by_label("Seed", exact=True).input_value())


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
    with drawing(page):
        choices(page).filter(has_text="Try again").click()
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


def test_a_picture_that_waited_is_of_the_concept_it_was_asked_for(app_url: str, open_page: Open) -> None:
    other, page = open_page(app_url), open_page(app_url)
    choose(other, "Clover")
    begin(other)
    choose(page, "Luna")
    set_number(page, "steps", 2)
    page.get_by_role("button", name="Generate both").click()
    expect(page.locator("#progress")).to_contain_text("Waiting for its turn")
    ask(page, "Cherry panda in the snow")
    expect(page.get_by_label("Edit the prompt")).to_have_value(re.compile("chrry"))
    other.locator("#stop").click()
    expect(page.locator("#progress")).to_contain_text("a picture of lunacat cat")
    made = served(page, "picture-b")
    assert b"a picture of lunacat cat <lora:luna-cat:1>" in made and b"cherry" not in made
    expect(page.locator("#chat")).to_contain_text("panda")


def test_a_picture_can_be_stopped_whatever_is_asked_meanwhile(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    begin(page)
    ask(page, "my dog")
    choices(page).nth(1).wait_for()
    expect(page.locator("#studio")).to_be_hidden()
    page.locator("#stop").click()
    expect(page.locator("#progress")).to_contain_text("Stopped")


def test_what_is_cleared_meanwhile_stays_away(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    generate(page, steps=1)
    page.locator("#chat").get_by_label("Clear").click()
    expect(page.locator("#outputs")).to_be_hidden()
    expect(page.locator("#memory")).to_be_hidden()
    for clear in ("bin", "all"):
        choose(page, "Clover")
        begin(page)
        if clear == "bin":
            page.locator("#chat").get_by_label("Clear").click()
        else:
            open_tab(page, "Settings")
            page.get_by_role("button", name="Clear my data").click()
            expect(page.locator("#cleared")).to_contain_text("Gone")
            open_tab(page, "Draw")
        expect(page.locator("#shelf .pq-card").first).to_be_visible()
        expect(page.locator("#outputs")).to_be_hidden()
    choose(page, "Luna")
    generate(page, steps=1)
    open_tab(page, "History")
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.locator("#history")).to_contain_text("lunacat")


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
