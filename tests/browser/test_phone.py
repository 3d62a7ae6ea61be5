"""A phone and a tablet: nothing to scroll sideways, targets for a thumb, pictures first, dark that is dark."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageStat
from steps import ask, choices, choose, expect, generate, open_part, open_tab, set_number

Open = Callable[..., Any]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
TABLET = {"viewport": {"width": 768, "height": 1024}, "has_touch": True}
MAIN = "#go, #stop, #reset, #dice, #votes button, #grid-go, #own-add, #clear, .starter, .pq-card, .option, [role=tab]"
TARGETS = """
() => [...document.querySelectorAll('button, a[href], summary, textarea, input:not([type=file])')].flatMap((one) => {
  const part = one.matches('[type=radio], [type=checkbox]') ? one.closest('label') : one;
  const box = part.getBoundingClientRect();
  const shown = part.checkVisibility({visibilityProperty: true}) && box.width > 0;
  const gradios = one.closest('footer, .toast-wrap') || one.matches('input[type=range]:not(.pq-slide *)');
  if (!shown || gradios || one.matches('[tabindex="-1"]')) return [];
  const least = one.matches(MAIN) ? 44 : 24;
  const small = Math.min(box.width, box.height) < least - 0.5;
  return small ? [`${one.closest('[id]')?.id} ${one.className} ${box.width}x${box.height}`] : [];
})
""".replace("MAIN", repr(MAIN))
"""Controls that are too small. Gradio's sliders are as thin as they are; each has a number field beside it."""


CUT_OFF = """
() => [...document.querySelectorAll('#header *, #tabs *')].filter((one) =>
  one.checkVisibility({visibilityProperty: true}) && one.getBoundingClientRect().right > innerWidth + 1
  && !one.closest('#grid-out')).map((one) => `${one.closest('[id]')?.id} ${one.tagName} ${one.textContent}`)
"""
"""What reaches over the edge, where no scroll bar shows it. A grid of pictures may be wider: it scrolls."""


def see_that_it_fits(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(TARGETS) == []


@pytest.mark.parametrize("device", [PHONE, TABLET], ids=["390", "768"])
def test_every_screen_fits_and_pictures_come_first(app_url: str, open_page: Open, device: dict[str, Any]) -> None:
    page = open_page(app_url, **device)
    page.locator("#starters").wait_for()
    see_that_it_fits(page)
    ask(page, "my dog on the beach")
    choices(page)
    page.locator("#cands .pq-card").first.wait_for()
    see_that_it_fits(page)
    choices(page).first.click()
    page.locator("#prompt").wait_for()
    open_part(page, "More: negative prompt")
    open_part(page, "Grid: concept weight")
    see_that_it_fits(page)
    set_number(page, "batch", 2)
    generate(page, steps=1)
    tops = [page.locator(part).bounding_box()["y"] for part in ("#pictures", "#chat", "#studio", "#memory", "#cands")]
    assert tops == sorted(tops)
    expect(page.locator("#pictures")).to_be_in_viewport()
    for name in ("Side by side", "Slider", "Flip", "Difference"):
        page.get_by_label(name, exact=True).check()
        see_that_it_fits(page)
    page.locator("#grid-weights").get_by_role("textbox").fill("-1, 0, 1")
    page.get_by_role("button", name="Make the grid").click()
    page.locator("#grid-file").wait_for()
    see_that_it_fits(page)
    for name in ("History", "My concepts", "Settings"):
        open_tab(page, name)
        see_that_it_fits(page)
    page.get_by_label("Blind test").check()
    open_tab(page, "Draw")
    generate(page)
    page.get_by_role("button", name="No difference").wait_for()
    see_that_it_fits(page)
    page.get_by_role("button", name="No difference").click()
    open_tab(page, "Settings")
    page.locator("#tally table").wait_for()
    see_that_it_fits(page)


def brightness(page: Any) -> float:
    """0 to 255, of all that is to be seen."""
    return float(ImageStat.Stat(Image.open(io.BytesIO(page.screenshot())).convert("L")).median[0])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_or_what_was_chosen(app_url: str, open_page: Open, scheme: str) -> None:
    page = open_page(app_url, color_scheme=scheme, **PHONE)

    def see(dark: bool) -> None:
        expect(page.locator("body.dark")).to_have_count(int(dark))
        assert brightness(page) < 60 if dark else brightness(page) > 200

    see(scheme == "dark")
    open_tab(page, "Settings")
    for name, dark in (("Light", False), ("Dark", True)):
        page.get_by_label(name, exact=True).check()
        see(dark)
        page.wait_for_function("Object.keys(localStorage).some((key) => key.startsWith('personalq'))")
        page.wait_for_timeout(500)
        page.reload(wait_until="domcontentloaded")
        page.locator("#status .pq-status:not(.loading)").wait_for()
        see(dark)
        open_tab(page, "Settings")
        expect(page.get_by_label(name, exact=True)).to_be_checked()
    page.get_by_label("System", exact=True).check()
    see(scheme == "dark")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_those_who_ask(app_url: str, open_page: Open, motion: str) -> None:
    page = open_page(app_url, reduced_motion=motion)
    choose(page, "Luna")
    page.evaluate("""
        window.longest = 0;
        for (const kind of ['animationstart', 'transitionrun']) document.addEventListener(kind, (event) => {
          for (const one of event.target.getAnimations())
            longest = Math.max(longest, one.effect.getComputedTiming().activeDuration);
        }, true);
    """)
    generate(page, steps=2)
    page.locator("#go").hover()
    assert page.evaluate("longest") <= 1 if motion == "reduce" else page.evaluate("longest") > 50
