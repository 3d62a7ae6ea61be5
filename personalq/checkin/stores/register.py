"""Which checkpoint is which row, with its base and kind as numbers to filter by. It knows no text and no score."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.stores.growing import Growing
from personalq.checkin.stores.protocol import Entry, Filter


class Register:
    """Rows in the order they came. A row that is removed stays empty for good."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._held: dict[str, str] = {}
        self._row: dict[str, int] = {}
        self._alive = Growing(bool)
        self._base_of = Growing(np.int32)
        self._kind_of = Growing(np.int32)
        self._bases: dict[str | None, int] = {}
        self._kinds: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._row)

    @property
    def size(self) -> int:
        """Rows given out so far, removed ones included."""
        return len(self._ids)

    @property
    def held(self) -> Mapping[str, str]:
        """Id to fingerprint of every row not removed."""
        return self._held

    @property
    def alive(self) -> NDArray[np.bool_]:
        """False for rows removed, shape (size,)."""
        return self._alive.values

    def add(self, entries: Sequence[Entry], removed: Collection[int] = ()) -> None:
        """Give every entry the next row, but leave the rows `removed` empty. Ids must be new, save for those."""
        first = len(self._ids)
        for row, entry in enumerate(entries, start=first):
            self._ids.append(entry.id)
            if row not in removed:
                self._row[entry.id] = row
                self._held[entry.id] = entry.fingerprint
        self._alive.extend([row not in removed for row in range(first, len(self._ids))])
        self._base_of.extend([self._bases.setdefault(entry.base, len(self._bases)) for entry in entries])
        self._kind_of.extend([self._kinds.setdefault(entry.kind, len(self._kinds)) for entry in entries])

    def remove(self, ids: Sequence[str]) -> list[int]:
        """Empty the rows of ids that are held; the rows."""
        rows = [self._row.pop(each) for each in ids]
        for each in ids:
            del self._held[each]
        self._alive.values[rows] = False
        return rows

    def rows(self, ids: Sequence[str]) -> list[int]:
        """The rows of the ids that are held, in their order."""
        return [self._row[each] for each in ids if each in self._row]

    def id(self, row: int) -> str:
        """The id a row was given for."""
        return self._ids[row]

    def names_allowed(self, wanted: Filter) -> tuple[list[str | None] | None, list[str] | None]:
        """The bases and the kinds that the filter lets through, of those there are; None is all."""
        bases = [base for base in self._bases if wanted.base(base)]
        kinds = [kind for kind in self._kinds if wanted.allows(kind)]
        return None if len(bases) == len(self._bases) else bases, None if len(kinds) == len(self._kinds) else kinds

    def allowed(self, wanted: Filter) -> NDArray[np.bool_]:
        """The rows not removed that the filter lets through, shape (size,)."""
        bases, kinds = self.names_allowed(wanted)
        found: NDArray[np.bool_] = self.alive.copy()
        if bases is not None:
            found &= np.isin(self._base_of.values, [self._bases[base] for base in bases])
        if kinds is not None:
            found &= np.isin(self._kind_of.values, [self._kinds[kind] for kind in kinds])
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, and about 200 for each id with its fingerprint and its places in two tables."""
        return self._alive.nbytes + self._base_of.nbytes + self._kind_of.nbytes + 200 * len(self._ids)
