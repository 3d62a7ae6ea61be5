"""What counts of a store's files, and lines at the end of them: whole after a crash. It knows no checkpoint.

A manifest is written beside and renamed over the old one. Lines beyond the size it states do not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 2


@dataclass(frozen=True)
class Manifest:
    """How far every file counts, and which rows are empty."""

    encoder: str
    width: int
    rows: int = 0
    bytes: int = 0
    """Of `rows.jsonl`: id, fingerprint, base and kind of every row."""
    indexed: int = 0
    """Rows that are in the text index; the others are in `late.jsonl`."""
    late_bytes: int = 0
    """Of `late.jsonl`."""
    removed: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    """Those of `removed` that are still in the text index."""
    terms: dict[str, int] = field(default_factory=dict)
    """Terms of all rows ever added, by field of the text index."""
    written: int = 0
    """How often the manifest has been written."""
    format: int = FORMAT

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


def read_lines(file: Path, size: int) -> list[Any]:
    """The lines of the first `size` bytes. Raises ValueError when one is broken or the file is shorter."""
    stored = file.read_bytes()[:size] if file.is_file() else b""
    if len(stored) < size:
        raise ValueError(f"{size - len(stored)} bytes are missing")
    return [json.loads(line) for line in stored.splitlines()]


def append_lines(file: Path, size: int, lines: Sequence[object]) -> int:
    """Write lines after the first `size` bytes, and on to the disk; the new size."""
    written = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with file.open("ab") as out:
        out.truncate(size)
        out.write(written)
        out.flush()
        os.fsync(out.fileno())
    return size + len(written)
