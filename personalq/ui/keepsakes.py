"""What a browser keeps for its owner: history, favourites, votes, settings. All of it comes back untrusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

MOST_HISTORY, MOST_FAVOURITES, MOST_THUMB = 60, 30, 20_000
SETTINGS = ("protect", "blind", "previews", "theme", "precision")
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
        return cls(
            tuple(one for one in history if _is_entry(one))[: MOST_HISTORY + MOST_FAVOURITES]
            if isinstance(history, list)
            else (),
            {str(name)[:40]: _votes(votes) for name, votes in list(tally.items())[:20] if isinstance(votes, Mapping)}
            if isinstance(tally, Mapping)
            else {},
            {name: settings[name] for name in SETTINGS if isinstance(settings.get(name), str | bool)}
            if isinstance(settings, Mapping)
            else {},
        )

    def plain(self) -> dict[str, Any]:
        """What the browser is given to keep."""
        return {"history": list(self.history), "tally": self.tally, "settings": self.settings}

    def with_entry(self, entry: Entry) -> Kept:
        """With one more picture; the oldest that is no favourite goes when there are too many."""
        rest = [one for one in self.history if not one["favourite"]]
        dropped = rest[MOST_HISTORY - 1 :]
        return replace(self, history=(entry, *(one for one in self.history if one not in dropped)))

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


def _is_entry(one: object) -> bool:
    if not isinstance(one, dict) or not isinstance(one.get("data"), dict) or not isinstance(one.get("favourite"), bool):
        return False
    data, concepts = one["data"], one["data"].get("concepts")
    return (
        all(isinstance(one.get(name), str) and len(one[name]) <= MOST_THUMB for name in ("thumb", "precision", "when"))
        and all(name in data for name in ("prompt", "seed", "steps"))
        and isinstance(concepts, list)
        and all(isinstance(concept, dict) and "name" in concept for concept in concepts)
    )


def _votes(votes: Mapping[Any, Any]) -> dict[str, int]:
    return {
        side: count
        for side in ("reference", "quantised", "same")
        if type(count := votes.get(side, 0)) is int and 0 <= count < 10**6
    }
