"""What every store of a catalogue promises: texts and vectors in, ranked rows out. It knows no particular one.

A row is a store's own number for a checkpoint; it is never used again after the checkpoint is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.bases import fits
from personalq.checkin.clock import Clock

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]
Vectors = NDArray[np.float32]
LISTS = ("words", "grams", "titles", "bodies")
"""The four rankings: BM25 over words, BM25 over character grams, cosine with the title, cosine with the body."""


@dataclass(frozen=True)
class Entry:
    """What a store is told of one checkpoint, beside its two vectors."""

    id: str
    text: str
    """The text BM25 reads."""
    phrases: tuple[str, ...]
    """Names, aliases and triggers as `profile.phrases` gives them."""
    base: str | None
    kind: str
    fingerprint: str
    """Changes when anything above, or a text behind the vectors, changes."""


@dataclass(frozen=True)
class Filter:
    """Which checkpoints may be found: for the base loaded, the base asked for, and the kind asked for."""

    loaded: str | None = None
    asked: str | None = None
    kind: str | None = None
    """None or "lora", which people say of any checkpoint, allow every kind."""

    def base(self, base: str | None) -> bool:
        """False for another base than the one loaded or asked for; an unknown base is allowed."""
        return fits(base, self.loaded) is not False and fits(base, self.asked) is not False

    def allows(self, kind: str) -> bool:
        """Whether a checkpoint of this kind may be found."""
        return self.kind in (None, "lora", kind)


@dataclass(frozen=True)
class Query:
    """One slot of a request, ready to be searched for."""

    text: str
    vector: Vectors
    """Unit length, shape (width,)."""
    wanted: Filter = Filter()


@dataclass(frozen=True)
class Ranked:
    """One list, best first. Where a score is above 0 the filter allows its row; the list may go on with others."""

    rows: Rows
    scores: Scores


@dataclass(frozen=True)
class Found:
    """The answer to a query: the four lists of `LISTS`, and rows with a name or trigger that stands in it.

    The filter may not have been applied to `hits`.
    """

    lists: tuple[Ranked, Ranked, Ranked, Ranked]
    hits: Rows
    scores: Callable[[Rows], Scores]
    """Every list's score of any rows, shape (rows, 4), in the list or not, whatever the filter says."""


class Footprint(NamedTuple):
    """Bytes a store holds, as counted from its own arrays and files; an estimate where a library keeps them."""

    memory: int
    disk: int


class Store(Protocol):
    """Finds rows by text, vector and exact phrase. Not safe for threads by itself; `Index` holds a lock."""

    name: str
    piece: int
    """How many checkpoints to add at a time, where there are many."""
    keeps_vectors: bool
    """Whether vectors are there again after a restart, so that nobody else need keep them."""

    def __len__(self) -> int:
        """The checkpoints that can be found."""
        ...

    @property
    def size(self) -> int:
        """One more than the highest row."""
        ...

    def held(self) -> Mapping[str, str]:
        """The id of every checkpoint that can be found, with its fingerprint."""
        ...

    def recall(self, entries: Sequence[Entry]) -> None:
        """Be told, once, of entries that are held already, for a store that cannot read back all it needs."""
        ...

    def add(self, entries: Sequence[Entry], titles: Vectors, bodies: Vectors) -> None:
        """Store new ids with their vectors, shape (entries, width) each; the next search sees them."""
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Forget ids that are held; the next search does not see them."""
        ...

    def search(self, query: Query, clock: Clock) -> Found:
        """The four lists. Adds the milliseconds of `lexical` and `dense` to `clock`."""
        ...

    def rows(self, ids: Sequence[str]) -> list[int]:
        """The rows of the ids that are held, in their order."""
        ...

    def id(self, row: int) -> str:
        """The checkpoint of a row."""
        ...

    def ceilings(self, text: str) -> tuple[float, float]:
        """What a document made of nothing but `text` could score at most, over words and over grams; above 0."""
        ...

    def rarity(self, word: str) -> float:
        """The idf of a word."""
        ...

    def footprint(self) -> Footprint:
        """Bytes in memory and on disk."""
        ...

    def close(self) -> None:
        """Let go of files; the store is not used afterwards."""
        ...
