"""The catalogue as an index: a slot of a request in, a short list of candidates out. It decides nothing."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from personalq.catalog.document import search_text
from personalq.checkin.clock import Clock
from personalq.checkin.dense import Encoder, Progress
from personalq.checkin.fuse import reciprocal_ranks, shortlist
from personalq.checkin.intent import remaining
from personalq.checkin.profile import Profiles, body, phrases, title
from personalq.checkin.stores.choose import Server, open_store
from personalq.checkin.stores.protocol import Entry, Filter, Query, Rows, Scores, Store
from personalq.checkin.words import stem, words
from personalq.errors import CatalogError
from personalq.records import Candidate, Checkpoint, Intent

VERSIONS = 4
"""Versions of one model on a short list."""


def allowed(checkpoint: Checkpoint, intent: Intent, loaded: str | None) -> bool:
    """False for another base than the one loaded or asked for, and for another kind where the kind asked for is not
    simply "lora", which people say of any checkpoint. An unknown base is allowed."""
    wanted = _filter(intent, loaded)
    return wanted.base(checkpoint.base) and wanted.allows(checkpoint.kind)


class Index:
    """Everything that can be known of a catalogue before a request. Duplicate ids keep the first record."""

    def __init__(
        self,
        checkpoints: Iterable[Checkpoint],
        cache: Path | None = None,
        on_progress: Progress | None = None,
        encoder: str | Encoder | None = None,
        store: str | Server = "auto",
    ) -> None:
        self._lock = threading.RLock()
        self._changing = threading.Lock()
        self._records: dict[str, Checkpoint] = {}
        self._groups: dict[str, dict[str, None]] = {}
        self._bases: Counter[str] = Counter()
        self._nouns: Counter[str] = Counter()
        self._said: tuple[tuple[str, ...], frozenset[str]] | None = None
        self.by_id = Profiles(self._records)
        self.encoder = encoder if isinstance(encoder, Encoder) else Encoder(cache, encoder)
        unique = _unique(checkpoints)
        folder = cache / "stores" / self.encoder.identity / _place(unique.values()) if cache else None
        self._store = open_store(store, len(unique), self.encoder.width, self.encoder.identity, folder)
        self.encoder.keeping = not self._store.keeps_vectors
        self._fill(unique, on_progress)
        if self._records:
            self.encoder.query("ready")

    @property
    def checkpoints(self) -> Collection[Checkpoint]:
        """Every checkpoint, in the order it came."""
        return self._records.values()

    @property
    def bases(self) -> tuple[str, ...]:
        """The base models of the catalogue, by name."""
        return self._vocabulary()[0]

    @property
    def nouns(self) -> frozenset[str]:
        """The stems of the catalogue's class nouns."""
        return self._vocabulary()[1]

    @property
    def store(self) -> Store:
        """Where rows are found; `store.name` says which kind."""
        return self._store

    @property
    def rarity(self) -> Callable[[str], float]:
        """The idf of a word in this catalogue."""
        return self._store.rarity

    def members(self, group: str) -> tuple[Checkpoint, ...]:
        """All versions of one model."""
        return tuple(self._records[identifier] for identifier in self._groups.get(group, ()))

    def add(self, checkpoints: Iterable[Checkpoint], on_progress: Progress | None = None) -> None:
        """Make checkpoints findable at once; ids that are known already keep their first record."""
        with self._changing:
            new = _unique(checkpoints)
            self._put([each for each in new.values() if each.id not in self._records], on_progress)

    def remove(self, ids: Iterable[str]) -> None:
        """Forget checkpoints; unknown ids are left out."""
        with self._changing, self._lock:
            gone = [identifier for identifier in dict.fromkeys(ids) if identifier in self._records]
            self._store.remove(gone)
            for identifier in gone:
                self._forget(self._records.pop(identifier))

    def with_own(self, own: Iterable[Checkpoint]) -> Index:
        """A copy with more checkpoints, for one visitor: this one does not see them, and nothing is written to disk.

        Raises CatalogError for a catalogue so large that it is not kept in memory.
        """
        if self._store.name != "memory":
            raise CatalogError(
                f"Concepts cannot be added to a catalogue of {len(self._records)}: put the file into the repository."
            )
        twin = copy.copy(self)
        twin._lock, twin._changing = threading.RLock(), threading.Lock()
        with self._lock:
            twin._records, twin._bases, twin._nouns = dict(self._records), self._bases.copy(), self._nouns.copy()
            twin._groups = {group: dict(members) for group, members in self._groups.items()}
            twin._store = copy.deepcopy(self._store)
        twin.by_id, twin.encoder = Profiles(twin._records), self.encoder.borrowed()
        twin.add(own)
        return twin

    def prepare(self, intents: Sequence[Intent], clock: Clock) -> None:
        """Encode the texts of several slots as one batch, cheaper than one by one, for `candidates` to find."""
        with clock.stage("dense"):
            self.encoder.queries([remaining(intent) for intent in intents])

    def candidates(self, intent: Intent, loaded: str | None, clock: Clock) -> list[Candidate]:
        """The short list for one slot, best first, of the checkpoints that are `allowed`.

        Adds the milliseconds of `lexical`, `dense` and `fuse` to `clock`.
        """
        if not self._records:
            return []
        query = self._query(intent, loaded, clock)
        with self._lock:
            found = self._store.search(query, clock)
            with clock.stage("fuse"):
                fused = reciprocal_ranks(found.lists, self._store.size)
                rows = self._usable(shortlist(fused, found.lists, found.hits, self._varied), query.wanted)
                return self._gather(query.text, rows, found.scores(rows), fused[rows])

    def _varied(self, rows: Rows) -> Rows:
        """The rows without more than `VERSIONS` of one model: fifty versions would leave no room for another."""
        seen: Counter[str] = Counter()
        kept = []
        for row in rows.tolist():
            group = _group(self._records[self._store.id(row)])
            seen[group] += 1
            if seen[group] <= VERSIONS:
                kept.append(row)
        return np.asarray(kept, dtype=np.int64)

    def rescore(self, intent: Intent, ids: Sequence[str], clock: Clock) -> list[Candidate]:
        """The checkpoints `ids`, in their order, scored for another text. Unknown ids are left out."""
        query = replace(self._query(intent, None, clock), wanted=Filter())
        with self._lock:
            found = self._store.search(query, clock)
            fused = reciprocal_ranks(found.lists, self._store.size)
            rows = np.asarray(self._store.rows(ids), dtype=np.int64)
            return self._gather(query.text, rows, found.scores(rows), fused[rows])

    def _fill(self, wanted: dict[str, Checkpoint], on_progress: Progress | None) -> None:
        """Bring a store that may hold an earlier catalogue up to this one: only what changed is touched."""
        held = dict(self._store.held())
        known = (_entry(wanted[each]) for each in held if each in wanted)
        kept = [entry for entry in known if entry.fingerprint == held[entry.id]]
        self._store.remove(list(held.keys() - {entry.id for entry in kept}))
        self._store.recall(kept)
        for entry in kept:
            self._note(wanted[entry.id])
        self._put([each for each in wanted.values() if each.id not in self._records], on_progress)

    def _put(self, new: Sequence[Checkpoint], on_progress: Progress | None) -> None:
        """Encode and store checkpoints, in pieces that a store on disk keeps even if the next one fails."""
        for start in range(0, len(new), self._store.piece):
            piece = new[start : start + self._store.piece]
            texts = [title(checkpoint) for checkpoint in piece] + [body(checkpoint) for checkpoint in piece]
            told = _shifted(on_progress, 2 * start, 2 * len(piece), 2 * len(new))
            vectors = self.encoder.documents(texts, told)
            entries = [_entry(checkpoint) for checkpoint in piece]
            with self._lock:
                self._store.add(entries, vectors[: len(piece)], vectors[len(piece) :])
                for checkpoint in piece:
                    self._note(checkpoint)

    def _query(self, intent: Intent, loaded: str | None, clock: Clock) -> Query:
        text = remaining(intent)
        with clock.stage("dense"):
            return Query(text, self.encoder.query(text), _filter(intent, loaded))

    def _usable(self, rows: Rows, wanted: Filter) -> Rows:
        """The rows a filter allows. A list with few matches goes on with rows that match nothing, allowed or not."""
        found = [self._records[self._store.id(row)] for row in rows.tolist()]
        return rows[[wanted.base(each.base) and wanted.allows(each.kind) for each in found]]

    def _gather(self, text: str, rows: Rows, scores: Scores, fused: Scores) -> list[Candidate]:
        best_words, best_grams = self._store.ceilings(text)
        return [
            Candidate(
                checkpoint=self._records[self._store.id(row)],
                lexical=by_words / best_words,
                grams=by_grams / best_grams,
                dense=by_title,
                body=by_body,
                fused=together,
            )
            for row, (by_words, by_grams, by_title, by_body), together in zip(
                rows.tolist(), scores.tolist(), fused.tolist(), strict=True
            )
        ]

    def _vocabulary(self) -> tuple[tuple[str, ...], frozenset[str]]:
        """Bases and nouns, worked out again only after the catalogue changed."""
        with self._lock:
            if self._said is None:
                self._said = tuple(sorted(self._bases)), frozenset(stem(noun) for noun in self._nouns)
            return self._said

    def _note(self, checkpoint: Checkpoint) -> None:
        self._records[checkpoint.id] = checkpoint
        self._groups.setdefault(_group(checkpoint), {})[checkpoint.id] = None
        self._bases.update(_bases(checkpoint))
        self._nouns.update(_nouns(checkpoint))
        self._said = None

    def _forget(self, checkpoint: Checkpoint) -> None:
        self.by_id.pop(checkpoint.id, None)
        del self._groups[_group(checkpoint)][checkpoint.id]
        if not self._groups[_group(checkpoint)]:
            del self._groups[_group(checkpoint)]
        self._bases -= Counter(_bases(checkpoint))
        self._nouns -= Counter(_nouns(checkpoint))
        self._said = None


def _filter(intent: Intent, loaded: str | None) -> Filter:
    return Filter(loaded, intent.base, intent.kind)


def _unique(checkpoints: Iterable[Checkpoint]) -> dict[str, Checkpoint]:
    unique: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        unique.setdefault(checkpoint.id, checkpoint)
    return unique


def _place(checkpoints: Iterable[Checkpoint]) -> str:
    """A name for where the files of a catalogue lie, so that two catalogues do not share a store."""
    folders = {str(Path(checkpoint.files[0]).parent) for checkpoint in checkpoints if checkpoint.files}
    try:
        place = os.path.commonpath(folders)
    except ValueError:
        place = ""
    return hashlib.sha256(place.encode(errors="surrogatepass")).hexdigest()[:16]


def _shifted(on_progress: Progress | None, before: int, piece: int, total: int) -> Progress | None:
    """Progress of one piece, of which only the missing part is encoded, told as progress of the whole."""
    if on_progress is None:
        return None
    return lambda done, missing, what: on_progress(before + piece - missing + done, total, what)


def _group(checkpoint: Checkpoint) -> str:
    return checkpoint.group_id or checkpoint.id


def _bases(checkpoint: Checkpoint) -> list[str]:
    return [checkpoint.base] if checkpoint.base else []


def _nouns(checkpoint: Checkpoint) -> list[str]:
    return words(checkpoint.class_noun or "", glued=False)


def _entry(checkpoint: Checkpoint) -> Entry:
    text, names = search_text(checkpoint), phrases(checkpoint)
    told = (text, title(checkpoint), body(checkpoint), names, checkpoint.base, checkpoint.kind)
    fingerprint = hashlib.sha256(repr(told).encode(errors="surrogatepass")).hexdigest()[:32]
    return Entry(checkpoint.id, text, names, checkpoint.base, checkpoint.kind, fingerprint)
