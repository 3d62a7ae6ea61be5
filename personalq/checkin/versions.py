"""The version of a model that a request means. It knows the versions of one model, no scores."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from personalq.checkin.bases import fits
from personalq.checkin.profile import spaced
from personalq.checkin.rerank.features import date_fit, has_version
from personalq.checkin.retrieve import Index
from personalq.checkin.words import SLIP, content_words, likeness, words
from personalq.records import Checkpoint, Intent

_VARIANT = re.compile(
    r"\b(?:version|variant|build|edition|the one) (?:with|without|that|where|for|in|of)\b", re.IGNORECASE
)
"""Says that words of the request describe a version rather than the picture."""


@dataclass(frozen=True)
class Meant:
    """The versions that a request leaves open, oldest first; none when the one it states does not exist."""

    open: tuple[Checkpoint, ...]
    remark: str


def meant(index: Index, intent: Intent, group: str, loaded: str | None, described: bool = False) -> Meant:
    """What a request says of the versions of a model: a number, a date, a kind, a base or words of its own.

    With `described`, words that only some versions' descriptions say count in any case, else only where the request
    speaks of "the version with ...".
    """
    members = list(index.members(group))
    pool = [member for member in members if fits(member.base, loaded) is not False] or members
    pool = _prefer(pool, lambda member: member.role != "utility" and member.loadable)
    pool = _prefer(pool, lambda member: fits(member.base, intent.base) is True)
    pool = _prefer(pool, lambda member: intent.kind is None or member.kind == intent.kind)
    pool = _prefer(pool, lambda member: _inside(intent, member))
    if intent.version not in (None, "first", "newest") and any(_numbered(member) for member in members):
        pool = [member for member in pool if has_version(member, str(intent.version))]
        if not pool:
            known = ", ".join(dict.fromkeys(member.version for member in members if member.version)) or "unnamed"
            return Meant((), f"There is no version {intent.version} of {members[0].name}; there is {known}.")
    if intent.time_range and all(date_fit(intent, member) <= -1 for member in pool):
        return Meant((), f"No version of {members[0].name} is from {intent.time_range[0]} to {intent.time_range[1]}.")
    within, asked = spaced(intent.text), content_words(intent.text)
    shared = set.intersection(*(set(words(member.version or "")) for member in pool))
    pool = _prefer(pool, lambda member: bool((set(words(member.version or "")) - shared - {"v"}) & set(asked)))
    pool = _prefer(
        pool, lambda member: any(spaced(trigger) in within for trigger in member.triggers if spaced(trigger))
    )
    if described or _VARIANT.search(intent.text):
        pool = _best_described(pool, asked)
    pool.sort(key=_age)
    if intent.version in ("first", "newest"):
        pool = pool[:1] if intent.version == "first" else pool[-1:]
    return Meant(tuple(pool), _remark(pool, intent, len(members)))


def resolve(index: Index, intent: Intent, group: str, loaded: str | None) -> tuple[Checkpoint | None, str]:
    """The newest of the versions meant, and a remark on it; None when the version stated does not exist."""
    found = meant(index, intent, group, loaded)
    return (found.open[-1] if found.open else None), found.remark


def _best_described(pool: list[Checkpoint], asked: list[str]) -> list[Checkpoint]:
    """Those whose descriptions say most of the words, and of the pairs of words, that not all of them say."""
    told: dict[str, set[str]] = {member.id: _said(member.description) for member in pool}
    known = set[str]().union(*told.values())
    telling = _said(" ".join(_spelt(word, known) for word in asked)) - set[str].intersection(*told.values())
    most = max(len(said & telling) for said in told.values())
    return [member for member in pool if len(told[member.id] & telling) == most]


def _said(text: str) -> set[str]:
    """The words of a text and its pairs of neighbours ("studio light")."""
    found = content_words(text)
    return {*found, *(f"{first} {second}" for first, second in pairwise(found))}


def _spelt(word: str, known: set[str]) -> str:
    """A word as the descriptions spell it, where one slip of the fingers is all that is between them."""
    if word in known:
        return word
    return next((other for other in known if " " not in other and likeness(word, other) == SLIP), word)


def _prefer(pool: list[Checkpoint], wanted: Callable[[Checkpoint], bool]) -> list[Checkpoint]:
    return [member for member in pool if wanted(member)] or pool


def _numbered(member: Checkpoint) -> bool:
    return member.version_ordinal is not None or bool(member.version)


def _age(member: Checkpoint) -> tuple[float, str, str]:
    ordinal = member.version_ordinal if member.version_ordinal is not None else -1.0
    return ordinal, member.created_at or "", member.id


def _inside(intent: Intent, member: Checkpoint) -> bool:
    if intent.time_range is None or not member.created_at:
        return False
    return intent.time_range[0] <= member.created_at[:10] <= intent.time_range[1]


def _remark(open_: list[Checkpoint], intent: Intent, versions: int) -> str:
    if versions < 2:
        return ""
    label = open_[-1].version or "the version of " + (open_[-1].created_at or "unknown date")
    if intent.version == "first":
        return f"{label} is its first version."
    if len(open_) > 1 or intent.version == "newest":
        return f"{label} is the newest of its {versions} versions."
    return f"{label} is the version asked for."
