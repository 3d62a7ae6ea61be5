"""Takes the screens that the README shows: `PYTHONPATH=. python tests/browser/screens.py`. Look at them after."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import sync_playwright

from personalq.bench.serving.page import FLAGS
from personalq.bench.serving.running import app
from personalq.settings import ROOT

FOLDER = ROOT / "assets" / "screens"
CHROMIUM = Path("/usr/bin/chromium")


def shoot(page: Any, name: str, whole: bool = False) -> None:
    page.wait_for_timeout(700)  # for what fades
    page.screenshot(path=FOLDER / f"{name}.png", full_page=whole)


def ask(page: Any, text: str) -> None:
    page.get_by_label("Your request").fill(text)
    page.keyboard.press("Enter")
    page.locator("#cands .pq-card").first.wait_for()


def draw(page: Any, steps: int) -> None:
    field = page.locator("#steps input[type=number]")
    field.fill(str(steps))
    field.press("Tab")
    page.locator("#go").click()


def desktop(page: Any) -> None:
    shoot(page, "empty")
    ask(page, "my dog on the beach")
    page.locator("#chat button.option").first.wait_for()
    shoot(page, "question")
    page.locator("#chat button.option").first.click()
    page.locator("#prompt").wait_for()
    shoot(page, "prompt")
    draw(page, 40)
    page.locator("#progress").get_by_text(re.compile("Full precision · step [12]")).first.wait_for()
    page.screenshot(path=FOLDER / "drawing.png")
    page.locator("#progress").get_by_text("Both pictures from seed").wait_for()
    shoot(page, "pictures", whole=True)
    for view in ("Slider", "Difference"):
        page.get_by_label(view, exact=True).check()
        shoot(page, view.lower())
    page.get_by_label("Side by side", exact=True).check()
    page.get_by_text("Grid: concept weight").click()
    page.locator("#grid-go").click()
    page.locator("#grid-file").wait_for()
    page.locator("#grid-out").scroll_into_view_if_needed()
    shoot(page, "grid")
    for tab in ("History", "My concepts", "Settings"):
        page.get_by_role("tab", name=tab).click()
        shoot(page, tab.lower().replace(" ", "-"))
    page.get_by_label("Blind test").check()
    page.get_by_role("tab", name="Draw").click()
    draw(page, 20)
    page.locator("#votes").wait_for()
    page.evaluate("scrollTo(0, 0)")
    shoot(page, "blind")
    ask(page, "a tax form for my accountant")
    shoot(page, "no-match")


def phone(page: Any) -> None:
    ask(page, "my dog on the beach")
    page.locator("#chat button.option").first.click()
    page.locator("#prompt").wait_for()
    draw(page, 20)
    page.locator("#progress").get_by_text("Both pictures from seed").wait_for()
    page.evaluate("scrollTo(0, 0)")
    shoot(page, "phone-dark")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as cache, app([], Path(cache)) as running, sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        sizes: list[tuple[Any, dict[str, Any]]] = [
            (desktop, {"viewport": {"width": 1280, "height": 900}}),
            (phone, {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}),
        ]
        for walk, options in sizes:
            page = chromium.new_context(**options).new_page()
            page.set_default_timeout(120_000)
            page.goto(running.url, wait_until="domcontentloaded")
            page.locator("#status .pq-status.ready").wait_for()
            walk(page)
        chromium.close()


if __name__ == "__main__":
    main()
