"""A catalogue in a Qdrant collection that several replicas may share. It knows rows only for itself.

BM25 is Qdrant's sparse product: a document's part of the formula is in its vector, with a fixed mean length since what
is stored is not rewritten when the mean changes; the idf is the server's own, ln(1 + (N - n + 0.5) / (n + 0.5)).
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from personalq.checkin.clock import Clock
from personalq.checkin.lexical import idf
from personalq.checkin.profile import spaced
from personalq.checkin.stores.choose import Server
from personalq.checkin.stores.missing import needs
from personalq.checkin.stores.phrases import telling
from personalq.checkin.stores.protocol import (
    LISTS,
    Entry,
    Filter,
    Footprint,
    Found,
    Query,
    Ranked,
    Rows,
    Scores,
    Vectors,
)
from personalq.checkin.stores.register import Register
from personalq.checkin.stores.textual import FIELDS, B
from personalq.errors import CatalogError

K1 = 1.5
MEAN = {"words": 100.0, "grams": 500.0}
"""Terms of a document that counts as neither short nor long."""
_DEPTH, _DENSE, _HITS = 100, 60, 60
_LONGEST = 8
_NAMES = uuid.UUID("6d0f0c5e-6c1f-4d5c-9f52-0d3c2b1f7a11")
_PAGE = 1000


class QdrantStore:
    """`Store` in a collection, made when there is none; one for each encoder.

    Raises SettingsError when qdrant-client is not installed, CatalogError when the server does not answer or refuses.
    """

    piece = 256
    keeps_vectors = True

    def __init__(self, server: Server, width: int, encoder: str) -> None:
        package: Any = needs("qdrant_client")
        self._models: Any = package.models
        self._refusals = _refusals()
        self._where = server.url or str(server.folder or "memory")
        self.name = f"qdrant: {self._where}"
        self._collection = f"{server.collection}-{hashlib.sha256(encoder.encode()).hexdigest()[:8]}"
        self._register = Register()
        self._holders: dict[str, Counter[str]] = {name: Counter() for name in FIELDS}
        self._texts: dict[str, str] = {}
        self._client: Any = self._asked(lambda: _connected(package, server))
        if not self._asked(lambda: self._client.collection_exists(self._collection)):
            self._create(width)
        self._register.add(list(self._asked(lambda: list(self._stored()))))

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
        """Count the terms of entries that the collection held already: the server does not tell how rare they are."""
        for entry in entries:
            self._texts[entry.id] = entry.text
            for name, (split, _) in FIELDS.items():
                self._holders[name].update(set(split(entry.text)))

    def add(self, entries: Sequence[Entry], titles: Vectors, bodies: Vectors) -> None:
        """Store new ids with their vectors, shape (entries, width) each."""
        points = [
            self._point(entry, *vectors)
            for entry, *vectors in zip(entries, titles.tolist(), bodies.tolist(), strict=True)
        ]
        for start in range(0, len(points), self.piece):
            some = points[start : start + self.piece]
            self._asked(lambda some=some: self._client.upsert(self._collection, some, wait=True))  # type: ignore[misc]
        self._register.add(entries)
        self.recall(entries)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget ids that are held."""
        if not ids:
            return
        wanted = self._models.PointIdsList(points=[_point_id(each) for each in ids])
        self._asked(lambda: self._client.delete(self._collection, wanted, wait=True))
        self._register.remove(ids)
        for each in ids:
            text = self._texts.pop(each, "")
            for name, (split, _) in FIELDS.items():
                self._holders[name].subtract(set(split(text)))

    def search(self, query: Query, clock: Clock) -> Found:
        """100 rows by each text, 60 by each vector, up to 60 exact hits, in one exchange, which is told as `dense`."""
        conditions = self._conditions(query.wanted)
        runs = self._runs(query.text)
        with clock.stage("dense"):
            depths = (_DEPTH, _DEPTH, _DENSE, _DENSE)
            requests = [self._request(name, query, conditions, n) for name, n in zip(LISTS, depths, strict=True)]
            hit = self._models.FieldCondition(key="phrases", match=self._models.MatchAny(any=runs or [" "]))
            requests.append(self._models.QueryRequest(
                filter=self._models.Filter(must=[*conditions, hit]), limit=_HITS, with_payload=["id"]
            ))  # fmt: skip
            *lists, hits = self._batch(requests)
        return Found(
            (lists[0], lists[1], lists[2], lists[3]), np.sort(hits.rows), lambda rows: self._scores(query, rows)
        )

    def rows(self, ids: Sequence[str]) -> list[int]:
        """The rows of the ids that are held, in their order."""
        return self._register.rows(ids)

    def id(self, row: int) -> str:
        """The checkpoint of a row."""
        return self._register.id(row)

    def ceilings(self, text: str) -> tuple[float, float]:
        """The highest score possible for `text`, over words and over grams; above 0."""
        over = [sum(self._rarity(name, term) for term in ask(text)) for name, (_, ask) in FIELDS.items()]
        return (K1 + 1) * over[0] or 1.0, (K1 + 1) * over[1] or 1.0

    def rarity(self, word: str) -> float:
        """The idf of a word, as far as this process knows the catalogue."""
        return self._rarity("words", word)

    def footprint(self) -> Footprint:
        """Rows and term counts here; what the server holds is its own affair and counts 0."""
        terms = sum(len(counts) for counts in self._holders.values())
        return Footprint(self._register.nbytes + 100 * terms + sum(map(len, self._texts.values())), 0)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _create(self, width: int) -> None:
        models = self._models
        dense = models.VectorParams(size=width, distance=models.Distance.DOT)
        sparse = models.SparseVectorParams(modifier=models.Modifier.IDF)
        self._asked(lambda: self._client.create_collection(
            self._collection, vectors_config=dict.fromkeys(LISTS[2:], dense),
            sparse_vectors_config=dict.fromkeys(LISTS[:2], sparse),
        ))  # fmt: skip
        for key in ("phrases", "base", "kind") if self._where.startswith("http") else ():
            self._asked(lambda key=key: self._client.create_payload_index(  # type: ignore[misc]
                self._collection, key, models.PayloadSchemaType.KEYWORD
            ))  # fmt: skip

    def _stored(self) -> Iterator[Entry]:
        """Every point of the collection, as far as a register needs it."""
        told, page = ["id", "fingerprint", "base", "kind"], None
        while True:
            points, page = self._client.scroll(self._collection, limit=_PAGE, offset=page, with_payload=told)
            for each in (point.payload for point in points):
                yield Entry(str(each["id"]), "", (), each["base"], str(each["kind"]), str(each["fingerprint"]))
            if page is None:
                return

    def _point(self, entry: Entry, title: list[float], body: list[float]) -> Any:
        vectors: dict[str, Any] = {"titles": title, "bodies": body}
        for name, (split, _) in FIELDS.items():
            counts = Counter(split(entry.text))
            norm = K1 * (1 - B + B * counts.total() / MEAN[name])
            vectors[name] = self._sparse({term: n * (K1 + 1) / (n + norm) for term, n in counts.items()})
        payload = {
            "id": entry.id, "fingerprint": entry.fingerprint, "base": entry.base, "kind": entry.kind,
            "phrases": [phrase for phrase in telling(entry.phrases) if phrase.count(" ") < _LONGEST],
        }  # fmt: skip
        return self._models.PointStruct(id=_point_id(entry.id), vector=vectors, payload=payload)

    def _sparse(self, weights: Mapping[str, float]) -> Any:
        together: dict[int, float] = {}
        for term, weight in weights.items():
            number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big")
            together[number] = together.get(number, 0.0) + weight
        return self._models.SparseVector(indices=list(together), values=list(together.values()))

    def _request(self, name: str, query: Query, conditions: Sequence[Any], limit: int) -> Any:
        """None when the text has no term to ask for."""
        asked = FIELDS[name][1](query.text) if name in FIELDS else []
        if name in FIELDS and not asked:
            return None
        target = self._sparse(Counter(asked)) if asked else query.vector.tolist()
        found = self._models.Filter(must=list(conditions))
        return self._models.QueryRequest(query=target, using=name, filter=found, limit=limit, with_payload=["id"])

    def _conditions(self, wanted: Filter) -> list[Any]:
        """What a point must be: of an allowed base, of an allowed kind."""
        models = self._models
        bases, kinds = self._register.names_allowed(wanted)
        found = []
        if bases is not None:
            known = models.FieldCondition(key="base", match=models.MatchAny(any=[base for base in bases if base]))
            unknown = models.IsNullCondition(is_null=models.PayloadField(key="base"))
            found.append(models.Filter(should=[known, *([unknown] if None in bases else [])]))
        if kinds is not None:
            found.append(models.FieldCondition(key="kind", match=models.MatchAny(any=kinds)))
        return found

    def _batch(self, requests: Sequence[Any]) -> list[Ranked]:
        asked = [request for request in requests if request is not None]
        answers = iter(self._asked(lambda: self._client.query_batch_points(self._collection, asked)))
        return [self._ranked(next(answers).points if request is not None else []) for request in requests]

    def _ranked(self, points: Sequence[Any]) -> Ranked:
        """Points as rows; those another replica added since are not known here, and left out."""
        known = [(self._register.rows([point.payload["id"]]), point.score) for point in points]
        pairs = [(rows[0], score) for rows, score in known if rows]
        rows = np.asarray([row for row, _ in pairs], dtype=np.int64)
        scores = np.asarray([score for _, score in pairs], dtype=np.float64)
        order = np.lexsort((rows, -scores))
        return Ranked(rows[order], scores[order])

    def _scores(self, query: Query, rows: Rows) -> Scores:
        table = np.zeros((len(rows), 4))
        if len(rows):
            mine = self._models.HasIdCondition(has_id=[_point_id(self.id(row)) for row in rows.tolist()])
            order = np.argsort(rows)
            for column, found in enumerate(self._batch([self._request(n, query, [mine], len(rows)) for n in LISTS])):
                table[order[np.searchsorted(rows, found.rows, sorter=order)], column] = found.scores
        return table

    def _rarity(self, name: str, term: str) -> float:
        return idf(len(self), min(len(self), max(0, self._holders[name][term])))

    @staticmethod
    def _runs(text: str) -> list[str]:
        said = spaced(text).split()
        return sorted({" ".join(said[at : at + n]) for at in range(len(said)) for n in range(1, _LONGEST + 1)})

    def _asked(self, question: Callable[[], Any]) -> Any:
        """The server's answer; its refusals as ours."""
        try:
            return question()
        except self._refusals as refused:
            raise CatalogError(
                f"The Qdrant store at {self._where} failed ({type(refused).__name__}: {str(refused)[:200]}); check "
                "PERSONALQ_QDRANT_URL and that the server runs, or set PERSONALQ_STORE=auto."
            ) from None


def _connected(package: Any, server: Server) -> Any:
    if server.url:
        return package.QdrantClient(url=server.url, api_key=server.key, timeout=30)
    return package.QdrantClient(path=str(server.folder)) if server.folder else package.QdrantClient(":memory:")


def _refusals() -> tuple[type[Exception], ...]:
    exceptions: Any = needs("qdrant_client.http.exceptions")
    return exceptions.ApiException, OSError, RuntimeError


def _point_id(identifier: str) -> str:
    return str(uuid.uuid5(_NAMES, identifier))
