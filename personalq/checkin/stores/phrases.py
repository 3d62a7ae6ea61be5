"""Which rows have a name or trigger that stands whole in a text, by hashing runs of its words. It keeps no score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from personalq.checkin.profile import spaced
from personalq.checkin.stores.protocol import Rows

SHORTEST = 3
"""Characters; a shorter phrase stands in too many texts by chance."""


class Phrases:
    """Every phrase to its rows. A look-up costs the words of the text times the lengths of phrases they begin."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}
        self._lengths: dict[str, dict[int, int]] = {}

    def add(self, row: int, phrases: Sequence[str]) -> None:
        """Note the phrases of one row, folded as `profile.spaced` folds them."""
        for phrase in telling(phrases):
            rows = self._rows.setdefault(phrase, [])
            if not rows:
                first, length = _shape(phrase)
                lengths = self._lengths.setdefault(first, {})
                lengths[length] = lengths.get(length, 0) + 1
            rows.append(row)

    def remove(self, row: int, phrases: Sequence[str]) -> None:
        """Forget the phrases of one row, given as they were added."""
        for phrase in telling(phrases):
            self._rows[phrase].remove(row)
            if not self._rows[phrase]:
                del self._rows[phrase]
                first, length = _shape(phrase)
                self._lengths[first][length] -= 1
                if not self._lengths[first][length]:
                    del self._lengths[first][length]

    def within(self, text: str) -> Rows:
        """The rows one of whose phrases stands in `text`, ascending."""
        found = {row for run in runs(text, self._lengths) for row in self._rows.get(run, ())}
        return np.asarray(sorted(found), dtype=np.int64)

    @property
    def nbytes(self) -> int:
        """About 150 bytes a phrase and 8 for each of its rows."""
        return 150 * len(self._rows) + 8 * sum(len(rows) for rows in self._rows.values())


def telling(phrases: Sequence[str]) -> list[str]:
    """The phrases long enough to mean something, each once, without the spaces around them."""
    return list(dict.fromkeys(phrase.strip() for phrase in phrases if len(phrase.strip()) >= SHORTEST))


def runs(text: str, lengths: Mapping[str, Mapping[int, int]]) -> Iterator[str]:
    """The runs of words of `text` that have a length known for their first word."""
    said = spaced(text).split()
    for start, first in enumerate(said):
        for length in lengths.get(first, ()):
            if start + length <= len(said):
                yield " ".join(said[start : start + length])


def _shape(phrase: str) -> tuple[str, int]:
    first, _, rest = phrase.partition(" ")
    return first, 1 + len(rest.split())
