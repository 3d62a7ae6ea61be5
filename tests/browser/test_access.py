"""Every screen and state for axe-core, and the whole way by keyboard alone, with what is said aloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from steps import ask, begin, choices, choose, expect, generate, open_part, open_tab, see_toast, set_number, set_size

from personalq.settings import SAMPLE_REPO

Open = Callable[..., Any]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
AXE = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LORA = SAMPLE_REPO / "concepts" / "biscuit-dog" / "pytorch_lora_weights.safetensors"
GRADIOS_OWN = {
    ("nested-interactive", ".toast-header"): "a toast's head is a button that holds its close button",
}
"""What axe finds that the page cannot mend, by rule and selector: the reason. An entry that is not found has to go."""
RUN_AXE = """
async ([tags, known]) => {
  const found = [];
  for (const rule of (await axe.run(document, {runOnly: tags})).violations) {
    for (const node of rule.nodes) {
      const part = document.querySelector(node.target[0]);
      const entry = known.find(([id, selector]) => id === rule.id && part?.matches(selector));
      found.push([rule.id, entry ? entry[1] : `${node.target}: ${node.failureSummary}`]);
    }
  }
  return found;
}
"""


TOASTS_STAY = """
() => {
  const real = window.setTimeout;
  window.setTimeout = (fn, ms, ...rest) => real(fn, ms === 10000 ? 1e9 : ms, ...rest);
}
"""
"""A toast goes after ten seconds, which is no time for axe on a slow machine."""


def violations(page: Any) -> set[tuple[str, str]]:
    """Rules that are broken, each with the selector of GRADIOS_OWN, or with where and how."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE)
    page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished.catch(() => null)))")
    return {(rule, where) for rule, where in page.evaluate(RUN_AXE, [TAGS, [*map(list, GRADIOS_OWN)]])}


def first_screen(page: Any) -> Iterator[str]:
    yield "empty"
    ask(page, " ")
    expect(page.locator("#box")).to_contain_text("Describe a picture first.")
    yield "validator"
    ask(page, "a tax form for my accountant")
    choices(page)
    yield "no match"
    page.get_by_label("Clear", exact=True).click()
    ask(page, "my dog on the beach")
    choices(page).filter(has_text="Biscuit").wait_for()
    page.locator("#cands .pq-card").first.wait_for()
    yield "question"
    page.keyboard.press("Escape")
    choices(page).first.click()
    page.locator("#prompt").wait_for()
    yield "prompt"
    page.get_by_label("Edit the prompt").fill("a picture of nothing")
    page.locator("#warning").wait_for()
    yield "trigger lost"
    page.get_by_role("button", name="Reset").click()
    page.locator("#warning").wait_for(state="hidden")


def pictures(page: Any) -> Iterator[str]:
    open_part(page, "More: negative prompt")
    set_number(page, "batch", 2)
    begin(page)
    yield "drawing"
    page.keyboard.press("Escape")
    expect(page.locator("#progress")).to_contain_text("Stopped")
    expect(page.locator("#go")).to_be_enabled()
    yield "stopped"
    set_size(page, "Square")
    generate(page, steps=1)
    for name in ("Side by side", "Slider", "Flip", "Difference"):
        page.get_by_label(name, exact=True).check()
        yield name.lower()
    page.get_by_label("Side by side", exact=True).check()
    open_part(page, "Grid: concept weight")
    weights = page.locator("#grid-weights").get_by_role("textbox")
    weights.fill("none")
    page.get_by_role("button", name="Make the grid").click()
    see_toast(page, "not understood")
    yield "toast"
    page.locator(".toast-close").first.click()
    weights.fill("1")
    page.get_by_label("TAQ 4-bit").uncheck()
    page.get_by_role("button", name="Make the grid").click()
    page.locator("#grid-file").wait_for()
    yield "grid"


def other_screens(page: Any) -> Iterator[str]:
    open_tab(page, "History")
    page.locator("#history li").first.wait_for()
    yield "history"
    open_tab(page, "My concepts")
    yield "my concepts"
    page.locator("#own-file input[type=file]").set_input_files(LORA)
    page.locator("#own-trigger").get_by_role("textbox").fill("wffl dog")
    page.locator("#own-base input").fill("tiny-sd")
    page.get_by_label("I may use these weights").check()
    page.get_by_role("button", name="Add the concept").click()
    page.locator("#own-list li").wait_for()
    yield "own concept"
    open_tab(page, "Settings")
    page.get_by_label("Blind test").check()
    yield "settings"
    open_tab(page, "Draw")
    set_number(page, "batch", 1)
    generate(page)
    page.get_by_role("button", name="A is better").wait_for()
    yield "blind"
    page.get_by_role("button", name="A is better").click()
    expect(page.locator("#verdict")).to_contain_text("You preferred")
    yield "voted"
    open_tab(page, "Settings")
    page.locator("#tally table").wait_for()
    yield "votes"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)], ids=["light", "dark phone"])
def test_axe_finds_nothing_on_any_screen(app_url: str, open_page: Open, scheme: str, width: int) -> None:
    page = open_page(app_url, color_scheme=scheme, viewport={"width": width, "height": 844})
    page.evaluate(TOASTS_STAY)
    found: dict[str, set[tuple[str, str]]] = {}
    for part in (first_screen, pictures, other_screens):
        for state in part(page):
            found[state] = violations(page)
    assert {state: one - set(GRADIOS_OWN) for state, one in found.items() if one - set(GRADIOS_OWN)} == {}
    assert set().union(*found.values()) == set(GRADIOS_OWN), "an entry of GRADIOS_OWN is no longer needed"


# --- the keyboard alone ------------------------------------------------------------------------

FOCUS = """
() => {
  const at = document.activeElement, box = at.getBoundingClientRect(), style = getComputedStyle(at);
  const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 && style.outlineColor;
  return {
    body: at === document.body,
    where: `${at.tagName} ${at.id || at.closest('[id]')?.id} ${at.className} ${style.outline} ${box.top}-${box.bottom}`,
    ring: Boolean(ring) && box.width > 0 && box.bottom > 0 && box.top < innerHeight && style.visibility !== 'hidden',
  };
}
"""


def stop(page: Any, key: str = "Tab") -> dict[str, Any]:
    """The next place that the focus goes to; it can be seen there."""
    page.keyboard.press(key)
    with suppress(playwright.TimeoutError):  # what opens, and what scrolls, takes a moment
        page.wait_for_function(f"() => {{ const at = ({FOCUS})(); return at.body || at.ring; }}", timeout=10_000)
    at: dict[str, Any] = page.evaluate(FOCUS)
    assert at["body"] or at["ring"], f"the focus cannot be seen on {at['where']}"
    return at


def go_to(page: Any, selector: str, key: str = "Tab") -> None:
    """Tab, until the focus is on `selector`."""
    page.locator(selector).first.wait_for()
    for _ in range(80):
        stop(page, key)
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} cannot be reached")


def test_the_whole_way_by_keyboard_alone(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    go_to(page, "#box textarea")
    page.keyboard.type("my dog on the beach")
    page.keyboard.press("Enter")
    go_to(page, "#chat button.option:first-child", "Shift+Tab")
    page.keyboard.press("Space")
    go_to(page, "#prompt-box textarea")
    page.keyboard.press("End")
    page.keyboard.type(" at night")
    go_to(page, "#steps input[type=number]")
    page.keyboard.type("50")
    go_to(page, "#go")
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_contain_text("of 50")
    page.keyboard.press("Escape")
    expect(page.locator("#progress")).to_contain_text("Stopped")
    expect(page.locator("#go")).to_be_enabled()
    go_to(page, "#steps input[type=number]", "Shift+Tab")
    page.keyboard.type("1")
    go_to(page, "#go")
    page.keyboard.press("Space")
    expect(page.locator("#said")).to_contain_text("Both pictures from seed")
    words = page.get_by_label("Edit the prompt").input_value()
    assert words.endswith("on the beach at night")

    go_to(page, "#view input", "Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#pictures")).to_have_attribute("data-view", "Slider")
    go_to(page, "#slide input")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#pictures")).to_have_attribute("style", "--divider: 49%;")
    go_to(page, "#view input", "Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#pictures")).to_have_attribute("data-view", "Flip")
    page.keyboard.press("x")
    expect(page.locator("#pictures[data-flipped]")).to_have_count(1)

    go_to(page, "[role=tab][data-tab-id=history]", "Shift+Tab")
    page.keyboard.press("Enter")
    go_to(page, "#history [data-action=use]")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Draw")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#chat")).to_contain_text("Taken up from your history")
    assert page.get_by_label("Edit the prompt").input_value() == words


def test_the_focus_goes_round_in_the_order_of_the_page(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    choose(page, "Luna")
    open_part(page, "More: negative prompt")
    page.get_by_label("Guidance").first.wait_for()
    while not stop(page)["body"]:  # to the end, from wherever it was
        pass
    page.evaluate("window.stops = []")
    seen: list[str] = []
    while not (at := stop(page))["body"]:
        seen.append(at["where"])
        assert len(seen) < 90, f"the focus never leaves: {seen[-3:]}"
        page.evaluate("stops.push(document.activeElement)")
    wanted = ["draw", "chat", "box", "prompt-box", "reset", "seed", "steps", "go", "cands"]
    order = "(before, after) => Boolean(before.compareDocumentPosition(after) & Node.DOCUMENT_POSITION_FOLLOWING)"
    assert page.evaluate(f"stops.every((one, i) => i === 0 || ({order})(stops[i - 1], one))")
    assert page.evaluate("new Set(stops).size === stops.length")
    holds = "(part) => stops.some((one) => one.closest(`#${part}, [data-tab-id=${part}]`))"
    assert [part for part in wanted if not page.evaluate(holds, part)] == []


def test_what_happens_is_said_once_and_not_every_step(app_url: str, open_page: Open) -> None:
    page = open_page(app_url)
    live = page.locator("#said")
    expect(live).to_have_attribute("role", "status")
    expect(live).to_contain_text("tiny-sd")
    page.evaluate("""
        window.heard = [];
        new MutationObserver(() => heard.push(document.getElementById('said').textContent))
          .observe(document.getElementById('said'), {childList: true, characterData: true, subtree: true});
    """)
    choose(page, "Luna")
    generate(page, steps=12)
    expect(live).to_contain_text("Both pictures from seed")
    heard = page.evaluate("heard")
    assert not [text for text in heard if "step" in text] and len(heard) == len(set(heard)) < 8
    assert [one for one in heard if "Full precision" in one] and [one for one in heard if "TAQ 8-bit" in one]
    log = page.locator("#chat [role=log]")
    expect(log).to_have_attribute("aria-live", "polite")
    assert "&#" not in log.evaluate("part => part.outerHTML")
