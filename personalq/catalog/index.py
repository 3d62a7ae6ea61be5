"""The saved index: what every file said last time, so that only changed files are read again. It knows no format."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from personalq.catalog.facts import Facts, Reading
from personalq.catalog.jsonl import read_jsonl
from personalq.catalog.scan import Catalog, Problem, Progress, read_file, scan
from personalq.errors import CatalogError

FORMAT = 1
"""Raised whenever a reader learns something new, so that old indexes are rebuilt."""
TUPLES = frozenset(field.name for field in fields(Facts) if str(field.type).startswith("tuple"))


def load_catalog(source: Path, cache: Path, on_progress: Progress | None = None) -> Catalog:
    """The catalogue of a folder, or of a `.jsonl` file, reading only files that changed since the last time.

    The index is kept below `cache`; a corrupt or outdated one is rebuilt, and one that cannot be written is a problem
    in the result. `on_progress` counts all files; unchanged ones
    pass without being opened. Raises CatalogError when `source` is missing.
    """
    if source.is_file() and source.suffix.lower() in (".jsonl", ".ndjson"):
        return read_jsonl(source)
    if not source.is_dir():
        raise CatalogError(f"There is no repository at {source}. Pass a folder of checkpoints or a catalog.jsonl.")
    memory = _Memory(index_path(source, cache))
    catalog = scan(source, on_progress, memory.read)
    problem = memory.save()
    return catalog if problem is None else Catalog(catalog.checkpoints, catalog.bases, (*catalog.problems, problem))


def index_path(source: Path, cache: Path) -> Path:
    """Where the index of a folder is kept."""
    return cache / f"catalog-{hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:16]}.json"


class _Memory:
    """Readings by path, valid while the file's size and modification time stay what they were."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = _load(path)
        self.seen: dict[str, dict[str, Any]] = {}

    def read(self, path: Path) -> Reading:
        """What is remembered of an unchanged file, else what `read_file` says."""
        try:
            state = path.stat()
        except OSError as error:
            return Reading(problems=(f"It vanished while the folder was read ({error.strerror}); scan again.",))
        stamp = {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
        entry = self.known.get(str(path), {})
        reading = _reading(entry) if all(entry.get(key) == value for key, value in stamp.items()) else None
        if reading is None:
            reading = read_file(path)
            entry = {**stamp, **asdict(reading)}
        self.seen[str(path)] = entry
        return reading

    def save(self) -> Problem | None:
        """Replace the saved index in one step if anything changed; the problem when that is impossible."""
        if self.seen == self.known:
            return None
        text = json.dumps({"format": FORMAT, "files": self.seen})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(f"{_digest(text)}\n{text}")
                Path(name).replace(self.path)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            return Problem(self.path, f"The index cannot be saved ({error.strerror}); choose another --cache folder.")
        return None


def _load(path: Path) -> dict[str, dict[str, Any]]:
    """The saved entries; none when there is no index or it is corrupt or of another format."""
    try:
        digest, _, text = path.read_text(encoding="utf-8").partition("\n")
        saved = json.loads(text) if digest == _digest(text) else {}
    except (OSError, ValueError):
        return {}
    files: dict[str, dict[str, Any]] = saved["files"] if saved.get("format") == FORMAT else {}
    return files


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _reading(entry: dict[str, Any]) -> Reading | None:
    """A saved entry as a reading; None when it does not have that form."""
    try:
        return Reading(tuple(map(_facts, entry["facts"])), tuple(entry["problems"]), entry["sha256"])
    except (KeyError, TypeError, AttributeError):
        return None


def _facts(item: dict[str, Any]) -> Facts:
    values: dict[str, Any] = {key: tuple(value) if key in TUPLES else value for key, value in item.items()}
    return Facts(**values)
