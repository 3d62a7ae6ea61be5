"""The calls of the Hub that make a Space, in order, as data: the same list is shown and made. It calls nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import Volume

from personalq.deploy.files import KEEP, LEAVE, chosen
from personalq.deploy.requirements import space_requirements
from personalq.deploy.spacefile import Spacefile, known_hardware, known_repo, text_of
from personalq.deploy.write import checked

FREE = "cpu-basic"
WAIT = 1800
"""Seconds: as long as Hugging Face lets a Space take to start."""
MESSAGE = "Deploy PersonalQ"


@dataclass(frozen=True)
class Call:
    """One method of huggingface_hub.HfApi and its arguments."""

    method: str
    arguments: Mapping[str, Any]
    secret: str | None = None
    """The environment variable whose value is the argument `value`; it is read when the call is made."""

    def shown(self) -> str:
        """The call as a line, secrets as names only."""
        words = [f"{key}={_short(value)}" for key, value in self.arguments.items()]
        words += [f"value=<{self.secret} of the environment>"] if self.secret else []
        return f"{self.method}({', '.join(words)})"


@dataclass(frozen=True)
class Plan:
    """Everything that a push does."""

    repo: str
    hardware: str
    calls: tuple[Call, ...]
    files: int
    bytes: int
    large: tuple[str, ...]
    """Files that go to LFS or Xet storage, which upload_folder does by itself."""
    unset: tuple[str, ...]
    """Secrets that the environment does not have; the Space keeps what it has."""


def planned(
    root: Path,
    environment: Mapping[str, str],
    repo: str | None = None,
    hardware: str | None = None,
    private: bool = False,
) -> Plan:
    """What deploys the project at `root`. Raises DeployError, also where the README differs from the Spacefile."""
    space = checked(root)
    repo, hardware = known_repo(repo or space.repo), known_hardware(hardware or space.hardware)
    upload = chosen(root, space.front_matter["app_file"])
    requirements = space_requirements(text_of(root / "requirements.txt"), hardware)
    calls = [
        *_made(repo, hardware, private),
        *_configured(space, repo, environment),
        *_filled(root, space, repo, requirements),
        Call("request_space_hardware", {"repo_id": repo, "hardware": hardware}),
        Call("wait_for_space", {"repo_id": repo, "timeout": WAIT}),
    ]
    unset = tuple(name for name in space.secrets if not _source(name, environment))
    return Plan(repo, hardware, tuple(calls), len(upload.files) + 1, upload.bytes, upload.large, unset)


def _made(repo: str, hardware: str, private: bool) -> list[Call]:
    """A new Space is asked for on its paid hardware at once: on the free one it would need a subscription."""
    arguments: dict[str, Any] = {"repo_id": repo, "repo_type": "space", "space_sdk": "gradio", "exist_ok": True}
    if private:
        arguments["private"] = True
    if hardware != FREE:
        arguments["space_hardware"] = hardware
    return [Call("create_repo", arguments), Call("space_info", {"repo_id": repo})]


def _configured(space: Spacefile, repo: str, environment: Mapping[str, str]) -> list[Call]:
    """Before the files, so that the first start has them. `create_repo` would set them for a new Space only."""
    calls = []
    if space.volumes:
        calls.append(Call("set_space_volumes", {"repo_id": repo, "volumes": [Volume(**one) for one in space.volumes]}))
    for key, value in space.variables.items():
        calls.append(Call("add_space_variable", {"repo_id": repo, "key": key, "value": value}))
    for key in space.secrets:
        if source := _source(key, environment):
            calls.append(Call("add_space_secret", {"repo_id": repo, "key": key}, secret=source))
    return calls


def _source(secret: str, environment: Mapping[str, str]) -> str | None:
    """The variable that gives a secret's value: its name after SPACE_, so that the Space's token may be another."""
    return next((name for name in (f"SPACE_{secret}", secret) if environment.get(name)), None)


def _filled(root: Path, space: Spacefile, repo: str, requirements: str) -> list[Call]:
    """The Space's requirements, then the project: the app must not start with another's requirements."""
    there = {"repo_id": repo, "repo_type": "space", "commit_message": MESSAGE}
    own = {"path_or_fileobj": requirements.encode(), "path_in_repo": "requirements.txt"}
    patterns = {"allow_patterns": [*KEEP, space.front_matter["app_file"]], "ignore_patterns": list(LEAVE)}
    return [Call("upload_file", own | there), Call("upload_folder", {"folder_path": str(root), **patterns, **there})]


def _short(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)
