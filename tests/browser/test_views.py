"""Ways to look at two pictures: side by side, divider, flip, difference, a batch, and blind."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from steps import choose, expect, generate, open_part, open_tab, picture, select, served, set_number

from personalq.ui.pictures import inline

A, B, HEAT = "#picture-a", "#picture-b", "#heat"


def view(page: Any, name: str) -> None:
    page.get_by_label(name, exact=True).check()
    expect(page.locator("#pictures")).to_have_attribute("data-view", name)


def shot(page: Any, part: str) -> np.ndarray[Any, Any]:
    """What is really to be seen in the middle of a part of the page, whatever lies on top; RGB."""
    box = page.locator(part).bounding_box()
    middle = {"x": box["x"] + 40, "y": box["y"] + 60, "width": box["width"] - 80, "height": box["height"] - 80}
    png = page.screenshot(clip=middle, full_page=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def apart(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(np.abs(a - b).mean())


def test_four_views_of_one_pair(app_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url, viewport={"width": 1280, "height": 1000})
    choose(page, "Luna")
    select(page, "precision", "Plain 4-bit")
    generate(page, steps=3)
    a, b = picture(page, "picture-a"), picture(page, "picture-b")
    assert a.tobytes() != b.tobytes()
    left, right = page.locator(A).bounding_box(), page.locator(B).bounding_box()
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    expect(page.locator(HEAT)).to_be_hidden()

    view(page, "Flip")
    first = shot(page, A)
    page.keyboard.press("x")
    second = shot(page, A)
    assert apart(first, second) > 1
    page.locator(B).click()
    assert apart(shot(page, A), first) == 0

    view(page, "Slider")
    divider = page.get_by_label("Divider")
    divider.focus()
    for key, expected in (("End", first), ("Home", second)):
        page.keyboard.press(key)
        assert apart(shot(page, A), expected) < 0.1  # a layer of its own is rounded otherwise
    line = page.locator("#pictures").evaluate("part => getComputedStyle(part, '::after').height")
    assert float(line.removesuffix("px")) > 0.9 * page.locator(B).bounding_box()["height"]
    page.keyboard.press("ArrowRight")
    assert divider.input_value() == "1"
    page.keyboard.press("End")

    view(page, "Difference")
    expect(page.locator(HEAT)).to_be_visible()
    expect(page.locator(A)).to_be_hidden()
    expect(page.locator(B)).to_be_hidden()
    expect(page.locator("#legend")).to_contain_text(re.compile(r"PSNR \d+\.\d dB"))
    levels = np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max(axis=2)
    heat = np.asarray(picture(page, "heat")).astype(int).sum(axis=2)
    assert heat[levels == 0].max(initial=0) == 0 and heat[levels == levels.max()].min() > 400

    view(page, "Side by side")
    expect(page.locator(HEAT)).to_be_hidden()
    expect(page.locator("#legend")).to_be_hidden()


def test_a_batch_has_a_strip(app_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    open_part(page, "More: negative prompt")
    set_number(page, "batch", 3)
    generate(page, steps=1)
    strip = page.locator("#strip button")
    expect(strip).to_have_count(3)
    seen = []
    for i in range(3):
        strip.nth(i).click()
        expect(strip.nth(i)).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#strip [aria-pressed=true]")).to_have_count(1)
        seen.append((picture(page, "picture-a").tobytes(), picture(page, "picture-b").tobytes()))
    assert len(set(seen)) == 3 and all(a != b for a, b in seen)
    set_number(page, "batch", 1)
    generate(page)
    expect(page.locator("#strip")).to_be_hidden()


TELLING = ("full precision", "taq", "8-bit", "reference", "w8a8", "stored weights", "mib")


def said(page: Any) -> str:
    """All that the first screen says about the pictures, tooltips and addresses included."""
    return str(page.locator("#outputs").evaluate("part => part.outerHTML") + page.locator("#memory").inner_text())


def test_a_blind_vote(app_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(app_url)
    open_tab(page, "Settings")
    expect(page.locator("#tally")).to_contain_text("No blind votes yet")
    page.get_by_label("Blind test").check()
    open_tab(page, "Draw")
    choose(page, "Luna")
    generate(page, steps=3)
    expect(page.locator("#progress")).to_have_text(
        re.compile(r"^\s*Both pictures are there\. Which one is better\?\s*$")
    )
    for name in ("picture-a", "picture-b"):
        png = served(page, name)
        assert b"Text" not in png and b"eXIf" not in png and b"parameters" not in png
    sides = [picture(page, name).tobytes() for name in ("picture-a", "picture-b")]
    assert not [word for word in TELLING if word in said(page).lower()]
    open_tab(page, "History")
    thumb = page.locator("#history li img")
    expect(thumb).to_have_count(1)
    assert thumb.get_attribute("src") == inline(Image.frombytes("RGB", picture(page, "picture-a").size, sides[0]))
    open_tab(page, "Draw")

    page.get_by_role("button", name="B is better").click()
    expect(page.locator("#verdict")).to_contain_text("You preferred")
    expect(page.locator("#votes")).to_be_hidden()
    expect(page.locator("#memory")).to_contain_text("Stored weights")
    verdict = page.locator("#verdict").inner_text()
    told = re.search(r"A was (.+), B was (.+)\.", verdict)
    assert told and {told[1], told[2]} == {"Full precision", "TAQ 8-bit"}
    assert f"You preferred: {told[2]}." in verdict
    for name, label, side in (("picture-a", told[1], sides[0]), ("picture-b", told[2], sides[1])):
        expect(page.locator(f"#{name} label")).to_contain_text(label)
        assert picture(page, name).tobytes() == side
        precision = b'"precision": "reference"' if label == "Full precision" else b'"precision": "taq-w8a8"'
        assert precision in served(page, name)

    open_tab(page, "History")
    expect(page.locator("#history li")).to_have_count(1)
    open_tab(page, "Settings")
    counts = page.locator("#tally tbody td").all_inner_texts()
    assert counts == (["1", "0", "0", "1.00"] if told[2] == "Full precision" else ["0", "1", "0", "1.00"])

    open_tab(page, "Draw")
    view(page, "Difference")
    generate(page)
    expect(page.locator(A)).to_be_visible()
    expect(page.locator(B)).to_be_visible()
    expect(page.locator(HEAT)).to_be_hidden()
