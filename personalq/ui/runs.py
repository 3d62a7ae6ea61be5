"""The run that each visitor has under way, to wait for its end after a stop. It knows no events and no engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_STEP = 120
"""Seconds a stopped run may take to end; after that nobody waits for it."""


class Runs:
    """Runs by visitor. Safe to use from several threads."""

    def __init__(self) -> None:
        self._ends: dict[str, threading.Event] = {}

    @contextmanager
    def begun(self, visitor: str) -> Iterator[None]:
        """The visitor's run, until the context is left; a later one takes its place."""
        ended = self._ends[visitor] = threading.Event()
        try:
            yield
        finally:
            ended.set()
            if self._ends.get(visitor) is ended:
                del self._ends[visitor]

    def wait(self, visitor: str) -> None:
        """Returns once the visitor's run has really ended; at once without one."""
        run = self._ends.get(visitor)
        if run:
            run.wait(LONGEST_STEP)
