"""What one checkpoint says about itself, field by field, in words. It knows no request and keeps no score."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from personalq.checkin.nouns import KNOWN_NOUNS, class_of
from personalq.checkin.words import STOPWORDS, content_words, fold, likeness, words
from personalq.records import Checkpoint

_likeness = lru_cache(maxsize=200_000)(likeness)
_EMPTY = """style lora xl sd sdxl flux v ver art ai model diffusion concept none the with in of photo"""
_GENERIC = frozenset(_EMPTY.split())
"""Words of a name that tell nothing about what it shows."""

_ALMOST_ALL = """
stable-diffusion text-to-image diffusion-models-class dreambooth-hackathon animal wildcard diffusers lora
stable-diffusion-xl stable-diffusion-xl-diffusers template:sd-lora dreambooth style styles concept pytorch flux sdxl
stable-diffusion-diffusers textual_inversion diffusers-training region:us food landscape science
template:diffusion-lora image
"""
_EVERYWHERE = frozenset(_ALMOST_ALL.split())
"""Tags that say nothing, or only what the category says."""


@dataclass(frozen=True)
class Profile:
    """The words of one checkpoint. `names` are its callable names: name, aliases and triggers, one tuple each."""

    checkpoint: Checkpoint
    group: str
    names: tuple[tuple[str, ...], ...]
    called: tuple[tuple[str, ...], ...]
    """Those of `names` that are no triggers."""
    phrases: tuple[str, ...]
    """The same names as folded text, for exact hits."""
    strong: frozenset[str]
    """Words of the names and the class noun."""
    middle: frozenset[str]
    """Words of tags and category."""
    weak: frozenset[str]
    """Words of the description and sample prompts."""
    version: frozenset[str]
    classes: frozenset[str]
    """Classes the strong and middle words belong to ("dog")."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Profile:
        """Read a record; empty fields give empty sets."""
        callable_names = [checkpoint.name, *checkpoint.aliases, *checkpoint.triggers]
        names = tuple(dict.fromkeys(tuple(_telling(name)) for name in callable_names if _telling(name)))
        strong = frozenset(word for name in names for word in name) | frozenset(words(checkpoint.class_noun or ""))
        middle = frozenset(words(" ".join([*checkpoint.tags, checkpoint.category or ""])))
        weak = frozenset(words(" ".join([checkpoint.description[:1500], *checkpoint.sample_prompts])))
        nouns = {word for word in strong if word in KNOWN_NOUNS} | frozenset(words(checkpoint.class_noun or ""))
        return cls(
            checkpoint=checkpoint,
            group=checkpoint.group_id or checkpoint.id,
            names=names,
            called=tuple(tuple(_telling(name)) for name in (checkpoint.name, *checkpoint.aliases) if _telling(name)),
            phrases=phrases(checkpoint),
            strong=strong,
            middle=middle - strong,
            weak=weak - strong - middle,
            version=frozenset(words(checkpoint.version or "")),
            classes=frozenset(class_of(noun) for noun in nouns or (middle & KNOWN_NOUNS)),
        )

    def match(self, word: str) -> tuple[float, float]:
        """How well a word is found in the names, and anywhere: 1 is exact, 0 not at all; weaker fields count less."""
        strong = max((_likeness(word, other) for other in self.strong), default=0.0)
        if class_of(word) in self.classes:
            strong = max(strong, 0.9)
        anywhere = max(strong, 0.9 * (word in self.middle), 0.75 * (word in self.weak), 0.75 * (word in self.version))
        return strong, anywhere


class Profiles(dict[str, Profile]):
    """Profiles by checkpoint id, read when first asked for; the `KEPT` read last are kept.

    `in` asks whether there is such a checkpoint, not whether its profile has been read.
    """

    KEPT = 4096

    def __init__(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._lock = threading.Lock()

    def __missing__(self, identifier: str) -> Profile:
        profile = Profile.of(self._checkpoints[identifier])
        with self._lock:
            self[identifier] = profile
            while len(self) > self.KEPT:
                del self[next(iter(self))]
        return profile

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._checkpoints


def phrases(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Name, aliases and triggers as folded text with a space at either end, each once."""
    folded = (spaced(name) for name in (checkpoint.name, *checkpoint.aliases, *checkpoint.triggers))
    return tuple(dict.fromkeys(phrase for phrase in folded if phrase))


def spaced(text: str) -> str:
    """Folded words with single spaces around each: " ember fox "; empty for text without words."""
    found = re.findall(r"[^\W_]+", fold(text))
    return f" {' '.join(found)} " if found else ""


def _telling(name: str) -> list[str]:
    kept = [word for word in content_words(name) if word not in _GENERIC and not word.isdigit()]
    return kept or [word for word in content_words(name) if word not in STOPWORDS]


def title(checkpoint: Checkpoint) -> str:
    """One line for the sentence encoder: the name split into words, the class noun and the first trigger."""
    trigger = checkpoint.triggers[0] if checkpoint.triggers else ""
    parts = [_split(checkpoint.name), checkpoint.class_noun or "", _split(trigger)]
    return ", ".join(dict.fromkeys(part.strip() for part in parts if part.strip())) or checkpoint.id


def body(checkpoint: Checkpoint) -> str:
    """A few lines for the sentence encoder: title, tags and the start of the description."""
    tags = ", ".join(checkpoint.tags[:8])
    pieces = [title(checkpoint), tags, checkpoint.description[:300], " ".join(checkpoint.sample_prompts)[:120]]
    return ". ".join(piece for piece in pieces if piece)


def card(checkpoint: Checkpoint) -> str:
    """What a reader is shown: name, trigger, class noun, category, telling tags and the start of the description."""
    trigger = _split(checkpoint.triggers[0])[:60] if checkpoint.triggers else ""
    parts = [_split(checkpoint.name), trigger, checkpoint.class_noun or "", checkpoint.category or ""]
    tags = [tag for tag in checkpoint.tags if tag.casefold() not in _EVERYWHERE][:5]
    lines = ["; ".join(dict.fromkeys(part.strip() for part in parts if part.strip())), ", ".join(tags)]
    return " | ".join(line for line in (*lines, checkpoint.description[:200]) if line)


def _split(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-|/]+", " ", name)[:120]
