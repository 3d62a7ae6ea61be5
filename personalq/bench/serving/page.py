"""The page's times as a visitor sees them, in a real Chromium driven by Playwright."""

from __future__ import annotations

import importlib
import re
import time
from pathlib import Path
from typing import Any

from personalq.bench.serving.running import App
from personalq.errors import BenchError

FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]
WAIT = 120_000


def page(app: App, chromium: Path, steps: int) -> dict[str, float]:
    """Seconds from a request to its candidates, from Generate to first preview and both pictures, and Stop.

    Pictures are made twice: `cold` is the first pair of the process at that precision, `warm` the second. `stop_s` is
    from the click on Stop in a run of four pairs of 50 steps until the denoiser has let go; `step_s` is what one of
    those steps takes.
    Raises BenchError without Playwright or Chromium.
    """
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError:
        raise BenchError("Playwright is not installed: pip install playwright.") from None
    if not chromium.exists():
        raise BenchError(f"There is no Chromium at {chromium}: name it with --chromium.")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(chromium), args=FLAGS)
        visitor = browser.new_page()
        visitor.set_default_timeout(WAIT)
        visitor.goto(app.url, wait_until="domcontentloaded")
        visitor.locator("#status .pq-status.ready").wait_for()
        times = {"ready_s": time.perf_counter() - app.started} | _ask(visitor)
        visitor.locator("#steps input[type=number]").fill(str(steps))
        visitor.keyboard.press("Tab")
        for name in ("cold", "warm"):
            times |= {f"{name}_{what}": seconds for what, seconds in _draw(visitor).items()}
        times |= _stop(visitor)
        browser.close()
    return times


def _ask(visitor: Any) -> dict[str, float]:
    visitor.get_by_label("Your request").fill("my dog on the beach")
    before = time.perf_counter()
    visitor.keyboard.press("Enter")
    visitor.locator("#cands .pq-card").first.wait_for()
    took = time.perf_counter() - before
    visitor.locator("#chat button.option").first.click()
    visitor.locator("#go").wait_for()
    visitor.wait_for_timeout(500)  # a field that is filled before it has its first value loses what was written
    return {"candidates_s": took}


def _draw(visitor: Any) -> dict[str, float]:
    before = time.perf_counter()
    visitor.locator("#go").click()
    visitor.locator("#picture-a img").wait_for(state="detached")
    visitor.locator("#picture-a img").wait_for()
    preview = time.perf_counter() - before
    visitor.locator("#progress").get_by_text("Both pictures from seed").wait_for()
    both = time.perf_counter() - before
    visitor.wait_for_timeout(500)
    return {"preview_s": preview, "both_s": both}


def _stop(visitor: Any) -> dict[str, float]:
    visitor.get_by_role("button", name="More: negative prompt").click()
    visitor.locator("#batch input[type=number]").wait_for()
    visitor.wait_for_timeout(500)
    for slider, value in (("batch", "4"), ("steps", "50")):
        visitor.locator(f"#{slider} input[type=number]").fill(value)
        visitor.keyboard.press("Tab")
    visitor.locator("#go").click()
    first, before = _step(visitor, 3), time.perf_counter()
    seen = _step(visitor, first + 10) - first
    step = (time.perf_counter() - before) / seen
    before = time.perf_counter()
    visitor.locator("#stop").click()
    visitor.locator("#progress").get_by_text("Stopped").wait_for()
    return {"step_s": step, "stop_s": time.perf_counter() - before}


def _step(visitor: Any, least: int) -> int:
    """The step that is shown, once it is `least` or later: not every one stays long enough to be seen."""
    until = time.perf_counter() + WAIT / 1000
    while time.perf_counter() < until:
        shown = re.search(r"step (\d+) of 200", visitor.locator("#progress").inner_text())
        if shown and int(shown[1]) >= least:
            return int(shown[1])
    raise BenchError("The page shows no steps: run the app and look.")
