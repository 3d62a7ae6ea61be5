"""The whole way in a real browser: request, one question, prompt, two pictures, measured memory."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat

from personalq.catalog.scan import Catalog, scan
from personalq.settings import Settings

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
REQUEST = "my dog on the beach"


@pytest.fixture(scope="module")
def repository() -> Path:
    """The embedded repository."""
    return Settings.read().repo


@pytest.fixture(scope="module")
def catalog(repository: Path) -> Catalog:
    found = scan(repository)
    if not found.bases or not found.checkpoints:
        pytest.skip(f"{repository} has no base model or no concepts yet; its recipe makes them")
    return found


@pytest.fixture(scope="module")
def url(serve: Callable[..., str], repository: Path, catalog: Catalog) -> str:
    return serve("--repo", str(repository))


def ask(page: Any, text: str) -> None:
    page.get_by_label("Your request").fill(text)
    page.keyboard.press("Enter")


def choices(page: Any) -> Any:
    """The options under the last reply, once they are there."""
    options = page.locator("#chat button.option")
    options.first.wait_for()
    return options


def set_steps(page: Any, steps: int) -> None:
    field = page.locator("#steps input[type=number]")
    field.fill(str(steps))
    field.press("Tab")


def picture(page: Any, name: str) -> Image.Image:
    """The picture that is shown, as its file is served."""
    shown = page.locator(f"#{name} img").first
    shown.wait_for()
    served = page.request.get(shown.get_attribute("src")).body()
    assert served[:8] == b"\x89PNG\r\n\x1a\n"
    return Image.open(io.BytesIO(served)).convert("RGB")


def is_drawn(image: Image.Image) -> bool:
    return max(ImageStat.Stat(image).stddev) > 3


def trigger_of_chosen(page: Any, catalog: Catalog) -> str:
    """The canonical trigger of the card that is marked as chosen, from the catalogue and not from the page."""
    card = page.locator(".pq-card[aria-pressed=true]")
    card.wait_for()
    name = card.locator("strong").inner_text()
    return next(one.triggers[0] for one in catalog.checkpoints if one.name == name and one.triggers)


def see_the_prompt(page: Any, catalog: Catalog) -> str:
    trigger = trigger_of_chosen(page, catalog)
    expect(page.locator("#prompt")).to_contain_text(trigger)
    prompt = page.get_by_label("Edit the prompt").input_value()
    assert trigger in prompt and "on the beach" in prompt
    return prompt


def see_both_pictures(page: Any) -> tuple[Image.Image, Image.Image]:
    expect(page.locator("#progress")).to_contain_text("Both pictures from seed")
    return picture(page, "reference"), picture(page, "quantised")


def test_click_the_answer_and_compare(url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    expect(page.locator("#status")).to_contain_text(f"{len(catalog.checkpoints)} checkpoints")
    assert page.locator("#starters button").count() == 4
    ask(page, REQUEST)
    options = choices(page)
    expect(options.last).to_have_text("None of these")
    assert 3 <= options.count() <= 5
    options.first.click()
    see_the_prompt(page, catalog)
    set_steps(page, 4)
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
    expect(page.locator("#progress")).not_to_contain_text("Both pictures")
    assert see_both_pictures(page)[0].tobytes() == left.tobytes()


def test_type_the_answer_edit_the_prompt_and_reset(url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    ask(page, REQUEST)
    label = choices(page).nth(1).inner_text()
    ask(page, label)
    prompt = see_the_prompt(page, catalog)
    page.get_by_label("Edit the prompt").fill("a picture of nothing")
    expect(page.locator("#warning")).to_contain_text("no longer contains")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#warning")).to_be_hidden()
    assert page.get_by_label("Edit the prompt").input_value() == prompt


def test_another_candidate_is_one_click(url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    ask(page, REQUEST)
    choices(page)
    second = page.locator("#cands .pq-card").nth(1)
    name = second.locator("strong").inner_text()
    second.click()
    expect(page.locator(".pq-card[aria-pressed=true] strong")).to_have_text(name)
    see_the_prompt(page, catalog)
    expect(page.locator("#chat button.option")).to_have_count(0)


def test_stop_in_the_middle_and_start_again(url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    ask(page, REQUEST)
    choices(page).first.click()
    see_the_prompt(page, catalog)
    set_steps(page, 50)
    page.get_by_role("button", name="Generate both").click()
    expect(page.locator("#progress")).to_contain_text(re.compile(r"step \d+ of 50"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#progress")).to_contain_text("Stopped")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#go")).to_be_enabled()
    assert "smaller stored weights" not in page.locator("#memory").inner_text()
    set_steps(page, 2)
    page.get_by_role("button", name="Generate both").click()
    assert all(map(is_drawn, see_both_pictures(page)))


def test_no_match_goes_on_without_a_concept(url: str, catalog: Catalog, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    ask(page, "a tax form for my accountant")
    options = choices(page)
    expect(page.locator("#cands")).to_contain_text("weak match", ignore_case=True)
    options.filter(has_text="base model").click()
    expect(page.get_by_label("Edit the prompt")).to_have_value("a tax form for my accountant")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_shows_the_pictures_first(url: str, open_page: Callable[..., Any], dark: bool) -> None:
    page = open_page(
        url, viewport={"width": 390, "height": 844}, color_scheme="dark" if dark else "light", has_touch=True
    )
    ask(page, REQUEST)
    choices(page).first.click()
    set_steps(page, 2)
    page.get_by_role("button", name="Generate both").click()
    see_both_pictures(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(part).bounding_box()["y"] for part in ("#pictures", "#chat", "#studio")]
    assert boxes == sorted(boxes)
    expect(page.locator("#pictures")).to_be_in_viewport()
    corner = Image.open(io.BytesIO(page.screenshot())).convert("L").getpixel((2, 400))
    assert corner < 60 if dark else corner > 200
