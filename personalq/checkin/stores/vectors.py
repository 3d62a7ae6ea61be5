"""Sentence vectors on disk by the hash of their text, so that no text is encoded twice. It encodes nothing.

A cache is a folder of immutable segments: `keys.npy`, sorted, shape (n, 4) of uint64, and `vectors.npy`, shape (n,
width). A segment is written beside and renamed into place, so that a crash leaves a whole one or none.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.stores.protocol import Vectors

Keys = NDArray[np.uint64]
_SMALL = 4096
"""Rows; smaller segments are merged when there are `_MANY` of them."""
_MANY = 32


@dataclass(frozen=True)
class _Segment:
    folder: Path | None
    """None: it is only in memory."""
    keys: Keys
    vectors: Vectors


class VectorCache:
    """Vectors of one encoder. Several processes may share the folder; a broken segment counts as absent."""

    def __init__(self, folder: Path, width: int) -> None:
        self._folder = folder
        self._width = width
        self._segments = [found for path in sorted(folder.glob("*.segment")) if (found := _open(path, width))]

    def get(self, texts: Sequence[str]) -> dict[str, Vectors]:
        """The vectors that are known, by text."""
        keys = _keys(texts)
        found: dict[str, Vectors] = {}
        for segment in self._segments:
            first = np.searchsorted(segment.keys[:, 0], keys[:, 0])
            near = np.minimum(first, len(segment.keys) - 1)
            for at in np.flatnonzero((segment.keys[near] == keys).all(axis=1)).tolist():
                found[texts[at]] = np.asarray(segment.vectors[near[at]])
        return found

    def put(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep vectors, shape (texts, width): on disk when it returns, in memory alone where the disk refuses."""
        self._segments.append(self._kept(_keys(texts), vectors))
        small = [segment for segment in self._segments if len(segment.keys) < _SMALL]
        if len(small) < _MANY:
            return
        keys = np.concatenate([segment.keys for segment in small])
        merged = self._kept(keys, np.concatenate([segment.vectors for segment in small]))
        self._segments = [segment for segment in self._segments if len(segment.keys) >= _SMALL] + [merged]
        for segment in small:
            if segment.folder and merged.folder:
                shutil.rmtree(segment.folder, ignore_errors=True)

    def _kept(self, keys: Keys, vectors: Vectors) -> _Segment:
        order = np.argsort(keys[:, 0], kind="stable")
        keys, vectors = keys[order], vectors[order].astype(np.float32)
        with suppress(OSError):  # the catalogue's index, in the same cache, says what is wrong
            return self._write(keys, vectors)
        return _Segment(None, keys, vectors)

    def _write(self, keys: Keys, vectors: Vectors) -> _Segment:
        name = uuid.uuid4().hex
        unfinished = self._folder / f"{name}.unfinished"
        unfinished.mkdir(parents=True)
        for file, array in (("keys.npy", keys), ("vectors.npy", vectors)):
            with (unfinished / file).open("wb") as out:
                np.save(out, array)
                out.flush()
                os.fsync(out.fileno())
        segment = unfinished.rename(self._folder / f"{name}.segment")
        written = _open(segment, self._width)
        if written is None:
            raise OSError(f"{segment} cannot be read back; free some space on the disk.")
        return written


def _keys(texts: Sequence[str]) -> Keys:
    digests = b"".join(hashlib.sha256(text.encode(errors="surrogatepass")).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 4).astype(np.uint64)


def _open(folder: Path, width: int) -> _Segment | None:
    try:
        keys = np.load(folder / "keys.npy", allow_pickle=False)
        vectors = np.load(folder / "vectors.npy", allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    fits = keys.dtype == np.uint64 and keys.ndim == 2 and keys.shape[1:] == (4,) and len(keys) > 0
    if not fits or vectors.dtype != np.float32 or vectors.shape != (len(keys), width):
        return None
    return _Segment(folder, keys, vectors)
