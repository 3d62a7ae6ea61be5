"""BM25 and exact phrases of the few rows that the text index on disk does not hold yet. It writes nothing.

How rare a term is and how long a document comes from all rows, so that both give scores on one scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.stores.phrases import Phrases
from personalq.checkin.stores.protocol import Entry, Ranked, Rows
from personalq.checkin.stores.textual import FIELDS, K1, B


class LateText:
    """Entries by row, with the postings of their terms."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self._postings: dict[str, dict[str, dict[int, int]]] = {field: {} for field in FIELDS}
        self._lengths: dict[str, dict[int, int]] = {field: {} for field in FIELDS}
        self._phrases = Phrases()

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, row: int, entry: Entry) -> None:
        """Count the terms of an entry."""
        self.entries[row] = entry
        self._phrases.add(row, entry.phrases)
        for field, (split, _) in FIELDS.items():
            counts = Counter(split(entry.text))
            self._lengths[field][row] = counts.total()
            for term, count in counts.items():
                self._postings[field].setdefault(term, {})[row] = count

    def remove(self, row: int) -> None:
        """Forget a row, if it is here."""
        entry = self.entries.pop(row, None)
        if entry is None:
            return
        self._phrases.remove(row, entry.phrases)
        for field, (split, _) in FIELDS.items():
            del self._lengths[field][row]
            for term in set(split(entry.text)):
                del self._postings[field][term][row]

    def holders(self, field: str, term: str) -> int:
        """How many rows hold a term."""
        return len(self._postings[field].get(term, ()))

    def top(self, field: str, text: str, rarity: Callable[[str], float], mean: float) -> Ranked:
        """Every row that has a term of `text`, best first; `mean` is the length of a document over all rows."""
        found: dict[int, float] = {}
        for term, times in Counter(FIELDS[field][1](text)).items():
            for row, count in self._postings[field].get(term, {}).items():
                norm = K1 * (1 - B + B * self._lengths[field][row] / mean)
                found[row] = found.get(row, 0.0) + times * rarity(term) * count * (K1 + 1) / (count + norm)
        best = sorted(found, key=lambda row: (-found[row], row))
        return Ranked(np.asarray(best, dtype=np.int64), np.asarray([found[row] for row in best], dtype=np.float64))

    def within(self, text: str) -> Rows:
        """The rows one of whose phrases stands in `text`."""
        return self._phrases.within(text)


def merged(lists: tuple[Ranked, Ranked], allowed: NDArray[np.bool_], depth: int) -> Ranked:
    """Two lists of different rows as one, best first, of the rows allowed."""
    rows = np.concatenate([ranked.rows for ranked in lists])
    scores = np.concatenate([ranked.scores for ranked in lists])
    rows, scores = rows[allowed[rows]], scores[allowed[rows]]
    order = np.lexsort((rows, -scores))[:depth]
    return Ranked(rows[order], scores[order])
