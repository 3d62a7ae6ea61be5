"""Names and descriptions from files stay text: nothing is requested, no script runs, no picture appears."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
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
    sync_api.expect(page.locator("#shelf .pq-card")).to_have_count(len(TEXTS))
    assert IMG[:4] in page.locator("#shelf").inner_text()
    page.get_by_label("Your request").fill(f"my dog {' '.join(TEXTS)}")
    page.keyboard.press("Enter")
    page.locator("#cands .pq-card").first.wait_for()
    page.locator("#cands .pq-card").first.click()
    page.locator("#prompt").wait_for()
    page.wait_for_timeout(500)
    assert page.locator("#chat img, #cands img, #shelf img, #status img, #prompt img").count() == 0
    assert page.locator("#chat a, #cands a").count() == 0
    assert "evil.example" in page.locator("#chat").inner_text()


def test_without_a_base_model_generating_says_what_to_pass(url: str, open_page: Callable[..., Any]) -> None:
    page = open_page(url)
    sync_api.expect(page.locator("#status")).to_contain_text("--base")
    page.locator("#shelf .pq-card").first.click()
    page.get_by_role("button", name="Generate both").click()
    sync_api.expect(page.locator(".toast-wrap")).to_contain_text("--base")
    sync_api.expect(page.locator("#chat")).to_contain_text("--base")
    sync_api.expect(page.get_by_role("button", name="Generate both")).to_be_enabled()
