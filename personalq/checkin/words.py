"""Text into words and character grams. It does not know what a checkpoint or a request is."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_RUN = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}_])\w)+")
_SEAM = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_IS_CJK = re.compile(rf"[{_CJK}]")

_STOPPED = """
a an and any are as at be been but by can do does for from get give had has have he her him his how i if in into
is it its just like look looking looks made make me my of on one or our out please put she so some something
that the their them then there these they thing this those to too use used using want was we were what when
where which while who will with without would you your draw show picture pictures image images paint render
generate create model checkpoint lora embedding version
"""
STOPWORDS = frozenset(_STOPPED.split())

SLIP = 0.8
"""Likeness of two words that one slip of the fingers sets apart."""


def fold(text: str) -> str:
    """Normal form for comparing: NFKC, case folded, Latin accents removed, one space between words."""
    plain = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(character for character in plain if unicodedata.category(character) != "Mn")
    return " ".join(unicodedata.normalize("NFC", kept).split())


def stem(word: str) -> str:
    """A word without its English plural; the same for a request and a catalogue is all that is asked of it."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def words(text: str, glued: bool = True) -> list[str]:
    """Stemmed words, in order, split at camelCase, digits, `_`, `-` and around every CJK character.

    With `glued`, a run such as "OldEgypt" gives "old", "egypt" and also "oldegypt".
    """
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text)):
        found += _words_of(run, glued)
    return found


@lru_cache(maxsize=1 << 16)
def _words_of(run: str, glued: bool) -> tuple[str, ...]:
    parts = [stem(fold(part)) for part in _SEAM.split(run) if part]
    if glued and len(parts) > 1:
        parts.append(stem(fold(run)))
    return tuple(word for word in parts if word)


def content_words(text: str) -> list[str]:
    """The distinct words of `text` that carry meaning, in order of appearance."""
    return list(dict.fromkeys(word for word in words(text, glued=False) if word not in STOPWORDS))


def grams(word: str) -> set[str]:
    """The character 3-, 4- and 5-grams of one word; a shorter word, or a CJK character, is its own gram."""
    if len(word) < 4:
        return {word}
    return {word[start : start + size] for size in (3, 4, 5) for start in range(len(word) - size + 1)}


def gram_list(text: str) -> list[str]:
    """Character grams of every word of `text`, with glued and split forms, and pairs of CJK characters."""
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text)):
        found += _grams_of(run)
    characters = _IS_CJK.findall(text)
    return found + [first + second for first, second in pairwise(characters)]


@lru_cache(maxsize=1 << 16)
def _grams_of(run: str) -> tuple[str, ...]:
    return tuple(sorted(grams(stem(fold(run)))))


def likeness(word: str, name: str) -> float:
    """How alike a word of a request and a word of a name look, 0 to 1.

    1 is equal; a word inside a glued name ("bongo" in "bongodog") counts more than a name inside a word ("house" in
    "lighthouse"); one slip of the fingers counts 0.8; else Dice's coefficient over character grams, from 0.4 up.
    """
    if word == name:
        return 1.0
    if min(len(word), len(name)) < 4:
        return 0.0
    if word in name:
        return (0.6 if name.startswith(word) or name.endswith(word) else 0.45) + 0.35 * len(word) / len(name)
    if name in word:
        return 0.35
    if _one_slip(word, name):
        return SLIP
    mine, theirs = grams(word), grams(name)
    dice = 2 * len(mine & theirs) / (len(mine) + len(theirs))
    return dice if dice >= 0.4 else 0.0


def _one_slip(word: str, name: str) -> bool:
    """Whether one letter was changed, added, left out or swapped with the next, in words of six letters up.

    Shorter words are too often each other's neighbours: "horse" is no slip for "house".
    """
    if min(len(word), len(name)) < 6 or abs(len(word) - len(name)) > 1 or word[0] != name[0]:
        return False
    at = next(
        (i for i, (one, two) in enumerate(zip(word, name, strict=False)) if one != two), min(len(word), len(name))
    )
    if len(word) != len(name):
        longer, shorter = (word, name) if len(word) > len(name) else (name, word)
        return longer[at + 1 :] == shorter[at:]
    swapped = word[at : at + 2][::-1] == name[at : at + 2] and word[at + 2 :] == name[at + 2 :]
    return swapped or word[at + 1 :] == name[at + 1 :]
