"""A catalogue in memory, for up to about ten thousand checkpoints: sparse BM25, dense products, every row ranked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.clock import Clock
from personalq.checkin.lexical import Lexical
from personalq.checkin.stores.growing import Growing
from personalq.checkin.stores.phrases import Phrases
from personalq.checkin.stores.protocol import Entry, Footprint, Found, Query, Ranked, Rows, Scores, Vectors
from personalq.checkin.stores.register import Register


class MemoryStore:
    """`Store` without files. Scores are exact, and its lists hold every row that is allowed."""

    name = "memory"
    piece = 1 << 20
    keeps_vectors = False

    def __init__(self, width: int) -> None:
        self._register = Register()
        self._entries: dict[str, Entry] = {}
        self._lexical = Lexical()
        self._phrases = Phrases()
        self._titles, self._bodies = Growing(np.float32, (width,)), Growing(np.float32, (width,))

    def __len__(self) -> int:
        return len(self._register)

    @property
    def size(self) -> int:
        """One more than the highest row."""
        return self._register.size

    def held(self) -> Mapping[str, str]:
        """Id to fingerprint."""
        return self._register.held

    def recall(self, entries: Sequence[Entry]) -> None:
        """Nothing to be told."""

    def add(self, entries: Sequence[Entry], titles: Vectors, bodies: Vectors) -> None:
        """Store new ids with their vectors, shape (entries, width) each."""
        for row, entry in enumerate(entries, start=self.size):
            self._phrases.add(row, entry.phrases)
            self._entries[entry.id] = entry
        self._register.add(entries)
        self._lexical.add([entry.text for entry in entries])
        self._titles.extend(titles)
        self._bodies.extend(bodies)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget ids that are held."""
        for row, identifier in zip(self._register.remove(ids), ids, strict=True):
            entry = self._entries.pop(identifier)
            self._phrases.remove(row, entry.phrases)
            self._lexical.remove(entry.text)

    def search(self, query: Query, clock: Clock) -> Found:
        """Rank every row four times, equal scores by row; a row that is not allowed scores 0."""
        alive, allowed = np.flatnonzero(self._register.alive), self._register.allowed(query.wanted)
        with clock.stage("lexical"):
            words, grams = self._lexical.by_words(query.text), self._lexical.by_grams(query.text)
            lexical = _ranked(words, alive, allowed), _ranked(grams, alive, allowed)
            hits = self._phrases.within(query.text)
        with clock.stage("dense"):
            titles = (self._titles.values @ query.vector).astype(np.float64)
            bodies = (self._bodies.values @ query.vector).astype(np.float64)
            dense = _ranked(titles, alive, allowed), _ranked(bodies, alive, allowed)
        table: Scores = np.stack([words, grams, titles, bodies], axis=1)
        return Found((*lexical, *dense), hits, lambda rows: table[rows])

    def rows(self, ids: Sequence[str]) -> list[int]:
        """The rows of the ids that are held, in their order."""
        return self._register.rows(ids)

    def id(self, row: int) -> str:
        """The checkpoint of a row."""
        return self._register.id(row)

    def ceilings(self, text: str) -> tuple[float, float]:
        """The highest score possible for `text`, over words and over grams; above 0."""
        return self._lexical.ceilings(text)

    def rarity(self, word: str) -> float:
        """The idf of a word."""
        return self._lexical.rarity(word)

    def footprint(self) -> Footprint:
        """Counted arrays, and estimates for names and phrases; nothing on disk."""
        dense = self._titles.nbytes + self._bodies.nbytes
        texts = sum(len(entry.text) + 300 for entry in self._entries.values())
        return Footprint(self._lexical.nbytes + dense + texts + self._register.nbytes + self._phrases.nbytes, 0)

    def close(self) -> None:
        """Nothing to let go of."""


def _ranked(scores: Scores, alive: Rows, allowed: NDArray[np.bool_]) -> Ranked:
    masked = np.where(allowed, scores, 0.0)[alive]
    order = np.argsort(-masked, kind="stable")
    return Ranked(alive[order], masked[order])
