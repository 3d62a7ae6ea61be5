"""Texts into sentence vectors, each text once. It knows texts, not checkpoints or requests.

Only the model it loads reaches torch, and only once the first vector is needed.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from personalq.checkin.encoders import PACKAGED, TOKENS, find
from personalq.checkin.stores.protocol import Vectors
from personalq.checkin.stores.vectors import VectorCache

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Progress = Callable[[int, int, str], None]
WIDTH = 384
"""Of the packaged model's vectors."""
_BATCH = 32
_SHORT = 40
"""Characters; between texts shorter than this the difference costs nothing."""
_QUERIES_KEPT = 512
_KEPT_AT_ONCE = 1024
"""New vectors between two writes to the cache: what a crash can lose."""


class Encoder:
    """Texts to unit vectors, of the packaged model or of `model`, a sentence-transformers folder or Hub id.

    Document vectors are kept under `cache` by encoder and text, while `keeping`. Raises ModelError when `model` cannot
    be found.
    """

    keeping = True
    """Whether new vectors go to the cache; a store that keeps them itself has no need of it."""

    def __init__(self, cache: Path | None = None, model: str | None = None) -> None:
        self._source = find(model)
        self._model: SentenceTransformer | None = None
        self._queries: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.RLock()
        packaged = self._source.identity == f"{PACKAGED}-{TOKENS}"
        self.width = WIDTH if packaged else int(self._loaded().get_embedding_dimension() or 0)
        folder = cache / "vectors" / self.identity if cache else None
        self._cache = VectorCache(folder, self.width) if folder else None

    def borrowed(self) -> Encoder:
        """The same encoder for texts that are nobody else's: it reads the kept vectors and adds none to them."""
        twin = copy.copy(self)
        twin.keeping = False
        return twin

    @property
    def identity(self) -> str:
        """Vectors may be compared only where this is the same."""
        return self._source.identity

    def query(self, text: str) -> Vectors:
        """One vector, shape (width,). Recent queries are remembered."""
        return self.queries([text])[0]

    def queries(self, texts: Sequence[str]) -> list[Vectors]:
        """One vector a text, shape (width,) each; those not remembered are encoded as one batch."""
        with self._lock:
            fresh = [text for text in dict.fromkeys(texts) if text not in self._queries]
            if fresh:
                encoded = self._loaded().encode_query(
                    fresh, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
                )
                self._queries.update(zip(fresh, np.asarray(encoded, dtype=np.float32), strict=True))
            found = []
            for text in texts:
                self._queries.move_to_end(text)
                found.append(self._queries[text])
            while len(self._queries) > max(_QUERIES_KEPT, len(texts)):
                self._queries.popitem(last=False)
            return found

    def documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """One vector a text, shape (N, width); only texts that the cache does not know are encoded."""
        distinct = list(dict.fromkeys(texts))
        with self._lock:
            known = self._cache.get(distinct) if self._cache else {}
        missing = sorted((text for text in distinct if text not in known), key=len)
        fresh: list[tuple[str, Vectors]] = []
        done = 0
        for batch in _batches(missing):
            fresh += zip(batch, self._encode(batch), strict=True)
            done += len(batch)
            if on_progress:
                on_progress(done, len(missing), "describing checkpoints")
            if len(fresh) >= _KEPT_AT_ONCE or done == len(missing):
                known.update(fresh)
                self._keep(fresh)
                fresh = []
        return np.stack([known[text] for text in texts]) if texts else np.zeros((0, self.width), dtype=np.float32)

    def _encode(self, texts: list[str]) -> Vectors:
        with self._lock:
            found = self._loaded().encode_document(
                texts, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(found, dtype=np.float32)

    def _keep(self, fresh: Sequence[tuple[str, Vectors]]) -> None:
        if self._cache and self.keeping:
            with self._lock:
                self._cache.put([text for text, _ in fresh], np.stack([vector for _, vector in fresh]))

    def _loaded(self) -> SentenceTransformer:
        with self._lock:
            if self._model is None:
                self._model = self._source.load()
            return self._model


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts sorted by length in batches of like length: every text of a batch costs as much as its longest."""
    batch: list[str] = []
    for text in texts:
        if batch and (len(batch) == _BATCH or len(text) > 2 * len(batch[0]) + _SHORT):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
