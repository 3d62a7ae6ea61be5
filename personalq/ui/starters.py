"""Four first requests drawn from a catalogue; it does not know what the pictures look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from personalq.records import Checkpoint

PLACES = ("on the beach", "in the snow", "in a forest", "in the city at night")
LONGEST = 32
"""Characters of a name that fit on a button."""


def starters(checkpoints: Sequence[Checkpoint], count: int = 4) -> list[str]:
    """At most `count` different requests: one that is ambiguous if any is, then named concepts, one with a style."""
    subjects = [one for one in _one_per_model(checkpoints) if one.role not in ("style", "utility")]
    styles = [one for one in _one_per_model(checkpoints) if one.role == "style"]
    nouns = Counter(one.class_noun for one in subjects if _fits(one.class_noun or ""))
    things: list[str] = [f"my {noun}" for noun, times in nouns.most_common(1) if noun and times > 1]
    seen = {noun for noun, times in nouns.most_common(1) if times > 1}
    for one in sorted(subjects, key=lambda one: one.class_noun in seen):
        if one.class_noun is None or one.class_noun not in seen:
            things.append(one.name)
            seen.add(one.class_noun)
    things += [one.name for one in subjects if one.name not in things]
    asked = [f"{thing} {place}" for thing, place in zip(things, PLACES * len(things), strict=False)]
    if styles:
        noun = next((noun for noun in nouns if noun), "house")
        asked[count - 1 :] = [f"a {noun}, {styles[0].name}"]
    return list(dict.fromkeys(asked))[:count]


def _one_per_model(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    models: dict[str, Checkpoint] = {}
    for one in checkpoints:
        if one.loadable and _fits(one.name):
            models.setdefault(one.group_id or one.id, one)
    return list(models.values())


def _fits(text: str) -> bool:
    return 0 < len(text) <= LONGEST and text.isprintable()
