"""A catalogue on disk, for up to a million checkpoints: tantivy for text, FAISS and a file of vectors for meaning.

What counts is what the manifest says. Additions go to the ends of files, then a new manifest is renamed over the old.
A few additions and removals are only noted, and reach the text index together: its commits are slow. A crash at any
point loses what was not in the manifest yet, and is mended when the store is opened.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from personalq.checkin.clock import Clock
from personalq.checkin.lexical import idf
from personalq.checkin.stores.late import LateText, merged
from personalq.checkin.stores.manifest import FORMAT, Manifest, append_lines, read_lines
from personalq.checkin.stores.protocol import Entry, Footprint, Found, Query, Ranked, Rows, Scores, Vectors
from personalq.checkin.stores.register import Register
from personalq.checkin.stores.squeezed import SqueezedVectors
from personalq.checkin.stores.textual import FIELDS, K1, TextIndex
from personalq.errors import CatalogError

_DEPTH = 100
"""Rows of the two lists by text."""
_HITS = 60
LATE, SHARE = 256, 20
"""Rows that wait for the text index: at most 256, and a twentieth of those in it, so that its idf stays true."""


class DiskStore:
    """`Store` in `folder`. One process writes; others may have it open, and see what was there when they opened it.

    A folder of another encoder, width or format is emptied. Raises SettingsError when tantivy or FAISS is not
    installed, CatalogError when the files cannot be used or another process is writing.
    """

    name = "disk: tantivy and FAISS"
    piece = 4096
    keeps_vectors = True

    def __init__(self, folder: Path, width: int, encoder: str) -> None:
        self._folder = folder
        self._file = folder / "manifest.json"
        found = Manifest.read(self._file)
        if found is None or (found.encoder, found.width, found.format) != (encoder, width, FORMAT):
            shutil.rmtree(folder, ignore_errors=True)
            found = Manifest(encoder, width)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CatalogError(f"{folder} cannot be made ({error.strerror}); choose another cache folder.") from error
        self._open(found)

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
        """Nothing to be told."""

    def add(self, entries: Sequence[Entry], titles: Vectors, bodies: Vectors) -> None:
        """Store new ids with their vectors, shape (entries, width) each."""
        with self._changing():
            first = self.size
            rows = append_lines(self._folder / "rows.jsonl", self._manifest.bytes, [_brief(entry) for entry in entries])
            self._titles.append(titles)
            self._bodies.append(bodies)
            late = dict(enumerate(entries, start=first))
            terms = {name: sum(len(split(e.text)) for e in entries) for name, (split, _) in FIELDS.items()}
            changes = {
                "rows": first + len(entries),
                "bytes": rows,
                "terms": {name: self._manifest.terms.get(name, 0) + count for name, count in terms.items()},
            }
            if len(self._late) + len(entries) > self._patience:
                self._fold(late, changes)
            else:
                told = [[row, entry.text, list(entry.phrases)] for row, entry in late.items()]
                self._note(
                    late_bytes=append_lines(self._folder / "late.jsonl", self._manifest.late_bytes, told), **changes
                )
                for row, entry in late.items():
                    self._late.add(row, entry)
            self._register.add(entries)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget ids that are held."""
        if not ids:
            return
        with self._changing():
            rows = self._register.remove(ids)
            for row in rows:
                self._late.remove(row)
            changes = {
                "removed": [*self._manifest.removed, *rows],
                "pending": [*self._manifest.pending, *(row for row in rows if row < self._manifest.indexed)],
            }
            self._note(**changes)
            if len(self._manifest.pending) > self._patience:
                self._fold({}, {})

    def search(self, query: Query, clock: Clock) -> Found:
        """The best 100 rows by words and by grams, the best 60 by titles and by bodies, and some 60 exact hits."""
        allowed = self._register.allowed(query.wanted)
        with clock.stage("lexical"):
            wanted = self._text.filter(*self._register.names_allowed(query.wanted))
            beyond = len(self._manifest.pending)
            lists = [
                merged((self._text.top(name, query.text, _DEPTH + beyond, wanted), self._latest(name, query.text)),
                       allowed, _DEPTH)
                for name in FIELDS
            ]  # fmt: skip
            hits = [self._text.within(query.text, _HITS + beyond, wanted), self._late.within(query.text)]
        with clock.stage("dense"):
            titles, bodies = self._titles.top(query.vector, allowed), self._bodies.top(query.vector, allowed)
        hit = np.sort(np.concatenate(hits))
        return Found((lists[0], lists[1], titles, bodies), hit[allowed[hit]], lambda rows: self._scores(query, rows))

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
        """The idf of a word."""
        return self._rarity("words", word)

    def footprint(self) -> Footprint:
        """Codes and rows in memory, every file on disk; what the system keeps of mapped files is not counted."""
        disk = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        return Footprint(self._titles.nbytes + self._bodies.nbytes + self._register.nbytes, disk)

    def close(self) -> None:
        """Let another process write."""
        self._text.close()

    def _latest(self, name: str, text: str) -> Ranked:
        mean = self._manifest.terms.get(name, 0) / max(self._manifest.rows, 1)
        return self._late.top(name, text, lambda term: self._rarity(name, term), mean)

    def _rarity(self, name: str, term: str) -> float:
        total, holders = len(self), self._text.holders(name, term) + self._late.holders(name, term)
        return idf(total, min(total, holders))

    @property
    def _patience(self) -> int:
        """How many rows may wait for the text index."""
        return min(LATE, self._manifest.indexed // SHARE)

    def _scores(self, query: Query, rows: Rows) -> Scores:
        table = np.zeros((len(rows), 4))
        order = np.argsort(rows)
        for column, name in enumerate(FIELDS):
            for found in (self._text.scores(name, query.text, rows), self._latest(name, query.text)):
                mine = np.isin(found.rows, rows)
                table[order[np.searchsorted(rows, found.rows[mine], sorter=order)], column] = found.scores[mine]
        table[:, 2] = self._titles.scores(query.vector, rows)
        table[:, 3] = self._bodies.scores(query.vector, rows)
        return table

    def _open(self, manifest: Manifest) -> None:
        """Everything the manifest counts, and nothing more; anew when another process changes it meanwhile."""
        while True:
            self._manifest = manifest
            try:
                self._load(manifest)
                return
            except CatalogError:
                now = Manifest.read(self._file)
                if now is None or now.written == manifest.written:
                    raise
                manifest = now

    def _load(self, manifest: Manifest) -> None:
        self._register = self._read_rows(manifest)
        self._late = self._read_late(manifest)
        self._titles = SqueezedVectors(self._folder / "titles.f32", manifest.width, manifest.rows)
        self._bodies = SqueezedVectors(self._folder / "bodies.f32", manifest.width, manifest.rows)
        self._text = TextIndex(self._folder / "text")
        waiting = set(manifest.pending)
        gone = sum(row < manifest.indexed and row not in waiting for row in manifest.removed)
        if self._text.beyond(manifest.indexed) or len(self._text) != manifest.indexed - gone:
            self._mend(manifest)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """As the only process that writes, for as long as it takes; what is half done when it fails is undone."""
        self._text.open_writer()
        try:
            found = Manifest.read(self._file)
            if found is not None and found.written != self._manifest.written:
                raise CatalogError(f"The index at {self._folder} was changed elsewhere; open the catalogue again.")
            try:
                yield
            except BaseException:
                self._text.close()
                self._open(Manifest.read(self._file) or Manifest(self._manifest.encoder, self._manifest.width))
                raise
        finally:
            self._text.release()

    def _fold(self, more: Mapping[int, Entry], changes: Mapping[str, object]) -> None:
        """Bring the text index up to date: `more` rows, those noted late, and without those removed."""
        self._text.add({**self._late.entries, **more})
        self._text.remove(self._manifest.pending)
        self._text.commit()
        rows = self._manifest.rows + len(more)
        self._note(**{**changes, "indexed": rows, "late_bytes": 0, "pending": []})
        self._late = LateText()

    def _note(self, **changes: object) -> None:
        self._manifest = replace(self._manifest, written=self._manifest.written + 1, **changes)  # type: ignore[arg-type]
        self._manifest.write(self._file)

    def _read_rows(self, manifest: Manifest) -> Register:
        register = Register()
        file = self._folder / "rows.jsonl"
        try:
            lines = read_lines(file, manifest.bytes)
            entries = [Entry(str(i), "", (), base, str(kind), str(print)) for i, print, base, kind in lines]
            register.add(entries, frozenset(manifest.removed))
        except (ValueError, TypeError, KeyError, IndexError) as broken:
            raise CatalogError(f"{file} is damaged ({broken}); delete {self._folder} and index again.") from None
        if register.size != manifest.rows:
            raise CatalogError(f"{file} is shorter than it should be; delete {self._folder} and index again.")
        return register

    def _read_late(self, manifest: Manifest) -> LateText:
        late = LateText()
        file = self._folder / "late.jsonl"
        gone = frozenset(manifest.removed)
        try:
            for row, text, phrases in read_lines(file, manifest.late_bytes):
                if row not in gone:
                    late.add(row, Entry(self._register.id(row), text, tuple(phrases), None, "", ""))
        except (ValueError, TypeError, IndexError) as broken:
            raise CatalogError(f"{file} is damaged ({broken}); delete {self._folder} and index again.") from None
        return late

    def _mend(self, manifest: Manifest) -> None:
        """Make the text index hold what the manifest says: a crash, or another process, came between the two."""
        self._text.open_writer()
        try:
            now = Manifest.read(self._file)
            if now is not None and now.written != manifest.written:
                raise CatalogError(f"The index at {self._folder} was changed while it was opened; try again.")
            self._text.remove_from(manifest.indexed)
            self._text.remove(manifest.removed)
            self._text.commit()
        finally:
            self._text.release()
        self._manifest = replace(manifest, pending=[])
        if len(self._text) != manifest.indexed - sum(row < manifest.indexed for row in manifest.removed):
            raise CatalogError(f"The text index at {self._folder} has lost rows; delete the folder and index again.")


def _brief(entry: Entry) -> list[str | None]:
    return [entry.id, entry.fingerprint, entry.base, entry.kind]
