"""The Spacefile: how the project is deployed, written once. This module reads and checks it; it asks nobody anything.

Its layout is that of Deta Space; the section `huggingface` is what a Hugging Face Space is made from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from personalq.deploy import front_matter
from personalq.deploy.requirements import pinned
from personalq.errors import DeployError

MOST_BYTES = 64 * 1024
REPO = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16})")
SECTIONS = ("v", "icon", "micros", "huggingface")
HUGGINGFACE = ("repo", "hardware", "front_matter", "variables", "secrets", "volumes")
MICRO = ("name", "src", "engine", "primary", "run", "presets")
VOLUME = ("type", "source", "mount_path", "revision", "read_only", "path")
VOLUME_TYPES = ("bucket", "model", "dataset", "space")


@dataclass(frozen=True)
class Spacefile:
    """What a Hugging Face Space is made from, checked."""

    repo: str
    """OWNER/NAME; the word OWNER is nobody's."""
    hardware: str
    front_matter: Mapping[str, Any]
    variables: Mapping[str, str]
    """Public environment variables."""
    secrets: tuple[str, ...] = ()
    """Names of environment variables whose values the Space keeps; never values."""
    volumes: tuple[Mapping[str, Any], ...] = ()
    """Each as huggingface_hub.Volume takes it."""


def read_spacefile(root: Path) -> Spacefile:
    """The Spacefile of the project at `root`. Raises DeployError with a line for everything that must be changed."""
    text = text_of(root / "Spacefile")
    document = _document(text)
    hub = document.get("huggingface")
    hub = hub if isinstance(hub, dict) else {}
    front = hub.get("front_matter")
    front = front if isinstance(front, dict) else {}
    gradio = pinned(text_of(root / "requirements.txt"), "gradio")
    found = [f"It has an unknown section {key!r}: remove it." for key in document if key not in SECTIONS]
    found += _outer(document, root) + _secrets(document, hub) + _hub(hub) + _volumes(hub.get("volumes"))
    found += front_matter.problems(front, root, gradio)
    if TOKEN.search(text):
        found.append("It holds what looks like an access token: take it out, and revoke it if anybody saw the file.")
    if found:
        raise DeployError("The Spacefile cannot be used.\n" + "\n".join(found))
    return Spacefile(
        hub["repo"],
        hub["hardware"],
        front,
        dict(hub.get("variables") or {}),
        tuple(hub.get("secrets") or ()),
        tuple(hub.get("volumes") or ()),
    )


def known_hardware(name: str) -> str:
    """`name`, where Hugging Face has such hardware. Raises DeployError."""
    if name not in front_matter.HARDWARE:
        raise DeployError(f"There is no hardware {name!r}: choose one of {', '.join(front_matter.HARDWARE)}.")
    return name


def known_repo(name: str) -> str:
    """`name`, where it may be a Space's. Raises DeployError."""
    if not REPO.fullmatch(name) or name.startswith("OWNER/"):
        raise DeployError(f"{name!r} is nobody's Space: pass --repo OWNER/NAME with your user or organisation's name.")
    return name


def text_of(path: Path) -> str:
    """A small text file of the project. Raises DeployError."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise DeployError(f"{path.name} is larger than {MOST_BYTES} bytes: shorten it.")
        return data.decode("utf-8")
    except OSError as error:
        raise DeployError(f"{path} cannot be read ({error.strerror}): run this in the project's folder.") from error
    except UnicodeDecodeError as error:
        raise DeployError(f"{path.name} is not UTF-8 text (byte {error.start}): save it again as UTF-8.") from error


def _document(text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        at = getattr(error, "problem_mark", None)
        where = f"line {at.line + 1}" if at else "somewhere"
        raise DeployError(f"The Spacefile is not YAML ({where}): repair it.") from error
    except (RecursionError, ValueError) as error:
        raise DeployError("The Spacefile is nested too deep or holds an impossible date: repair it.") from error
    if not isinstance(value, dict):
        raise DeployError(f"The Spacefile must hold {', '.join(SECTIONS)}.")
    return value


def _outer(document: dict[str, Any], root: Path) -> list[str]:
    """What is wrong outside the section of Hugging Face."""
    found, icon, micros = [], document.get("icon"), document.get("micros")
    if document.get("v") != 0 or isinstance(document.get("v"), bool):
        found.append("v must be 0, the version of the layout.")
    if not isinstance(icon, str) or not front_matter.inside(root, icon):
        found.append(f"icon {icon!r} is no file of the project: name its picture.")
    if not isinstance(micros, list) or not micros or not all(isinstance(one, dict) for one in micros):
        return [*found, "micros must list at least one program, with name, src, engine and run."]
    for micro in micros:
        found += [f"A micro has an unknown key {key!r}: remove it." for key in micro if key not in MICRO]
        needed = [key for key in ("name", "src", "engine", "run") if not isinstance(micro.get(key), str)]
        found += [f"A micro needs {key}, as text." for key in needed]
        if isinstance(micro.get("src"), str) and not (root / micro["src"]).is_dir():
            found.append(f"The micro's src {micro['src']!r} is no folder of the project.")
    if sum(micro.get("primary") is True for micro in micros) != 1:
        found.append("Exactly one micro must be primary: true.")
    return found


def _secrets(document: dict[str, Any], hub: dict[str, Any]) -> list[str]:
    """What looks like a secret's value. No line repeats it."""
    found, names = [], hub.get("secrets") or []
    if not isinstance(names, list) or not all(isinstance(one, str) and VARIABLE.fullmatch(one) for one in names):
        found.append("secrets must list names alone, such as [HF_TOKEN]: their values are read from the environment.")
        names = []
    variables = hub.get("variables") or {}
    both = [name for name in names if isinstance(variables, dict) and name in variables]
    found += [
        f"{name} is among the secrets and the variables, which are public: take it out of variables." for name in both
    ]
    for name, default in _presets(document):
        if default and (name in names or re.search("TOKEN|SECRET|PASSWORD|KEY", name.upper())):
            found.append(f"The preset {name} has a value: leave its default empty, secrets do not belong in the file.")
    return found


def _presets(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and default of every environment variable that the micros name."""
    pairs = []
    for micro in document.get("micros") or [] if isinstance(document.get("micros"), list) else []:
        presets = micro.get("presets") if isinstance(micro, dict) else None
        rows = presets.get("env") if isinstance(presets, dict) else None
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict):
                pairs.append((str(row.get("name", "")), str(row.get("default") or "")))
    return pairs


def _hub(hub: dict[str, Any]) -> list[str]:
    """What is wrong in the section of Hugging Face, but for its front matter, secrets and volumes."""
    found = [f"huggingface has an unknown key {key!r}: remove it." for key in hub if key not in HUGGINGFACE]
    if not isinstance(hub.get("repo"), str) or not REPO.fullmatch(hub["repo"]):
        found.append("huggingface: repo must be OWNER/NAME.")
    if hub.get("hardware") not in front_matter.HARDWARE:
        found.append(f"huggingface: hardware must be one of {', '.join(front_matter.HARDWARE)}.")
    if not isinstance(hub.get("front_matter"), dict):
        found.append("huggingface needs front_matter.")
    variables = hub.get("variables") or {}
    if not isinstance(variables, dict) or not all(
        isinstance(key, str) and VARIABLE.fullmatch(key) and isinstance(value, str) for key, value in variables.items()
    ):
        found.append("huggingface: variables must give names and texts; put numbers in quotes.")
    return found


def _volumes(volumes: Any) -> list[str]:
    if volumes is not None and (not isinstance(volumes, list) or not all(isinstance(one, dict) for one in volumes)):
        return [f"huggingface: volumes must be a list, each with {', '.join(VOLUME[:3])}."]
    found = []
    for one in volumes or []:
        found += [f"A volume has an unknown key {key!r}: remove it." for key in one if key not in VOLUME]
        if one.get("type") not in VOLUME_TYPES:
            found.append(f"A volume's type must be one of {', '.join(VOLUME_TYPES)}.")
        if not isinstance(one.get("source"), str) or not REPO.fullmatch(one["source"]):
            found.append("A volume's source must be OWNER/NAME.")
        if not isinstance(one.get("mount_path"), str) or not re.fullmatch(r"/[^/].*", one["mount_path"]):
            found.append("A volume's mount_path must be a folder such as /data.")
    return found
