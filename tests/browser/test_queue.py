"""Twenty callers at once: each waits for its turn, and all are served."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CROWD = 20


def compare(url: str, seed: int) -> list[Any]:
    """Both pictures and their facts, over plain HTTP."""
    address = f"{url}/gradio_api/call/compare_images"
    body = json.dumps({"data": ["lunacat cat on the beach", "luna-cat", seed, 2, 4]}).encode()
    asked = urllib.request.Request(address, body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}", timeout=600) as answer:
        *_, how, data = answer.read().decode().strip().splitlines()
    assert how == "event: complete", data
    return list(json.loads(data.removeprefix("data: ")))


def picture(file: dict[str, Any]) -> bytes:
    with urllib.request.urlopen(file["url"], timeout=60) as answer:
        return bytes(answer.read())


def test_twenty_at_once_are_all_served(app_url: str) -> None:
    with ThreadPoolExecutor(CROWD) as crowd:
        results = list(crowd.map(lambda seed: compare(app_url, seed), range(CROWD)))
    assert [facts["seed"] for _, _, facts in results] == [*range(CROWD)]
    pictures = {picture(file) for one in results for file in one[:2]}
    assert len(pictures) == 2 * CROWD
