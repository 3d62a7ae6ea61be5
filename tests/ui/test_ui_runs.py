"""A stop waits for its visitor's own run, and for no other."""

from __future__ import annotations

import threading

import pytest

from personalq.ui.runs import Runs


def waiting(runs: Runs, visitor: str) -> threading.Thread:
    thread = threading.Thread(target=runs.wait, args=(visitor,), daemon=True)
    thread.start()
    thread.join(0.05)
    return thread


def test_who_stops_waits_for_the_end() -> None:
    runs = Runs()
    with runs.begun("one"):
        thread = waiting(runs, "one")
        assert thread.is_alive() and not waiting(runs, "two").is_alive()
    thread.join(30)
    assert not thread.is_alive() and not waiting(runs, "one").is_alive()


def test_a_run_that_fails_has_ended_too() -> None:
    runs = Runs()
    with pytest.raises(ZeroDivisionError), runs.begun("one"):
        raise ZeroDivisionError
    assert not waiting(runs, "one").is_alive()


def test_the_end_of_an_earlier_run_is_not_that_of_a_later_one() -> None:
    runs = Runs()
    first, second = runs.begun("one"), runs.begun("one")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert waiting(runs, "one").is_alive()
    second.__exit__(None, None, None)
    assert not waiting(runs, "one").is_alive()
