"""Arrays that grow at the end without copying what they hold each time. They know nothing of what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


class Growing:
    """An array of shape (rows, *width) that doubles its room when it is full."""

    def __init__(self, dtype: DTypeLike, width: tuple[int, ...] = ()) -> None:
        self._room: NDArray[Any] = np.zeros((0, *width), dtype=dtype)
        self._rows = 0

    def extend(self, values: ArrayLike) -> None:
        """Append rows, shape (added, *width)."""
        added = np.asarray(values, dtype=self._room.dtype).reshape(-1, *self._room.shape[1:])
        rows = self._rows + len(added)
        if rows > len(self._room):
            room = rows if self._rows == 0 else max(rows, 2 * self._rows)
            wider = np.zeros((room, *self._room.shape[1:]), dtype=self._room.dtype)
            wider[: self._rows] = self._room[: self._rows]
            self._room = wider
        self._room[self._rows : rows] = added
        self._rows = rows

    @property
    def values(self) -> NDArray[Any]:
        """The rows so far; a view, to be read again after `extend`."""
        return self._room[: self._rows]

    @property
    def nbytes(self) -> int:
        """Bytes set aside, used or not."""
        return int(self._room.nbytes)
