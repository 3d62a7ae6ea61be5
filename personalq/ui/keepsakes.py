"""What a browser keeps for its owner: history, favourites, votes, settings. All of it comes back untrusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import islice
from typing import Any

from personalq.backend.provenance.claims import validated
from personalq.catalog.untrusted import UNSAFE
from personalq.errors import PictureError
from personalq.ui.controls import MOST_NEGATIVE, MOST_PROMPT

MOST_HISTORY, MOST_FAVOURITES = 60, 30
LONGEST = {"thumb": 20_000, "precision": 40, "when": 40}
"""Characters of an entry's own texts."""
SETTINGS: dict[str, type] = {"protect": str, "blind": bool, "previews": bool, "theme": str, "precision": str}
MOST_NAME = 40
MOST_CONCEPTS = 20
MOST_VOTES = 999
"""For one side of one precision; further votes are not counted."""
SIDES = ("reference", "quantised", "same")
Entry = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """History (newest first, favourites among it), blind votes by precision, and settings by widget."""

    history: tuple[Entry, ...] = ()
    tally: dict[str, dict[str, int]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: object) -> Kept:
        """What a browser sent, with everything left out that is not as it was kept."""
        data = stored if isinstance(stored, Mapping) else {}
        history, tally, settings = (data.get(name) for name in ("history", "tally", "settings"))
        entries = (found for one in history if (found := _entry(one))) if isinstance(history, list) else ()
        votes = tally.items() if isinstance(tally, Mapping) else ()
        chosen = settings if isinstance(settings, Mapping) else {}
        return cls(
            tuple(islice(entries, MOST_HISTORY + MOST_FAVOURITES)),
            {name: found for name, each in islice(votes, 20) if _is_text(name) and (found := _votes(each))},
            {
                name: value
                for name, kind in SETTINGS.items()
                if type(value := chosen.get(name)) is kind and (kind is bool or _is_text(value))
            },
        )

    def plain(self) -> dict[str, Any]:
        """What the browser is given to keep."""
        return {"history": list(self.history), "tally": self.tally, "settings": self.settings}

    def with_entry(self, entry: Entry) -> Kept:
        """With one more picture; the oldest that is no favourite goes when there are too many."""
        ordinary = [i for i, one in enumerate(self.history) if not one["favourite"]]
        dropped = set(ordinary[MOST_HISTORY - 1 :])
        return replace(self, history=(entry, *(one for i, one in enumerate(self.history) if i not in dropped)))

    def without(self, index: int) -> Kept:
        """Without one entry."""
        return replace(self, history=tuple(one for i, one in enumerate(self.history) if i != index))

    def loved(self, index: int) -> Kept:
        """With one entry made a favourite, or an ordinary one again. With 30 favourites there, no other is taken."""
        now = not self.history[index]["favourite"]
        if now and sum(one["favourite"] for one in self.history) >= MOST_FAVOURITES:
            return self
        changed = {**self.history[index], "favourite": now}
        return replace(self, history=tuple(changed if i == index else one for i, one in enumerate(self.history)))

    def with_vote(self, precision: str, side: str) -> Kept:
        """With one more vote for a side: "reference", "quantised" or "same"."""
        before = self.tally.get(precision, {})
        return replace(self, tally={**self.tally, precision: {**before, side: before.get(side, 0) + 1}})

    def with_settings(self, **values: Any) -> Kept:
        """With these settings."""
        return replace(self, settings={**self.settings, **values})


def remembered(data: Mapping[str, Any], thumb: str, precision: str) -> Entry:
    """An entry of the history: how the picture was made, without what was measured, and a small picture."""
    made = {name: value for name, value in data.items() if name != "memory"}
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
    return {"data": made, "thumb": thumb, "precision": precision, "when": now, "favourite": False}


def _entry(one: object) -> Entry | None:
    """An entry with every field checked; None for what is none."""
    if not isinstance(one, Mapping) or type(favourite := one.get("favourite")) is not bool:
        return None
    texts = {name: one[name] for name, most in LONGEST.items() if _is_text(one.get(name), most)}
    try:
        data = validated(one.get("data")) if _is_small(one.get("data")) else {}
    except PictureError:
        return None
    if not data or len(texts) < len(LONGEST) or data["seed"] is None or data["steps"] is None:
        return None
    del data["memory"]
    return {"data": data, **texts, "favourite": favourite}


def _is_small(data: object) -> bool:
    """Whether it is no larger than what is made here: checking 90 entries must not take long."""
    texts = {"prompt": MOST_PROMPT, "negative": MOST_NEGATIVE}
    return isinstance(data, Mapping) and all(
        len(value) <= most
        for name, most in {**texts, "concepts": MOST_CONCEPTS, "spans": MOST_PROMPT}.items()
        if isinstance(value := data.get(name), str | list)
    )


def _is_text(value: object, most: int = MOST_NAME) -> bool:
    return isinstance(value, str) and len(value) <= most and not UNSAFE.search(value)


def _votes(votes: object) -> dict[str, int]:
    counts = {side: votes.get(side) for side in SIDES} if isinstance(votes, Mapping) else {}
    return {side: min(count, MOST_VOTES) for side, count in counts.items() if type(count) is int and count > 0}
