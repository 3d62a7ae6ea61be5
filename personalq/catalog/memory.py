"""What was read before, kept between runs: saved in one step, beside the copy it replaces. It knows no format.

Entries are trusted because the file carries its own digest and that of the readers' source: an index that was cut off
or altered, or that older readers wrote, is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SAVE_EVERY = 30
"""Seconds of reading that an interruption may cost."""
ABANDONED = 3600
"""Seconds after which an unfinished file must be one that a process left behind when it was killed."""


@dataclass(frozen=True)
class Tally:
    """How many entries (files, or records of a `.jsonl`) there are, and what became of them since the last time."""

    entries: int = 0
    new: int = 0
    reread: int = 0
    """Known before, but changed."""
    gone: int = 0
    trouble: str = ""
    """Why the saved index could not be used, if it could not."""


class Memory:
    """Values by key, each valid while its stamp stays what it was. Keys that begin with a space are in no tally."""

    def __init__(self, path: Path) -> None:
        """Reads the index at `path`, or else the copy that it replaced."""
        self.path = path
        self.known, self._trouble, self._sound = _load(path)
        self._seen: dict[str, tuple[Any, Any]] = {}
        self._new = self._reread = 0
        self._saved_at = time.monotonic()

    def recall(self, key: str, stamp: Any) -> Any | None:
        """The value kept under `key`, if it was kept with an equal `stamp`; None otherwise."""
        stored, value = self.known.get(key, (None, None))
        if value is None or stored != stamp:
            return None
        self._seen[key] = (stamp, value)
        return value

    def keep(self, key: str, stamp: Any, value: Any) -> None:
        """Remember a value that JSON can hold, and save now and then. `stamp` is text, a number, or a list of them."""
        self._reread += key in self.known and key[:1] != " "
        self._new += key not in self.known and key[:1] != " "
        self._seen[key] = (stamp, value)
        if time.monotonic() - self._saved_at > SAVE_EVERY:
            with suppress(OSError):  # The last save reports what is wrong.
                self._write({**self.known, **self._seen})

    def retain(self, place: str) -> None:
        """Hold on to the entries of a file or of all below a folder, though they were not looked at this time."""
        for key, entry in self.known.items():
            if key.lstrip(" ") == place or key.startswith(f"{place}/"):
                self._seen.setdefault(key, entry)

    def tally(self) -> Tally:
        """What was recalled, kept and missed so far."""
        counted = {key for key in self._seen if key[:1] != " "}
        gone = {key for key in self.known if key[:1] != " "} - counted
        return Tally(len(counted), self._new, self._reread, len(gone), self._trouble)

    def save(self) -> str | None:
        """Replace the saved index if anything changed; the reason when that is impossible.

        The index that was there stays beside it as `.bak`. A process that is killed on the way leaves one of the two.
        """
        if self._seen == self.known and self._sound and not (self._new or self._reread):
            return None
        try:
            self._write(self._seen)
        except OSError as error:
            return f"The index cannot be saved ({error.strerror}); choose another cache folder."
        return None

    def _write(self, entries: dict[str, tuple[Any, Any]]) -> None:
        text = json.dumps({"readers": _readers(), "entries": entries})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _forget_abandoned(self.path)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f"{_digest(text)}\n{text}")
                file.flush()
                os.fsync(file.fileno())
            if self._sound:  # A damaged index must not take the place of the good copy.
                with suppress(FileNotFoundError):
                    self.path.replace(backup(self.path))
            Path(name).replace(self.path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        self._sound, self._saved_at = True, time.monotonic()


def backup(path: Path) -> Path:
    """Where the copy lies that the index at `path` replaced."""
    return path.with_suffix(".bak")


def _load(path: Path) -> tuple[dict[str, tuple[Any, Any]], str, bool]:
    """The saved entries, what was wrong with them, and whether the index itself may become the copy."""
    try:
        return _entries(path), "", True
    except FileNotFoundError:
        trouble = ""
    except LookupError:
        return {}, "The saved index was written by another version; everything was read again.", False
    except (OSError, ValueError, TypeError):
        trouble = f"The saved index {path} was damaged; everything was read again."
    try:
        copied = _entries(backup(path))
    except (OSError, LookupError, ValueError, TypeError):
        return {}, trouble, False
    return copied, trouble and f"The saved index {path} was damaged; the copy before it was used.", False


def _entries(path: Path) -> dict[str, tuple[Any, Any]]:
    """The entries in the file. Raises LookupError when other readers wrote it, ValueError when it is damaged."""
    digest, _, text = path.read_text(encoding="utf-8").partition("\n")
    if digest != _digest(text):
        raise ValueError("damaged")
    saved = json.loads(text)
    if saved["readers"] != _readers():
        raise LookupError("other readers")
    return {key: (stamp, value) for key, (stamp, value) in saved["entries"].items()}


def _forget_abandoned(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}.*.tmp"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()


@cache
def _readers() -> str:
    """Changes with any module of this package, so that what older readers said is not believed."""
    digest = hashlib.sha256()
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
