"""A catalogue on disk, for up to a million checkpoints: tantivy for text, FAISS and a file of vectors for meaning.

What counts is what the manifest says. Additions go to the ends of files and to the text index first, then a new
manifest is renamed over the old; removals go to the manifest first. A crash in between is mended when it is opened.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from personalq.checkin.clock import Clock
from personalq.checkin.stores.protocol import Entry, Footprint, Found, Query, Rows, Scores, Vectors
from personalq.checkin.stores.register import Register
from personalq.checkin.stores.squeezed import SqueezedVectors
from personalq.checkin.stores.textual import TextIndex
from personalq.errors import CatalogError

_FORMAT = 1
_DEPTH = 100
"""Rows of the two lists by text."""
_HITS = 60


@dataclass(frozen=True)
class Manifest:
    """How far every file counts, and which rows are empty."""

    encoder: str
    width: int
    rows: int = 0
    bytes: int = 0
    """Of `rows.jsonl`."""
    removed: list[int] = field(default_factory=list)
    written: int = 0
    """How often the manifest has been written."""
    format: int = _FORMAT

    @classmethod
    def read(cls, file: Path) -> Manifest | None:
        """None when there is none or it is not one of ours."""
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, file: Path) -> None:
        """Rename a new file over the old, both whole."""
        unfinished = file.with_suffix(".unfinished")
        with unfinished.open("w", encoding="utf-8") as out:
            json.dump(asdict(self), out)
            out.flush()
            os.fsync(out.fileno())
        unfinished.replace(file)


class DiskStore:
    """`Store` in `folder`. One process writes; others may have it open, and see what was there when they opened it.

    A folder of another encoder, width or format is emptied. Raises SettingsError when tantivy or FAISS is not
    installed, CatalogError when the files cannot be used or another process is writing.
    """

    name = "disk: tantivy and FAISS"
    piece = 4096

    def __init__(self, folder: Path, width: int, encoder: str) -> None:
        self._folder = folder
        self._file = folder / "manifest.json"
        found = Manifest.read(self._file)
        if found is None or (found.encoder, found.width, found.format) != (encoder, width, _FORMAT):
            shutil.rmtree(folder, ignore_errors=True)
            found = Manifest(encoder, width)
        folder.mkdir(parents=True, exist_ok=True)
        self._load(found)

    def __len__(self) -> int:
        return len(self._register)

    @property
    def size(self) -> int:
        """One more than the highest row."""
        return self._register.size

    def held(self) -> Mapping[str, str]:
        """Id to fingerprint."""
        return self._register.held

    def add(self, entries: Sequence[Entry], titles: Vectors, bodies: Vectors) -> None:
        """Store new ids with their vectors, shape (entries, width) each."""
        with self._changing():
            lines = "".join(json.dumps([e.id, e.fingerprint, e.base, e.kind]) + "\n" for e in entries).encode()
            self._append(lines)
            self._titles.append(titles)
            self._bodies.append(bodies)
            self._text.add(self.size, entries)
            self._text.commit()
            self._note(rows=self.size + len(entries), bytes=self._manifest.bytes + len(lines))
            self._register.add(entries)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget ids that are held."""
        if not ids:
            return
        with self._changing():
            rows = self._register.remove(ids)
            self._note(removed=[*self._manifest.removed, *rows])
            self._text.remove(rows)
            self._text.commit()

    def search(self, query: Query, clock: Clock) -> Found:
        """The best 100 rows by words and by grams, the best 60 by titles and by bodies, and up to 60 exact hits."""
        with clock.stage("lexical"):
            wanted = self._text.filter(*self._register.names_allowed(query.wanted))
            words = self._text.by_words(query.text, _DEPTH, wanted)
            grams = self._text.by_grams(query.text, _DEPTH, wanted)
            hits = self._text.within(query.text, _HITS, wanted)
        with clock.stage("dense"):
            allowed = self._register.allowed(query.wanted)
            titles, bodies = self._titles.top(query.vector, allowed), self._bodies.top(query.vector, allowed)
        return Found((words, grams, titles, bodies), hits, lambda rows: self._scores(query, rows))

    def rows(self, ids: Sequence[str]) -> list[int]:
        """The rows of the ids that are held, in their order."""
        return self._register.rows(ids)

    def id(self, row: int) -> str:
        """The checkpoint of a row."""
        return self._register.id(row)

    def ceilings(self, text: str) -> tuple[float, float]:
        """The highest score possible for `text`, over words and over grams; above 0."""
        return self._text.ceilings(text)

    def rarity(self, word: str) -> float:
        """The idf of a word."""
        return self._text.rarity(word)

    def footprint(self) -> Footprint:
        """Codes and rows in memory, every file on disk; what the system keeps of mapped files is not counted."""
        disk = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        return Footprint(self._titles.nbytes + self._bodies.nbytes + self._register.nbytes, disk)

    def close(self) -> None:
        """Let another process write."""
        self._text.close()

    def _scores(self, query: Query, rows: Rows) -> Scores:
        dense = [self._titles.scores(query.vector, rows), self._bodies.scores(query.vector, rows)]
        return np.column_stack([self._text.scores(query.text, rows), *dense])

    def _load(self, manifest: Manifest) -> None:
        """Everything the manifest counts, and nothing more."""
        self._manifest = manifest
        self._register = self._read_rows(manifest)
        self._titles = SqueezedVectors(self._folder / "titles.f32", manifest.width, manifest.rows)
        self._bodies = SqueezedVectors(self._folder / "bodies.f32", manifest.width, manifest.rows)
        self._text = TextIndex(self._folder / "text")
        if len(self._text) != len(self._register):
            self._mend()

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
                self._load(found or Manifest(self._manifest.encoder, self._manifest.width))
                raise
        finally:
            self._text.close()

    def _append(self, lines: bytes) -> None:
        with (self._folder / "rows.jsonl").open("ab") as out:
            out.truncate(self._manifest.bytes)
            out.write(lines)
            out.flush()
            os.fsync(out.fileno())

    def _note(self, **changes: object) -> None:
        self._manifest = replace(self._manifest, written=self._manifest.written + 1, **changes)  # type: ignore[arg-type]
        self._manifest.write(self._file)

    def _read_rows(self, manifest: Manifest) -> Register:
        register = Register()
        file = self._folder / "rows.jsonl"
        stored = file.read_bytes()[: manifest.bytes] if file.is_file() else b""
        try:
            lines = [json.loads(line) for line in stored.splitlines()]
            entries = [Entry(str(i), "", (), base, str(kind), str(print)) for i, print, base, kind in lines]
            register.add(entries, frozenset(manifest.removed))
        except (ValueError, TypeError, KeyError, IndexError) as broken:
            raise CatalogError(f"{file} is damaged ({broken}); delete {self._folder} and index again.") from None
        if register.size != manifest.rows:
            raise CatalogError(f"{file} is shorter than it should be; delete {self._folder} and index again.")
        return register

    def _mend(self) -> None:
        """Take out of the text index what the manifest does not know: the trace of a crash."""
        self._text.open_writer()
        self._text.remove_from(self._manifest.rows)
        self._text.remove(self._manifest.removed)
        self._text.commit()
        self._text.close()
        if len(self._text) != len(self._register):
            raise CatalogError(f"The text index at {self._folder} has lost rows; delete the folder and index again.")
