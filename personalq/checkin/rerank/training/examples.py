"""Requests with their right answers, as feature tables. It fits nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalq.catalog.jsonl import read_jsonl
from personalq.checkin.clock import Clock
from personalq.checkin.intent import parse, remaining
from personalq.checkin.profile import card
from personalq.checkin.rerank.features import Asked, table
from personalq.checkin.retrieve import Index
from personalq.records import Checkpoint, Request

HERE = Path(__file__).parent
KINDS = ("single", "ambiguous", "no_match")
Array = NDArray[np.float64]


@dataclass
class Example:
    """One request over one catalogue: its short list, the model of each row, and the models that are right."""

    text: str
    cards: tuple[str, ...]
    groups: tuple[str, ...]
    targets: frozenset[str]
    kind: str
    rows: Array
    """The feature table without what a reader says, shape (candidates, len(NAMES))."""
    read: Array = field(default_factory=lambda: np.zeros((0, 3)))
    """What a reader says that has not been trained on this request, shape (candidates, 3)."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """Of every row, whether its model is right."""
        return np.asarray([group in self.targets for group in self.groups], dtype=bool)

    @property
    def models(self) -> list[int]:
        """The first row of every model."""
        return list({group: at for at, group in reversed(list(enumerate(self.groups)))}.values())[::-1]


def made() -> list[Example]:
    """The requests that come with PersonalQ, over the catalogue that does."""
    return over(sorted(HERE.glob("catalog_*.jsonl")), sorted(HERE.glob("requests_*.jsonl")))


def over(catalogs: Sequence[Path], requests: Sequence[Path], cache: Path | None = None) -> list[Example]:
    """Single, ambiguous and no-match requests over the catalogues taken together; others are left out."""
    checkpoints: list[Checkpoint] = [each for path in catalogs for each in read_jsonl(path).checkpoints]
    index = Index(checkpoints, cache)
    return list(_examples(index, requests))


def _examples(index: Index, requests: Sequence[Path]) -> Iterable[Example]:
    for line in (line for path in requests for line in path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        intent = parse(Request(row["query"], as_of=row.get("asof")), index.bases, index.nouns)
        if row["kind"] not in KINDS or intent.opt_out:
            continue
        candidates = index.candidates(intent, None, Clock())
        if not candidates:
            continue
        profiles = [index.by_id[candidate.checkpoint.id] for candidate in candidates]
        unread = np.zeros((len(candidates), 3))
        yield Example(
            text=remaining(intent),
            cards=tuple(card(candidate.checkpoint) for candidate in candidates),
            groups=tuple(profile.group for profile in profiles),
            targets=frozenset(index.by_id[each].group for each in row.get("targets", ()) if each in index.by_id),
            kind=row["kind"],
            rows=table(Asked.of(intent, index.rarity), candidates, profiles, unread),
        )
