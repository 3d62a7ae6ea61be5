"""Runs: how often one is shown, and its end, to wait for after a stop. It knows no events and no engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_STEP = 120
"""Seconds a stopped run may take to end; after that nobody waits for it."""
PACE = 0.1
"""Seconds between two looks at a picture in the making: to show one costs more than a step of a small model."""


class Pace:
    """When a run is to be shown again, which is also where Gradio can stop it: at once, then ten times a second."""

    def __init__(self) -> None:
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether it was not shown for so long."""
        return time.monotonic() >= self._due

    def begin(self) -> None:
        """It has just been shown."""
        self._due = time.monotonic() + PACE


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
