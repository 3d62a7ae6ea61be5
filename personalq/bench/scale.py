"""Check-in on made-up catalogues of growing size: latency by stage, BM25 against rank-bm25, additions, bytes.

It measures speed, not quality. Random unit vectors stand in for the documents' vectors where a row says so; requests,
and what is added, are always encoded.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from personalq.bench.crowd import catalogue, requests
from personalq.bench.report import device_line, table
from personalq.catalog.document import search_text
from personalq.checkin.clock import Clock
from personalq.checkin.decide import STAGES
from personalq.checkin.dense import Encoder, Progress
from personalq.checkin.dialogue import CheckIn
from personalq.checkin.lexical import Postings, okapi, query_words
from personalq.checkin.stores.choose import Server
from personalq.checkin.stores.protocol import Query, Vectors
from personalq.checkin.words import words
from personalq.errors import BenchError
from personalq.records import Checkpoint, Request

SIZES = (1_000, 10_000, 100_000)
REQUESTS = 100
CHANGES = 20
WARM = 5
_AGAINST = 8
"""Requests put to rank-bm25, which takes half a second each at 100,000."""
_AGAINST_UP_TO = 100_000
_TOP = 20


class StandIn(Encoder):
    """Random unit vectors for documents until `encoding` is set; requests are always encoded."""

    encoding = False

    @property
    def identity(self) -> str:
        """Never that of a real encoder: nobody else finds these vectors."""
        return "random"

    def documents(self, texts: Sequence[str], on_progress: Progress | None = None) -> Vectors:
        """One vector a text, shape (N, width); the same for the same number of texts."""
        if self.encoding:
            return super().documents(texts, on_progress)
        drawn = np.random.default_rng(len(texts)).standard_normal((len(texts), self.width), dtype=np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return drawn


def sizes(text: str) -> list[int]:
    """ "1000,10000" as numbers. Raises BenchError for anything else."""
    try:
        return [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError:
        raise BenchError(f"{text!r} is no list of sizes; write it as 1000,10000,100000.") from None


def scale(
    sizes: Sequence[int], store: str | Server = "auto", encoded: bool = False, on_progress: Progress | None = None
) -> dict[str, Any]:
    """{"device", "rows"}: one row a size. `encoded` computes the documents' vectors: about 50 texts a second.

    Raises BenchError for a size below 100, or when a checkpoint that was added is not found.
    """
    if any(size < 100 for size in sizes):
        raise BenchError("The benchmark needs catalogues of 100 checkpoints or more; pass another --n.")
    rows = []
    for done, size in enumerate(sizes):
        if on_progress:
            on_progress(done, len(sizes), f"{size:,} checkpoints")
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measured(size, Path(folder), store, encoded, on_progress))
        gc.collect()
    return {"device": device_line(torch.device("cpu")), "requests": REQUESTS, "rows": rows}


def measured(
    size: int, folder: Path, store: str | Server, encoded: bool, on_progress: Progress | None = None
) -> dict[str, Any]:
    """One row: see `as_text`."""
    made = list(catalogue(size + CHANGES))
    known, late = made[:size], made[size:]
    encoder = Encoder(folder) if encoded else StandIn(folder)
    encoder.query("ready")
    begun = perf_counter()
    checkin = CheckIn(known, folder, on_progress=on_progress, encoder=encoder, store=store)
    built = perf_counter() - begun
    texts = requests(known, REQUESTS + WARM)
    row: dict[str, Any] = {
        "n": size,
        "store": checkin.index.store.name,
        "vectors": "encoded" if encoded else "random",
        "build_s": round(built, 2),
    }
    row |= asked(checkin, texts)
    row |= searched(checkin, texts[WARM:])
    row |= against_rank_bm25(known, texts)
    if isinstance(encoder, StandIn):
        encoder.encoding = True
    row |= changed(checkin, late)
    footprint = checkin.index.store.footprint()
    return row | {"memory_bytes": footprint.memory, "disk_bytes": footprint.disk}


def asked(checkin: CheckIn, texts: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of whole turns, and of their stages, no request asked twice; the first few are not counted."""
    stages: dict[str, list[float]] = {}
    for at, text in enumerate(texts):
        begun = perf_counter()
        decision = checkin.ask(Request(text))
        spent = {**decision.timings_ms, "total": 1e3 * (perf_counter() - begun)}
        for stage, milliseconds in spent.items() if at >= WARM else ():
            stages.setdefault(stage, []).append(milliseconds)
    return {f"{name}_ms": _percentiles(values) for name, values in [("ask", stages.pop("total")), *stages.items()]}


def searched(checkin: CheckIn, texts: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of one search, and of encoding one request, apart from everything else."""
    index = checkin.index
    encode = _timed(lambda text: index.encoder.query(f"{text} please"), texts)
    queries = {text: Query(text, index.encoder.query(text)) for text in texts}
    search = _timed(lambda text: index.store.search(queries[text], Clock()), texts)
    return {"search_ms": _percentiles(search), "encode_ms": _percentiles(encode)}


def against_rank_bm25(checkpoints: Sequence[Checkpoint], texts: Sequence[str]) -> dict[str, Any]:
    """How many times faster the sparse form is than `BM25Okapi.get_scores`, and whether the best 20 are the same."""
    if len(checkpoints) > _AGAINST_UP_TO:
        return {"rank_bm25_ms": None, "sparse_ms": None, "bm25_ratio": None, "bm25_same_top": None}
    documents = [words(search_text(checkpoint)) for checkpoint in checkpoints]
    bm25, postings = okapi(documents), Postings(documents)
    asked_for = [query_words(text) for text in texts[:_AGAINST]]
    for terms in asked_for:
        postings.score(terms)
    slow, quick, same = [], [], True
    for terms in asked_for:
        begun = perf_counter()
        expected = bm25.get_scores(terms)
        between = perf_counter()
        found = postings.score(terms)
        slow.append(1e3 * (between - begun))
        quick.append(1e3 * (perf_counter() - between))
        same &= _top(found) == _top(expected)
    ratio = float(np.median(slow) / np.median(quick))
    times = {"rank_bm25_ms": _percentiles(slow), "sparse_ms": _percentiles(quick)}
    return times | {"bm25_ratio": round(ratio, 1), "bm25_same_top": same}


def changed(checkin: CheckIn, late: Sequence[Checkpoint]) -> dict[str, Any]:
    """Milliseconds until an addition, its two texts encoded, and a removal are visible to the next request.

    Raises BenchError when they are not.
    """
    index = checkin.index
    added = _timed(lambda checkpoint: checkin.add([checkpoint]), late)
    for checkpoint in late:
        vector = index.encoder.query(checkpoint.name)
        hits = index.store.search(Query(checkpoint.name, vector), Clock()).hits
        if checkpoint.id not in {index.store.id(row) for row in hits.tolist()}:
            raise BenchError(f"{checkpoint.id} was added and is not found.")
    gone = _timed(lambda checkpoint: checkin.remove([checkpoint.id]), late)
    if index.store.rows([checkpoint.id for checkpoint in late]):
        raise BenchError("A checkpoint was removed and is still found.")
    return {"add_ms": _percentiles(added), "remove_ms": _percentiles(gone)}


_TIMES = ("n", "store", "vectors", "ask_ms", "search_ms", "encode_ms", "rerank_ms", "add_ms", "remove_ms")
_STAGES = ("n", *(f"{stage}_ms" for stage in STAGES))
_BYTES = ("n", "build_s", "rank_bm25_ms", "sparse_ms", "bm25_ratio", "bm25_same_top", "memory_bytes", "disk_bytes")


def as_text(result: dict[str, Any]) -> str:
    """The result as three tables for people, milliseconds as "p50 / p95"."""
    head = f"{result['device']}, {result['requests']} requests a row, milliseconds as p50 / p95"
    tables = [
        table([{name: _cell(row[name]) for name in columns} for row in result["rows"]])
        for columns in (_TIMES, _STAGES, _BYTES)
    ]
    return "\n\n".join([head, *tables])


def _cell(value: Any) -> object:
    return f"{value['p50']} / {value['p95']}" if isinstance(value, dict) else value


def _timed(work: Callable[[Any], object], items: Sequence[Any]) -> list[float]:
    spent = []
    for item in items:
        begun = perf_counter()
        work(item)
        spent.append(1e3 * (perf_counter() - begun))
    return spent


def _top(scores: np.ndarray) -> list[int]:
    order = np.argsort(-scores, kind="stable")[:_TOP]
    return [int(row) for row in order]


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, [50, 95]).tolist()
    return {"p50": round(p50, 2), "p95": round(p95, 2)}
