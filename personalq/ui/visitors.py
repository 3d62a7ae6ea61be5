"""A folder for each browser's pictures and own concepts, gone when the browser leaves. It knows no widgets."""

from __future__ import annotations

import atexit
import hashlib
import secrets
import shutil
import tempfile
from pathlib import Path

RUNS = 12
"""How many comparisons' pictures a browser can come back to; older ones are removed."""


class Visitors:
    """The folders of all browsers, below one that lives as long as this object's process."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="personalq-"))
        atexit.register(shutil.rmtree, self._root, ignore_errors=True)

    def folder(self, visitor: str) -> Path:
        """The folder of a browser, by its session; made when it is first asked for."""
        folder = self._place(visitor)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def run(self, visitor: str) -> Path:
        """A new folder for the pictures of one comparison. The oldest of more than 12 goes."""
        runs = self.folder(visitor) / "runs"
        runs.mkdir(mode=0o700, exist_ok=True)
        old = sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in old[: max(0, len(old) + 1 - RUNS)]:
            shutil.rmtree(path, ignore_errors=True)
        folder = runs / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        return folder

    def leave(self, visitor: str) -> None:
        """Remove everything of a browser; nothing when there is nothing."""
        shutil.rmtree(self._place(visitor), ignore_errors=True)

    def _place(self, visitor: str) -> Path:
        name = visitor.encode("utf-8", "surrogatepass")  # a session's name is the browser's own
        return self._root / hashlib.sha256(name).hexdigest()[:32]
