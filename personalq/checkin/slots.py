"""Subject and style as separate slots of one request. It splits and compares; it decides nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from personalq.checkin.clock import Clock
from personalq.checkin.intent import remaining
from personalq.checkin.profile import Profile
from personalq.checkin.ranking import Ranking, rank
from personalq.checkin.rerank.fallback import Fallback
from personalq.checkin.rerank.protocol import Reranker
from personalq.checkin.retrieve import Index
from personalq.checkin.words import content_words, likeness, words
from personalq.records import Intent

_SAID = 0.75
"""Likeness from which a name says a word."""


def slots(
    index: Index, reranker: Reranker, intent: Intent, whole: Ranking, loaded: str | None, clock: Clock
) -> tuple[Ranking, Ranking] | None:
    """The subject's and the style's ranking when the request can be read as both, else None."""
    split = by_phrase(intent) or by_evidence(index, intent, whole)
    if split is None:
        return None
    subject, style = split
    index.prepare(split, clock)
    scoring = reranker.for_slots if isinstance(reranker, Fallback) else reranker
    return (
        rank(index, scoring, subject, loaded, clock, never="style"),
        rank(index, scoring, style, loaded, clock, never="subject"),
    )


def by_phrase(intent: Intent) -> tuple[Intent, Intent] | None:
    """The two slots of a request that names a style ("... in the duotone style")."""
    if intent.style is None:
        return None
    text = remaining(intent)
    outside = re.sub(r"\s+".join(re.escape(part) for part in intent.style.split()), " ", text, count=1)
    if not content_words(outside) or not content_words(intent.style):
        return None
    return _slot(intent, " ".join(outside.split()), intent.subject), _slot(intent, intent.style, intent.style)


def by_evidence(index: Index, intent: Intent, whole: Ranking) -> tuple[Intent, Intent] | None:
    """The two slots of a request whose best model's names explain only some of its words; the rest is the other."""
    if not whole.models:
        return None
    best = index.by_id[whole.models[0].best.checkpoint.id]
    text = remaining(intent)
    mine = explained(best, text)
    rest = [word for word in content_words(text) if word not in mine]
    if not mine or len(rest) < 1:
        return None
    found, other = " ".join(mine), " ".join(rest)
    if best.checkpoint.role == "style":
        return _slot(intent, other, other), _slot(intent, found, found)
    return _slot(intent, found, found), _slot(intent, other, other)


def explained(profile: Profile, text: str) -> list[str]:
    """The words of `text` that the names of a checkpoint say: alone, two as one glued word, or as a number."""
    asked = content_words(text)
    glued = {word for pair in pairwise(asked) if "".join(pair) in profile.strong for word in pair}
    numbers = {word for word in words(profile.checkpoint.name) if word.isdigit() and len(word) > 1}
    return [word for word in asked if word in glued or word in numbers or profile.match(word)[0] >= _SAID]


def said(profile: Profile, text: str) -> bool:
    """Whether every word of the checkpoint's name or of an alias is said in `text`, glued or inflected as it may be.

    Triggers do not count: many are everyday words ("red eyes").
    """
    asked = content_words(text)
    spoken = {*asked, *("".join(pair) for pair in pairwise(asked))}
    return any(all(any(_same(word, part) for word in spoken) for part in name) for name in profile.called)


def _same(word: str, part: str) -> bool:
    """Whether a word is a part of a name but for its spelling; "night" is not "nightink"."""
    return word == part or (word not in part and likeness(word, part) >= _SAID)


def _slot(intent: Intent, text: str, subject: str) -> Intent:
    noun = intent.class_noun if subject == intent.subject else None
    return replace(intent, text=text, subject=subject, style=None, class_noun=noun, consumed=())
