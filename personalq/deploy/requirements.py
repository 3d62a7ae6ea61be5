"""The requirements that a Space installs, made from the project's own. It installs nothing and asks nobody."""

from __future__ import annotations

import re

from personalq.errors import DeployError

END = "# The tests and checks"
BY_SDK = ("gradio", "spaces", "huggingface-hub")
WITH_MCP = ("mcp>=1.21.0,<2.0.0", "pydantic>=2.11.10,<=2.12.5")
"""What gradio[mcp] adds to gradio; the Space installs gradio without a choice of extras of ours."""
ZERO = "zero-a10g"
CPU = ("cpu-basic", "cpu-upgrade")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ZERO_TORCH, CPU_TORCH = "torch>=2.8,<2.12", "torch==2.11.0"


def pinned(text: str, name: str) -> str:
    """The version that requirements.txt pins `name` to. Raises DeployError when it pins none."""
    for line in application(text):
        if _name(line) == name and "==" in line:
            return line.partition("==")[2].strip()
    raise DeployError(f"requirements.txt pins no {name}: write `{name}==` and its version above {END!r}.")


def application(text: str) -> list[str]:
    """The requirements of the application alone. Raises DeployError when its section has no end."""
    above, end, _ = text.partition(END)
    if not end:
        raise DeployError(f"requirements.txt has no line that begins with {END!r}: put it after what the app needs.")
    lines = [line.partition(" #")[0].strip() for line in above.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def space_requirements(text: str, hardware: str) -> str:
    """The Space's requirements.txt: of the application, for `hardware`. Raises DeployError."""
    kept = [line for line in application(text) if _name(line) not in BY_SDK]
    head = [
        "# Written by `python -m personalq deploy push`. The Space's SDK installs gradio, spaces and huggingface_hub;"
    ]
    head.append("# mcp and pydantic are what gradio[mcp] needs.")
    torch = next((line for line in kept if _name(line) == "torch"), "")
    if hardware == ZERO:
        head.append("# ZeroGPU has builds of torch 2.8 to 2.11 and no other.")
        torch = ZERO_TORCH
    elif hardware in CPU:
        head.append("# The CPU wheels of torch have an index of their own; those of PyPI bring CUDA along.")
        head.append(f"--extra-index-url {CPU_INDEX}")
        torch = CPU_TORCH
    rest = [line for line in kept if _name(line) != "torch"]
    return "\n".join([*head, torch, *rest, *WITH_MCP]) + "\n"


def _name(line: str) -> str:
    """The normal form of a requirement's name."""
    found = re.match(r"[A-Za-z0-9._-]+", line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
