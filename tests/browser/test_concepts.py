"""A concept of one's own: added from a file, found by asking, drawn, removed; and files that mean harm."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps import ask, choices, expect, generate, is_drawn, open_tab, picture, prompt, see_toast

from personalq.settings import SAMPLE_REPO

Open = Callable[..., Any]
LORA = SAMPLE_REPO / "concepts" / "biscuit-dog" / "pytorch_lora_weights.safetensors"
"""Says nothing of its trigger and base."""
IMG = '<img src="http://evil.example/a.png" onerror="alert(1)">'


def own(page: Any) -> Any:
    return page.locator("#own-list li")


def offer(page: Any, path: Path, trigger: str = "", base: str = "", noun: str = "", consent: bool = True) -> None:
    """The form, filled and sent."""
    open_tab(page, "My concepts")
    remove = page.locator("#own-file").get_by_label("Clear")
    if remove.count():
        remove.click()
    page.locator("#own-file input[type=file]").set_input_files(path)
    expect(page.locator("#own-file")).to_contain_text(path.stem[:8])
    fill(page, trigger, base, noun)
    page.get_by_label("I may use these weights").set_checked(consent)
    page.get_by_role("button", name="Add the concept").click()


def fill(page: Any, trigger: str, base: str, noun: str) -> None:
    page.locator("#own-trigger").get_by_role("textbox").fill(trigger)
    page.get_by_label("What it is").fill(noun)
    field = page.locator("#own-base input")
    field.fill(base)
    field.press("Tab")


def test_a_lora_of_ones_own(app_url: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(app_url)
    file = tmp_path / "waffle.safetensors"
    file.write_bytes(LORA.read_bytes())
    offer(page, file, consent=False)
    see_toast(page, "Tick the box")
    page.get_by_label("I may use these weights").check()
    page.get_by_role("button", name="Add the concept").click()
    expect(page.locator("#own-said")).to_contain_text("trigger")
    expect(own(page)).to_have_count(0)
    fill(page, "wffl dog", "tiny-sd", "dog")
    page.get_by_role("button", name="Add the concept").click()
    expect(own(page)).to_have_count(1)
    expect(page.locator("#own-said")).to_contain_text("Added: waffle")
    expect(own(page)).to_contain_text("wffl dog")
    expect(page.locator("#own-trigger").get_by_role("textbox")).to_have_value("")
    expect(page.locator("#own-file")).not_to_contain_text("waffle")
    expect(page.get_by_label("I may use these weights")).not_to_be_checked()

    open_tab(page, "Draw")
    expect(page.locator("#shelf")).to_contain_text("waffle")
    ask(page, "waffle in the snow")
    page.locator("#cands .pq-card").first.wait_for()
    expect(page.locator("#cands")).to_contain_text("waffle")
    if page.locator("#chat button.option").count():
        choices(page).filter(has_text="waffle").first.click()
    expect(page.locator(".pq-card[aria-pressed=true] strong")).to_have_text("waffle")
    assert "wffl dog" in prompt(page)
    generate(page, steps=2)
    assert is_drawn(picture(page, "picture-a")) and is_drawn(picture(page, "picture-b"))

    other = open_page(app_url)
    expect(other.locator("#shelf .pq-card").first).to_be_visible()
    assert "waffle" not in other.locator("body").inner_text()

    page.locator("#chat").get_by_label("Clear").click()
    open_tab(page, "My concepts")
    own(page).get_by_text("Use", exact=True).click()
    expect(page.get_by_role("tab", name="Draw")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("Edit the prompt")).to_have_value("a picture of wffl dog")
    open_tab(page, "My concepts")
    own(page).get_by_text("Remove", exact=True).click()
    expect(own(page)).to_have_count(0)
    open_tab(page, "Draw")
    expect(page.locator("#studio")).to_be_hidden()
    page.locator("#chat").get_by_label("Clear").click()
    expect(page.locator("#shelf .pq-card").first).to_be_visible()
    assert "waffle" not in page.locator("#shelf").inner_text()


def test_files_that_mean_harm_are_refused(app_url: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(app_url)
    pickled, bomb, cut = (tmp_path / f"{name}.safetensors" for name in ("pickled", "bomb", "cutoff"))
    pickled.write_bytes(pickle.dumps({"weights": [1.0]}, protocol=4))
    bomb.write_bytes(struct.pack("<Q", 2**62) + b"{" * 64)
    cut.write_bytes(LORA.read_bytes()[:5000])
    for path, said in ((pickled, "convert it to safetensors"), (bomb, "Do not trust it"), (cut, "download it again")):
        offer(page, path, "wffl dog", "tiny-sd")
        expect(page.locator("#own-said")).to_contain_text(said)
        expect(own(page)).to_have_count(0)


def test_hostile_words_of_a_file_stay_words(app_url: str, open_page: Open, tmp_path: Path) -> None:
    page = open_page(app_url)
    file = tmp_path / "friendly.safetensors"
    file.write_bytes(with_metadata(LORA, {"modelspec.title": IMG, "modelspec.description": f"${{alert(2)}} {IMG}"}))
    offer(page, file, f"{IMG} dog", "tiny-sd", "dog")
    expect(page.locator("#own-said")).to_have_text(re.compile("Added|trigger"))
    if own(page).count() == 0:  # no such trigger is taken
        fill(page, "zwx dog", "tiny-sd", IMG)
        page.get_by_role("button", name="Add the concept").click()
        expect(own(page)).to_have_count(1)
    assert page.locator("#own-list img, #own-said img").count() == 0
    own(page).get_by_text("Use", exact=True).click()
    expect(page.locator("#studio")).to_be_visible()
    generate(page, steps=1)
    assert page.locator("#chat img, #prompt img, #cands img[src*=evil], #memory img").count() == 0
    open_tab(page, "History")
    expect(page.locator("#history li")).to_have_count(1)
    assert page.locator("#history img[src*=evil]").count() == 0


def with_metadata(path: Path, metadata: dict[str, str]) -> bytes:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps({**json.loads(data[8 : 8 + length]), "__metadata__": metadata}).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
