"""Two visitors at once: neither sees what is the other's, both are served, and what is left behind goes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Apps
from steps import begin, choose, expect, generate, open_tab, prompt, served, set_number

from personalq.settings import SAMPLE_REPO

Open = Callable[..., Any]
LORA = SAMPLE_REPO / "concepts" / "biscuit-dog" / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the app of this module keeps the files of its visitors."""
    return tmp_path_factory.mktemp("visitors")


@pytest.fixture(scope="module")
def url(serve: Apps, temporary: Path) -> str:
    """An app that keeps a session for an hour after its tab was closed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TMPDIR", str(temporary))
        return serve()


def add_concept(page: Any, trigger: str) -> None:
    open_tab(page, "My concepts")
    page.locator("#own-file input[type=file]").set_input_files(LORA)
    page.locator("#own-trigger").get_by_role("textbox").fill(trigger)
    page.get_by_label("What it is").fill("dog")
    page.locator("#own-base input").fill("tiny-sd")
    page.get_by_label("I may use these weights").check()
    page.get_by_role("button", name="Add the concept").click()
    expect(page.locator("#own-list li")).to_have_count(1)
    open_tab(page, "Draw")


def call(page: Any, url: str, name: str, *values: Any) -> tuple[str, Any]:
    """How a call of the API with this browser's cookies ended, and with what."""
    asked = page.request.post(f"{url}/gradio_api/call/{name}", data={"data": list(values)}).json()
    lines = page.request.get(f"{url}/gradio_api/call/{name}/{asked['event_id']}").text().strip().splitlines()
    return lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))


def files(folder: Path, pattern: str) -> list[Path]:
    """Of all visitors."""
    return sorted(folder.glob(f"personalq-*/*/{pattern}"))


def test_a_concept_is_its_owners_alone(url: str, temporary: Path, open_page: Open) -> None:
    owner, other = open_page(url), open_page(url)
    add_concept(owner, "wffl dog")
    owner.get_by_label("Your request").fill("wffl dog on the beach")
    owner.keyboard.press("Enter")
    expect(owner.locator("#cands .pq-card").first).to_contain_text("wffl dog")
    (kept,) = files(temporary, "own/*.safetensors")

    other.get_by_label("Your request").fill("wffl dog on the beach")
    other.keyboard.press("Enter")
    other.locator("#cands .pq-card").first.wait_for()
    for part in ("#cands", "#shelf", "#own-list", "#chat [data-testid=bot]"):
        assert "wffl" not in " ".join(other.locator(part).all_inner_texts())
    how, found = call(other, url, "search_concepts", "wffl dog", 20)
    assert how == "complete" and kept.stem not in str(found) and "wffl" not in str(found)
    how, asked = call(other, url, "clarify", "wffl dog on the beach", kept.stem)
    assert kept.stem not in json.dumps(asked) or how == "error"
    for name, values in (
        ("rewrite_prompt", ("a dog", kept.stem)),
        ("compare_images", ("wffl dog", kept.stem, 0, 1, 4)),
    ):
        assert call(other, url, name, *values)[0] == "error"
    assert other.request.get(f"{url}/gradio_api/file={kept}").status == 403
    assert owner.request.get(f"{url}/gradio_api/file={kept}").status == 403


def test_two_at_once_wait_for_each_other_and_get_their_own(url: str, temporary: Path, open_page: Open) -> None:
    pages = {"lunacat": open_page(url), "clvr": open_page(url)}
    for page, name in zip(pages.values(), ("Luna", "Clover"), strict=True):
        choose(page, name)
    first, second = pages.values()
    begin(first)
    set_number(second, "steps", 2)
    second.get_by_role("button", name="Generate both").click()
    expect(second.locator("#progress .progress-text")).to_contain_text(re.compile(r"queue: 1/1"))
    expect(second.locator("#progress")).to_contain_text("Waiting for its turn")
    place = second.locator("#progress .progress-text").bounding_box()
    assert place and second.locator("#progress .wrap").evaluate("part => getComputedStyle(part).overflow") == "visible"
    second.get_by_role("button", name="Stop").click()
    expect(second.locator("#progress")).to_contain_text("Stopped")
    expect(second.locator("#stop")).to_be_hidden()
    second.get_by_role("button", name="Generate both").click()
    first.get_by_role("button", name="Stop").click()
    expect(first.locator("#go")).to_be_enabled()
    generate(first, steps=2)
    made = {}
    for word, page in pages.items():
        expect(page.locator("#progress")).to_contain_text("Both pictures from seed")
        assert word in prompt(page)
        made[word] = {part: served(page, part) for part in ("picture-a", "picture-b")}
        assert all(word.encode() in png for png in made[word].values())
    assert len({png for pair in made.values() for png in pair.values()}) == 4
    addresses = first.locator("#pictures img").evaluate_all("all => all.map((one) => one.src)")
    assert [one for one in addresses if one in second.content()] == []
    for page, word, foreign in ((first, "lunacat", "clvr"), (second, "clvr", "lunacat")):
        open_tab(page, "History")
        expect(page.locator("#history li")).to_have_count(1)
        expect(page.locator("#history")).to_contain_text(word)
        assert foreign not in page.locator("#history").inner_text()


def test_a_closed_tab_stops_its_picture(url: str, temporary: Path, open_page: Open) -> None:
    gone, next_one = open_page(url), open_page(url)
    choose(gone, "Luna")
    choose(next_one, "Clover")
    before = {*files(temporary, "runs/*")}
    begin(gone)
    (run,) = {*files(temporary, "runs/*")} - before
    gone.close()
    generate(next_one, steps=2)
    assert sorted(run.glob("*")) == [], "the first picture was finished: nobody stopped it"
    expect_idle(next_one, url)


def expect_idle(page: Any, url: str) -> None:
    assert call(page, url, "vram_report")[1][0]["busy"] is False


def test_nothing_outside_is_served(url: str, temporary: Path, open_page: Open) -> None:
    page = open_page(url)
    choose(page, "Luna")
    generate(page, steps=1)
    outside = [
        *(Path(name) for name in ("/etc/passwd", "app.py", "personalq/ui/layout.py", ".git/config")),
        Path("app.py").absolute(),
        LORA,
        *files(temporary, "runs/*/*.png"),
        next(temporary.glob("personalq-*")),
        temporary / "gradio",
    ]
    assert len(outside) > 8
    statuses = {str(path): page.request.get(f"{url}/gradio_api/file={path}").status for path in outside}
    assert {path: status for path, status in statuses.items() if status not in (403, 404)} == {}
    assert statuses["/etc/passwd"] == statuses[str(LORA)] == statuses[str(outside[6])] == 403


@pytest.fixture()
def forgetful(serve: Apps, tmp_path: Path) -> Iterator[str]:
    """An app that keeps a session for one second after its tab was closed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TMPDIR", str(tmp_path))
        environment.setenv("GRADIO_IS_E2E_TEST", "1")
        url = serve()
    yield url
    serve.stop(url)


def test_what_a_visitor_leaves_behind_goes(forgetful: str, tmp_path: Path, open_page: Open) -> None:
    leaver, stayer = open_page(forgetful), open_page(forgetful)
    for page in (leaver, stayer):
        add_concept(page, "wffl dog")
        choose(page, "Luna")
        generate(page, steps=1)
    visitors = {path.parent for path in files(tmp_path, "own")}
    assert len(visitors) == 2 == len(files(tmp_path, "runs/*"))
    leaver.close()
    while len({path for path in visitors if path.exists()}) > 1:
        stayer.wait_for_timeout(100)
    assert len(files(tmp_path, "own/*.safetensors")) == len(files(tmp_path, "runs/*")) == 1
    generate(stayer, steps=1)
    open_tab(stayer, "My concepts")
    expect(stayer.locator("#own-list li")).to_have_count(1)
