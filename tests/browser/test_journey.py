"""The whole way in a real browser: request, one question, prompt, two pictures, measured memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from steps import ask, begin, choices, expect, is_drawn, picture, prompt, set_number

from personalq.catalog.scan import Catalog, scan
from personalq.settings import Settings

REQUEST = "my dog on the beach"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """The embedded repository."""
    return scan(Settings.read().repo)


def trigger_of_chosen(page: Any, catalog: Catalog) -> str:
    """The canonical trigger of the card that is marked as chosen, from the catalogue and not from the page."""
    card = page.locator(".pq-card[aria-pressed=true]")
    card.wait_for()
    name = card.locator("strong").inner_text()
    return next(one.triggers[0] for one in catalog.checkpoints if one.name == name and one.triggers)


def see_the_prompt(page: Any, catalog: Catalog) -> str:
    trigger = trigger_of_chosen(page, catalog)
    expect(page.locator("#prompt")).to_contain_text(trigger)
    written = prompt(page)
    assert trigger in written and "on the beach" in written
    return written


def see_both_pictures(page: Any) -> tuple[Image.Image, Image.Image]:
    expect(page.locator("#progress")).to_contain_text("Both pictures from seed")
    return picture(page, "picture-a"), picture(page, "picture-b")


def test_click_the_answer_and_compare(app_url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    expect(page.locator("#status")).to_contain_text(f"{len(catalog.checkpoints)} checkpoints")
    assert page.locator("#starters button").count() == 4
    ask(page, REQUEST)
    options = choices(page)
    expect(options.last).to_have_text("None of these")
    assert 3 <= options.count() <= 5
    options.first.click()
    see_the_prompt(page, catalog)
    set_number(page, "steps", 4)
    seed = page.get_by_label("Seed", exact=True).input_value()
    page.get_by_role("button", name="Generate both").click()
    left, right = see_both_pictures(page)
    assert is_drawn(left) and is_drawn(right) and left.size == right.size
    assert left.tobytes() != right.tobytes()
    memory = page.locator("#memory")
    for words in ("Stored weights", "Cached keys and values", "smaller stored weights", "taq-w8a8"):
        expect(memory).to_contain_text(words)
    assert page.get_by_label("Seed", exact=True).input_value() == seed
    page.get_by_role("button", name="Generate both").click()
    page.wait_for_function("!document.getElementById('progress').innerText.includes('Both pictures')")
    assert see_both_pictures(page)[0].tobytes() == left.tobytes()


def test_type_the_answer_edit_the_prompt_and_reset(
    app_url: str, catalog: Catalog, open_page: Callable[..., Any]
) -> None:
    page = open_page(app_url)
    ask(page, REQUEST)
    label = choices(page).nth(1).inner_text()
    ask(page, label)
    written = see_the_prompt(page, catalog)
    page.get_by_label("Edit the prompt").fill("a picture of nothing")
    expect(page.locator("#warning")).to_contain_text("no longer contains")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#warning")).to_be_hidden()
    assert prompt(page) == written


def test_another_candidate_is_one_click(app_url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    ask(page, REQUEST)
    choices(page)
    second = page.locator("#cands .pq-card").nth(1)
    name = second.locator("strong").inner_text()
    second.click()
    expect(page.locator(".pq-card[aria-pressed=true] strong")).to_have_text(name)
    see_the_prompt(page, catalog)
    expect(page.locator("#chat button.option")).to_have_count(0)


def test_stop_in_the_middle_and_start_again(app_url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    ask(page, REQUEST)
    choices(page).first.click()
    see_the_prompt(page, catalog)
    begin(page)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#progress")).to_contain_text("Stopped")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#go")).to_be_enabled()
    assert "smaller stored weights" not in page.locator("#memory").inner_text()
    set_number(page, "steps", 2)
    page.get_by_role("button", name="Generate both").click()
    assert all(map(is_drawn, see_both_pictures(page)))


def test_no_match_goes_on_without_a_concept(app_url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    ask(page, "a tax form for my accountant")
    options = choices(page)
    expect(page.locator("#cands")).to_contain_text("weak match", ignore_case=True)
    options.filter(has_text="base model").click()
    expect(page.get_by_label("Edit the prompt")).to_have_value("a tax form for my accountant")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_the_pictures_first(app_url: str, open_page: Callable[..., Any], dark: bool) -> None:
    page = open_page(
        app_url, viewport={"width": 390, "height": 844}, color_scheme="dark" if dark else "light", has_touch=True
    )
    ask(page, REQUEST)
    choices(page).first.click()
    set_number(page, "steps", 2)
    page.get_by_role("button", name="Generate both").click()
    see_both_pictures(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(part).bounding_box()["y"] for part in ("#pictures", "#chat", "#studio", "#memory")]
    assert boxes == sorted(boxes)
    expect(page.locator("#pictures")).to_be_in_viewport()
    corner = Image.open(io.BytesIO(page.screenshot())).convert("L").getpixel((2, 400))
    assert corner < 60 if dark else corner > 200
