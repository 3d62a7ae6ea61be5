"""Named features of a candidate for an intent. They know fields and words, not weights or decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.bases import fits
from personalq.checkin.commonness import strangeness
from personalq.checkin.intent import remaining
from personalq.checkin.nouns import SCENERY, class_of
from personalq.checkin.profile import Profile, spaced
from personalq.checkin.words import content_words, likeness, words
from personalq.records import Candidate, Checkpoint, Intent

NAMES = (
    "words",
    "grams",
    "title",
    "body",
    "subject_strong",
    "subject_anywhere",
    "all_strong",
    "all_anywhere",
    "name_share",
    "exact",
    "noun",
    "rarest",
    "strange_hit",
    "strange_miss",
    "unmet",
    "version",
    "version_words",
    "date",
    "base",
    "kind",
    "negative",
    "utility",
    "personal",
    "words_top",
    "grams_top",
    "title_top",
    "body_top",
    "subject_strong_top",
    "subject_anywhere_top",
    "all_strong_top",
    "all_anywhere_top",
    "read_cover",
    "read_back",
    "read_fit",
    "read_fit_top",
)
"""The features of a candidate, in the order of the columns."""

_MATCHES = ("words", "grams", "title", "body", "subject_strong", "subject_anywhere", "all_strong", "all_anywhere")
Matches = dict[str, tuple[float, float]]
"""Of every word of a request, how well a checkpoint's names say it, and any of its fields."""

_SCENERY_WEIGHT = 0.25
_LEAST = 0.05
_ODDS = 0.2
"""Brings log-odds to the size of the other features."""
_FEW = 4
"""Candidates up to this many have no middle to speak of; they are compared with nothing at all."""


@dataclass(frozen=True)
class Asked:
    """An intent as weighted words, worked out once for all its candidates."""

    intent: Intent
    subject: dict[str, float]
    everything: dict[str, float]
    within: str
    noun: str | None
    personal: bool

    @classmethod
    def of(cls, intent: Intent, rarity: Callable[[str], float]) -> Asked:
        """Weigh every word by its rarity in the catalogue; scenery ("beach") says little about a checkpoint."""
        text = remaining(intent)
        subject = _weighted(intent.subject, rarity)
        everything = _weighted(text, rarity)
        for word in set(everything) & SCENERY - set(subject):
            everything[word] *= _SCENERY_WEIGHT
        noun = class_of(intent.class_noun) if intent.class_noun else None
        return cls(intent, subject, everything, spaced(text), noun, " my " in spaced(text))


def table(
    asked: Asked, candidates: Sequence[Candidate], profiles: Sequence[Profile], read: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Features of every candidate, shape (candidates, len(NAMES)), each roughly in -1 to 1; 0 is neutral.

    `read` is what `Reader.read` says of the candidates, shape (candidates, 3).
    """
    matches = [{word: profile.match(word) for word in {**asked.everything, **asked.subject}} for profile in profiles]
    unmet = _unmet(asked, matches)
    rows = [
        _row(asked, candidate, profile, found, unmet)
        for candidate, profile, found in zip(candidates, profiles, matches, strict=True)
    ]
    return with_reading(np.asarray(rows, dtype=np.float64).reshape(len(candidates), len(NAMES)), read)


def with_reading(rows: NDArray[np.float64], read: NDArray[np.float64]) -> NDArray[np.float64]:
    """A copy of a feature table with what a reader said of its rows, shape (candidates, 3), and every comparison."""
    found = rows.copy()
    for column, name in enumerate(("read_cover", "read_back", "read_fit")):
        found[:, NAMES.index(name)] = read[:, column] * (_ODDS if name == "read_fit" else 1.0)
    _compare(found)
    return found


def _compare(rows: NDArray[np.float64]) -> None:
    """Set the columns that say how far a candidate stands above the middle of its table, as a share of the best."""
    for name in (*_MATCHES, "read_fit") if len(rows) else ():
        column = rows[:, NAMES.index(name)]
        middle, top = float(np.median(column)), float(column.max())
        middle = middle if len(rows) > _FEW else 0.0
        reach = max(top - middle, _LEAST)
        rows[:, NAMES.index(f"{name}_top")] = np.clip((column - middle) / reach, 0.0, 1.0)


def _row(asked: Asked, candidate: Candidate, profile: Profile, matches: Matches, unmet: float) -> list[float]:
    intent, checkpoint = asked.intent, candidate.checkpoint
    rarest = max(asked.subject, key=lambda word: asked.subject[word], default=None)
    values = {
        "words": candidate.lexical,
        "grams": candidate.grams,
        "title": candidate.dense,
        "body": candidate.body,
        "subject_strong": _cover(asked.subject, matches, 0),
        "subject_anywhere": _cover(asked.subject, matches, 1),
        "all_strong": _cover(asked.everything, matches, 0),
        "all_anywhere": _cover(asked.everything, matches, 1),
        "name_share": _name_share(asked, profile),
        "exact": _exact(asked.within, profile),
        "noun": _noun(asked.noun, profile),
        "rarest": matches[rarest][1] if rarest else 0.0,
        "strange_hit": max((matches[word][0] * strangeness(word) for word in asked.everything), default=0.0),
        "strange_miss": max(((1 - matches[word][1]) * strangeness(word) for word in asked.subject), default=0.0),
        "unmet": unmet,
        "version": version_fit(intent, checkpoint),
        "version_words": _version_words(asked, profile),
        "date": date_fit(intent, checkpoint),
        "base": _sign(fits(checkpoint.base, intent.base)),
        "kind": 0.0 if intent.kind is None else (1.0 if checkpoint.kind == intent.kind else -1.0),
        "negative": float(denied(intent, profile)),
        "utility": float(checkpoint.role == "utility"),
        "personal": float(asked.personal and checkpoint.role == "subject" and bool(profile.classes)),
    }
    return [values.get(name, 0.0) for name in NAMES]


def _unmet(asked: Asked, matches: Sequence[Matches]) -> float:
    """The strangeness of the strangest word of the subject that no candidate says."""
    return max(
        (strangeness(word) * (1 - max(found[word][1] for found in matches)) for word in asked.subject if matches),
        default=0.0,
    )


def _weighted(text: str, rarity: Callable[[str], float]) -> dict[str, float]:
    found = content_words(text) or words(text, glued=False)
    return {word: max(rarity(word), 0.1) for word in found}


def _cover(asked: dict[str, float], matches: dict[str, tuple[float, float]], field: int) -> float:
    total = sum(asked.values())
    return sum(weight * matches[word][field] for word, weight in asked.items()) / total if total else 0.0


def _name_share(asked: Asked, profile: Profile) -> float:
    """The share of the best name's words that the request says."""
    shares = [
        sum(max((likeness(part, word) for word in asked.everything), default=0.0) for part in name) / len(name)
        for name in profile.names
    ]
    return max(shares, default=0.0)


def _exact(within: str, profile: Profile) -> float:
    """1 when a name or trigger of several words or letters stands whole in the request, less for a short one."""
    hits = [phrase for phrase in profile.phrases if len(phrase) > 4 and phrase in within]
    return max((min(1.0, (len(phrase) - 2) / 10) for phrase in hits), default=0.0)


def _noun(noun: str | None, profile: Profile) -> float:
    if noun is None or not profile.classes:
        return 0.0
    return 1.0 if noun in profile.classes else -0.5


def version_fit(intent: Intent, checkpoint: Checkpoint) -> float:
    """1 when the checkpoint has the version number asked for, -1 when it has another, 0 when nothing is known."""
    if intent.version is None or intent.version in ("first", "newest"):
        return 0.0
    if checkpoint.version is None and checkpoint.version_ordinal is None:
        return 0.0
    return 1.0 if has_version(checkpoint, intent.version) else -1.0


def has_version(checkpoint: Checkpoint, number: str) -> bool:
    """Whether the checkpoint is version `number`, by its ordinal or by its text ("v1.0" is "1")."""
    if checkpoint.version_ordinal is not None and number.count(".") <= 1:
        return checkpoint.version_ordinal == float(number)
    stated = (checkpoint.version or "").casefold().strip().removeprefix("version").lstrip(" v.")
    return stated.removesuffix(".0") == number


def _version_words(asked: Asked, profile: Profile) -> float:
    told = {word for word in profile.version if not word.isdigit() and len(word) > 2}
    told -= profile.strong | {"lora", "version", "sd", "final"}
    return float(bool(told & set(asked.everything)))


def date_fit(intent: Intent, checkpoint: Checkpoint) -> float:
    """1 inside the interval, falling to -1 two months outside it; 0 without a date."""
    if intent.time_range is None or not checkpoint.created_at:
        return 0.0
    try:
        made = date.fromisoformat(checkpoint.created_at[:10])
    except ValueError:
        return 0.0
    start, end = (date.fromisoformat(day) for day in intent.time_range)
    outside = max((start - made).days, (made - end).days, 0)
    return 1.0 if outside == 0 else -min(1.0, outside / 60)


def _sign(fit: bool | None) -> float:
    return 0.0 if fit is None else (1.0 if fit else -1.0)


def denied(intent: Intent, profile: Profile) -> bool:
    """Whether everything in one negation is said by the names, version, kind or base of the checkpoint."""
    checkpoint = profile.checkpoint
    kind = {"lora": "lora", "ti": "textual inversion embedding", "dreambooth": "dreambooth full model"}[checkpoint.kind]
    said = profile.strong | profile.version | set(words(f"{kind} {checkpoint.base or ''}"))
    for phrase in intent.negatives:
        denied = set(content_words(phrase)) or set(words(phrase))
        if denied and denied <= said:
            return True
    return False
