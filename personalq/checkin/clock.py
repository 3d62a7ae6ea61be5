"""Milliseconds by stage, summed over the slots of one request. It knows no stage by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Clock:
    """`with clock.stage("lexical"): ...` adds to that stage; `read()` also gives the total since the start."""

    def __init__(self) -> None:
        self._started = perf_counter()
        self._spent: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block under `name`, whether or not it raises."""
        begun = perf_counter()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + 1e3 * (perf_counter() - begun)

    def read(self, *stages: str) -> dict[str, float]:
        """Milliseconds of every stage met, of `stages` even when they took none, and `total`."""
        spent = dict.fromkeys(stages, 0.0) | self._spent
        spent["total"] = 1e3 * (perf_counter() - self._started)
        return {name: round(value, 3) for name, value in spent.items()}
