"""How every benchmark reports: the device it ran on, a table for people, one JSON object for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch

from personalq.backend.memory import device_name


def device_line(device: torch.device) -> str:
    """The device in words, with the processor, the threads used and the versions that matter."""
    where = device_name(device)
    if device.type == "cpu":
        where = f"{where} ({_processor()}, {torch.get_num_threads()} threads)"
    return f"{where}, torch {torch.__version__}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - a device file, read line by line
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def table(rows: Sequence[dict[str, object]]) -> str:
    """The rows as a GitHub table; floats with three decimals, whole numbers with thousands separators."""
    if not rows:
        return ""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in head) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
