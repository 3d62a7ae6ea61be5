"""Names of things on the Hub: what `--repo hub:...` asks for, and where a file of a checkpoint lies. It asks no Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from personalq.catalog.untrusted import UNSAFE
from personalq.errors import CatalogError

SCHEME = "hub:"
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_-])?"
REPO = re.compile(rf"(?!.*\.\.){PART}/{PART}")
USER = re.compile(rf"(?!.*\.\.){PART}")
COMMIT = re.compile(r"[0-9a-f]{40}")
PUBLIC = "hub-public:"
"""Begins the place of a file that must be fetched without the token, as anyone could."""
PLACE = re.compile(
    rf"(?P<scheme>{SCHEME}|{PUBLIC})(?P<repo>{PART}/{PART})@(?P<commit>[0-9a-f]{{40}})/(?P<path>.+)", re.DOTALL
)
MAX_PATH = 500
EXAMPLES = "hub:owner/name, hub:collection/owner/slug or hub:user/NAME"


@dataclass(frozen=True)
class HubName:
    """What was asked for: one model repository, a collection of them, or all of a user or organisation."""

    what: Literal["model", "collection", "user"]
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}" if self.what == "model" else f"{SCHEME}{self.what}/{self.name}"


@dataclass(frozen=True)
class Place:
    """One file of a repository at one commit; as text `hub:owner/name@commit/path`, or `hub-public:` and so on."""

    repo: str
    commit: str
    path: str
    public: bool = False
    """Fetched without the token, so that whoever named the repository gets nothing that only its owner may read."""

    def __str__(self) -> str:
        return f"{PUBLIC if self.public else SCHEME}{self.repo}@{self.commit}/{self.path}"


def hub_name(text: str) -> HubName | None:
    """What a `--repo` value asks of the Hub; None when it does not begin with `hub:`.

    Raises CatalogError when it does but names nothing.
    """
    if not text.startswith(SCHEME):
        return None
    rest = text.removeprefix(SCHEME)
    if rest.startswith("collection/") and REPO.fullmatch(rest.removeprefix("collection/")):
        return HubName("collection", rest.removeprefix("collection/"))
    if rest.startswith("user/") and USER.fullmatch(rest.removeprefix("user/")):
        return HubName("user", rest.removeprefix("user/"))
    if REPO.fullmatch(rest) and not rest.startswith("collection/"):
        return HubName("model", rest)
    raise CatalogError(f"{text[:200]!r} names nothing on the Hub: write {EXAMPLES}.")


def place(text: str) -> Place | None:
    """The place a record names as one of its files; None for a local path and for anything unsafe."""
    match = PLACE.fullmatch(text)
    if not match or not REPO.fullmatch(match["repo"]) or unsafe(match["path"]):
        return None
    return Place(match["repo"], match["commit"], match["path"], match["scheme"] == PUBLIC)


def unsafe(path: str) -> bool:
    """Whether a file's name in a repository could lead elsewhere or fool a reader's eyes."""
    parts = path.split("/")
    return (
        not path
        or len(path) > MAX_PATH
        or any(part in ("", ".", "..") or part != part.strip() for part in parts)
        or any(mark in path for mark in ("\\", ":", "\n", "\t"))
        or bool(UNSAFE.search(path))
    )
