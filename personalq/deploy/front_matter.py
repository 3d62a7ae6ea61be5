"""The YAML block at the top of the README that Hugging Face reads a Space's configuration from.

It knows what is documented of its keys, and nothing of the Hub's API: what is wrong is found before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import SpaceHardware

from personalq.errors import DeployError

COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
PYTHONS = ("3.11", "3.12")
HARDWARE = tuple(str(one.value) for one in SpaceHardware)
HEADERS = ("cross-origin-embedder-policy", "cross-origin-opener-policy", "cross-origin-resource-policy")
SHORT = 60
OPEN = re.compile(rb"---\r?\n")
BLOCK = re.compile(rb"\A---\r?\n(.*?\r?\n)??---[ \t]*(\r?\n|\Z)", re.DOTALL)


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value.strip() else "must be text"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _names(value: Any) -> str:
    fine = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
    return "" if fine else "must be a list of texts"


def _one_of(*allowed: str) -> Callable[[Any], str]:
    return lambda value: "" if value in allowed else f"must be one of {', '.join(allowed)}"


def _emoji(value: Any) -> str:
    fine = isinstance(value, str) and 0 < len(value) <= 10 and not any(c.isascii() or c.isalpha() for c in value)
    return "" if fine else "must be one emoji"


def _short(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        return "must be text"
    return "" if len(value) <= SHORT else f"has {len(value)} characters: shorten it to {SHORT}, or the Hub refuses it"


def _python(value: Any) -> str:
    if isinstance(value, float | int):
        return "must be quoted: without quotes YAML reads a number, and 3.10 becomes 3.1"
    return "" if value in PYTHONS else f"must be one of {', '.join(PYTHONS)}: the project needs 3.11, ZeroGPU has 3.12"


def _span(value: Any) -> str:
    fine = isinstance(value, str) and re.fullmatch(r"\d+ ?(s|m|h|d)", value)
    return "" if fine else "must be a time such as 30m or 1h"


def _minutes(value: Any) -> str:
    fine = type(value) is int and 0 < value <= 43200
    return "" if fine else "must be a number of minutes up to 43200"


def _orgs(value: Any) -> str:
    return "" if not _text(value) else _names(value)


def _path(value: Any) -> str:
    return "" if isinstance(value, str) and value.startswith("/") else "must begin with /"


def _headers(value: Any) -> str:
    fine = isinstance(value, dict) and all(
        key in HEADERS and isinstance(one, str) and one == one.lower() for key, one in value.items()
    )
    return "" if fine else f"may hold only {', '.join(HEADERS)}, with lower-case values"


KEYS: Mapping[str, Callable[[Any], str]] = {
    "title": _text,
    "emoji": _emoji,
    "colorFrom": _one_of(*COLOURS),
    "colorTo": _one_of(*COLOURS),
    "sdk": _one_of("gradio"),
    "sdk_version": _text,
    "python_version": _python,
    "app_file": _text,
    "short_description": _short,
    "suggested_hardware": _one_of(*HARDWARE),
    "suggested_storage": _one_of("small", "medium", "large"),
    "base_path": _path,
    "fullWidth": _flag,
    "header": _one_of("mini", "default"),
    "models": _names,
    "datasets": _names,
    "tags": _names,
    "thumbnail": _text,
    "license": _text,
    "pinned": _flag,
    "preload_from_hub": _names,
    "startup_duration_timeout": _span,
    "hf_oauth": _flag,
    "hf_oauth_scopes": _names,
    "hf_oauth_expiration_minutes": _minutes,
    "hf_oauth_redirect_path": _path,
    "hf_oauth_authorized_org": _orgs,
    "disable_embedding": _flag,
    "custom_headers": _headers,
}
"""What Hugging Face documents for a Gradio Space, each with what is wrong with a value, "" for nothing."""
NEEDED = ("title", "sdk", "sdk_version", "python_version", "app_file")


def problems(front: Mapping[str, Any], root: Path, gradio: str) -> list[str]:
    """What must be changed in the front matter of the project at `root`, which pins `gradio`; nothing if empty."""
    found = [f"front_matter needs {key}." for key in NEEDED if key not in front]
    for key, value in front.items():
        if key == "hardware":
            found.append(
                "front_matter has hardware, which is ignored there: write it one level up, or suggested_hardware."
            )
        elif key not in KEYS:
            found.append(f"front_matter has {key!r}, which Hugging Face does not document for Gradio: remove it.")
        elif wrong := KEYS[key](value):
            found.append(f"front_matter: {key} {wrong}.")
    version, app_file = front.get("sdk_version"), front.get("app_file")
    if isinstance(version, str) and version != gradio:
        found.append(
            f"front_matter: sdk_version is {version}, but requirements.txt pins gradio {gradio}: make them equal."
        )
    if isinstance(app_file, str) and not inside(root, app_file):
        found.append(f"front_matter: app_file {app_file!r} is no file of the project.")
    return found


def inside(root: Path, name: str) -> bool:
    """Whether `name` is a file of the folder `root`, and not one that a link or ".." reaches outside it."""
    try:
        path = (root / name).resolve()
        return path.is_file() and path.is_relative_to(root.resolve())
    except (OSError, ValueError):
        return False


def block(front: Mapping[str, Any]) -> bytes:
    """The README's front matter as it should stand there, its fences included."""
    text = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n".encode()


def split(readme: bytes) -> tuple[bytes, bytes]:
    """The README's front matter, empty when it has none, and the rest. Raises DeployError when it does not end."""
    if not OPEN.match(readme):
        return b"", readme
    found = BLOCK.match(readme)
    if not found:
        raise DeployError("README.md begins with --- and has no second one: end its front matter, or remove the line.")
    return readme[: found.end()], readme[found.end() :]


def difference(readme: bytes, front: Mapping[str, Any]) -> str:
    """In words how the README's front matter differs from what it should be; "" when it does not."""
    there = split(readme)[0]
    if there == block(front):
        return ""
    if not there:
        return "README.md has no front matter"
    try:
        values = yaml.safe_load(there.decode().strip().strip("-"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        values = None
    if not isinstance(values, dict):
        return "README.md's front matter is not YAML"
    keys = [str(key) for key in {**values, **front} if values.get(key) != front.get(key)]
    return (
        f"README.md's front matter differs in {', '.join(keys)}"
        if keys
        else "README.md's front matter is laid out otherwise"
    )
