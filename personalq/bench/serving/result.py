"""The app as its visitors find it: one running app, its page, a crowd, and a long day. It prints nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from personalq.bench.report import device_line
from personalq.bench.serving import load, page
from personalq.bench.serving.running import app


def serving(
    flags: Sequence[str], users: int, pairs: int, steps: int, chromium: Path | None, tell: load.Told
) -> dict[str, Any]:
    """Everything measured on one app with `flags`: its start with a cold and a warm index, its page, crowd and memory.

    `pairs` are made one after the other at 4 steps to see whether memory grows. Without `chromium` the page's own times
    are left out. Raises BenchError.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"device": device_line(device)}
    with TemporaryDirectory() as folder:
        with app(flags, Path(folder)) as fresh:
            result["cold_index"] = {"page_s": fresh.seconds_to_page, "ready_s": load.ready(fresh)}
        with app(flags, Path(folder)) as running:
            result["warm_index"] = {"page_s": running.seconds_to_page, "ready_s": load.ready(running)}
            if chromium:
                result["page"] = page.page(running, chromium, steps)
            result["questions_ms"] = load.questions(running, 100)
            result["crowd"] = load.crowd(running, users, steps)
            result["endurance"] = load.endurance(running, pairs, 4, max(1, pairs // 10), tell)
    return result


def as_text(result: dict[str, Any]) -> str:
    """The result in lines."""
    crowd, endurance = result["crowd"], result["endurance"]
    lines = [f"device: {result['device']}"]
    for name in ("cold_index", "warm_index"):
        times = result[name]
        lines.append(f"{name.replace('_', ' ')}: page {times['page_s']:.1f} s, model ready {times['ready_s']:.1f} s")
    lines += [f"{name.removesuffix('_s')}: {seconds:.2f} s" for name, seconds in result.get("page", {}).items()]
    asked = result["questions_ms"]
    lines.append(f"request to decision: p50 {asked['p50']:.0f} ms, p95 {asked['p95']:.0f} ms")
    lines.append(
        f"{crowd['users']} users at once: {crowd['served']} served, first after {crowd['first_s']:.1f} s, last after "
        f"{crowd['last_s']:.1f} s, {crowd['pictures_per_minute']:.0f} pictures a minute at {crowd['steps']} steps"
    )
    sizes = [f"{i}: {size / 2**20:.0f} MiB" for i, size in endurance["resident"] if size is not None]
    growth = endurance["bytes_per_pair"]
    lines.append(f"resident memory after so many pairs: {', '.join(sizes)}")
    if growth is not None:
        lines.append(f"growth: {growth / 1024:.1f} KiB a pair")
    return "\n".join(lines)
