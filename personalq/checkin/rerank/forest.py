"""Boosted decision trees as a few arrays, scored with numpy. It knows columns of numbers, not what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from personalq.errors import RerankerError


@dataclass(frozen=True)
class Forest:
    """The nodes of all trees in a row: a leaf is its own left and right, and only leaves have a value."""

    column: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    roots: NDArray[np.int32]
    base: NDArray[np.float32]
    """What no tree has added to yet, shape (1,)."""

    def score(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of one leaf a tree for every row of `table`, shape (rows, columns) -> (rows,); a log-odds."""
        at = np.broadcast_to(self.roots, (len(table), len(self.roots)))
        rows = np.arange(len(table))[:, None]
        while True:
            goes_left = table[rows, self.column[at]] <= self.threshold[at]
            below = np.where(goes_left, self.left[at], self.right[at])
            if np.array_equal(below, at):
                return np.asarray(self.value[at].sum(axis=1, dtype=np.float64) + float(self.base[0]))
            at = below

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors."""
        save_file(dict(vars(self)), path)

    @classmethod
    def read(cls, path: Path, columns: int) -> Forest:
        """Raises RerankerError when the file is missing, is no forest or looks at columns beyond `columns`."""
        try:
            forest = cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as broken:
            raise RerankerError(f"{path.name} cannot be used ({broken}); install PersonalQ anew.") from broken
        nodes = len(forest.column)
        inside = all(
            len(each) == nodes and each.min() >= 0 and each.max() < nodes for each in (forest.left, forest.right)
        )
        if not inside or forest.column.max() >= columns:
            raise RerankerError(f"{path.name} was fitted for other features; run personalq.checkin.rerank.training.")
        return forest
