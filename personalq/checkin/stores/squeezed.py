"""Unit vectors in a file, searched through a copy squeezed to a byte a number. It knows rows, not texts.

FAISS scans the bytes (SQ8) for the best 60, which are then scored with the exact vectors from the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.stores.missing import needs
from personalq.checkin.stores.protocol import Ranked, Rows, Scores, Vectors
from personalq.errors import CatalogError

RESCORED = 60
_PIECE = 65536
"""Rows read from the file at a time."""


class SqueezedVectors:
    """Vectors of one width in `file`, of which the first `rows` count; more are left over from a crash, or another's.

    Raises CatalogError when the file is shorter, SettingsError when FAISS is not installed.
    """

    def __init__(self, file: Path, width: int, rows: int) -> None:
        self._faiss: Any = needs("faiss")
        self._file, self._width = file, width
        file.touch()
        if file.stat().st_size < rows * width * 4:
            raise CatalogError(f"{file} is shorter than it should be; delete its folder and index again.")
        self._map(rows)
        self._trained = 0
        self._codes: Any = None
        self._squeeze()

    def append(self, vectors: Vectors) -> None:
        """Add rows, shape (added, width); on disk when it returns."""
        with self._file.open("r+b") as out:
            out.seek(len(self._exact) * self._width * 4)
            out.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            out.flush()
            os.fsync(out.fileno())
        self._map(len(self._exact) + len(vectors))
        if len(self._exact) >= 2 * self._trained:
            self._squeeze()
        else:
            self._codes.add(vectors)

    def top(self, vector: Vectors, allowed: NDArray[np.bool_]) -> Ranked:
        """The best rows by cosine with `vector` among `allowed`, shape (rows,), exactly scored; up to 60."""
        if not allowed.any():
            return Ranked(np.zeros(0, dtype=np.int64), np.zeros(0))
        selector = None if allowed.all() else self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        params = self._faiss.SearchParameters(sel=selector) if selector else None
        found = self._codes.search(vector[None], min(RESCORED, len(allowed)), params=params)[1][0]
        rows = found[found >= 0].astype(np.int64)
        scores = self.scores(vector, rows)
        order = np.lexsort((rows, -scores))
        return Ranked(rows[order], scores[order])

    def scores(self, vector: Vectors, rows: Rows) -> Scores:
        """The exact cosines of `rows` with `vector`."""
        return (np.asarray(self._exact[rows]) @ vector).astype(np.float64)

    @property
    def nbytes(self) -> int:
        """Bytes in memory: the codes."""
        return len(self._exact) * self._width

    def _map(self, rows: int) -> None:
        shape = (rows, self._width)
        self._exact: Vectors = np.memmap(self._file, "<f4", "r", shape=shape) if rows else np.zeros(shape, np.float32)

    def _squeeze(self) -> None:
        """The codes anew, with the range of every dimension taken from the vectors there are."""
        kind = self._faiss.ScalarQuantizer.QT_8bit
        self._codes = self._faiss.IndexScalarQuantizer(self._width, kind, self._faiss.METRIC_INNER_PRODUCT)
        self._trained = len(self._exact)
        if not self._trained:
            return
        step = max(1, self._trained // _PIECE)
        self._codes.train(np.ascontiguousarray(self._exact[::step]))
        for start in range(0, self._trained, _PIECE):
            self._codes.add(np.ascontiguousarray(self._exact[start : start + _PIECE]))
