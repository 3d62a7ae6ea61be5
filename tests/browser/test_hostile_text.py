"""Names and descriptions from files stay text: nothing is requested, no script runs, no picture appears."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from steps import ask, expect, open_tab

IMG = '<img src="http://evil.example/a.png" onerror="alert(1)">'
TEXTS = [
    IMG,
    "![x](http://evil.example/b.png)",
    "${alert(2)} {{constructor}}",
    "[go](javascript:alert(3)) `${alert(4)}`",
]


@pytest.fixture(scope="module")
def url(serve: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [
        {
            "id": f"c{i}",
            "name": f"dog {text}",
            "kind": "lora",
            "triggers": [f"zz{i} dog"],
            "description": f"A dog. {text}",
        }
        for i, text in enumerate(TEXTS)
    ]
    catalog = tmp_path_factory.mktemp("hostile") / "catalog.jsonl"
    catalog.write_text("\n".join([*map(json.dumps, rows), IMG]))
    return serve("--repo", str(catalog))


def test_hostile_text_is_shown_and_inert(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    expect(page.locator("#shelf .pq-card")).to_have_count(len(TEXTS))
    assert IMG[:4] in page.locator("#shelf").inner_text()
    ask(page, f"my dog {' '.join(TEXTS)}")
    page.locator("#cands .pq-card").first.wait_for()
    page.locator("#cands .pq-card").first.click()
    page.locator("#prompt").wait_for()
    page.wait_for_timeout(500)
    assert page.locator("#chat img, #cands img, #shelf img, #status img, #prompt img").count() == 0
    assert page.locator("#chat a, #cands a").count() == 0
    assert "evil.example" in page.locator("#chat").inner_text()


def test_a_picture_with_hostile_text_is_taken_up_as_text(
    app_url: str, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    info = PngInfo()
    settings = f"Steps: 2, Seed: 1, CFG scale: 3, Size: 64x64, Model: {IMG}, Version: 1"
    info.add_text("parameters", f"{' '.join(TEXTS)}\nNegative prompt: {IMG}\n{settings}")
    path = tmp_path / "hostile.png"
    Image.new("RGB", (64, 64)).save(path, pnginfo=info)
    page = open_page(app_url)
    open_tab(page, "History")
    page.locator("#dropped input[type=file]").set_input_files(path)
    expect(page.locator("#chat")).to_contain_text("Taken up from the picture")
    expect(page.get_by_label("Edit the prompt")).to_have_value(re.compile(re.escape(IMG)))
    page.wait_for_timeout(500)
    assert page.locator("#chat img, #chat a, #prompt img, #studio img[src*=evil]").count() == 0
    assert "evil.example" in page.locator("#prompt").inner_text()


def test_without_a_base_model_generating_says_what_to_pass(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    expect(page.locator("#status")).to_contain_text("--base")
    page.locator("#shelf .pq-card").first.click()
    page.get_by_role("button", name="Generate both").click()
    expect(page.locator(".toast-wrap")).to_contain_text("--base")
    expect(page.locator("#chat")).to_contain_text("--base")
    expect(page.get_by_role("button", name="Generate both")).to_be_enabled()
