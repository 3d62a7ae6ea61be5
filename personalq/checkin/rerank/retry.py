"""A call that may fail for a while: tried again, all within one deadline, every failure one of our errors.

It knows nothing of what is called.
"""

from __future__ import annotations

import http.client
import queue
import ssl
import threading
import time
import urllib.error
from collections.abc import Callable
from typing import TypeVar

from personalq.errors import EndpointError, RerankerError

Value = TypeVar("Value")
TRIES = 4
PAUSE = 0.5
"""Seconds waited after the first failure; doubled after every further one."""


def patient(
    call: Callable[[float], Value],
    seconds: float,
    pause: float = PAUSE,
    sleep: Callable[[float], None] = time.sleep,
) -> Value:
    """`call(seconds left)`, tried again after failures that may pass, all of it within `seconds`.

    Waits `pause`, doubled every time, or as long as the server says. Raises what the last try raised; a wait that
    would not fit is not begun.
    """
    until = time.monotonic() + seconds
    for number in range(TRIES):
        try:
            return _within(call, max(until - time.monotonic(), 0.0), seconds)
        except EndpointError as failed:
            wait = failed.wait if failed.wait is not None else pause * 2**number
            if not failed.again or number + 1 == TRIES or time.monotonic() + wait >= until:
                raise
        sleep(wait)
    raise late(seconds)


def late(seconds: float) -> EndpointError:
    """The error of a deadline missed."""
    return EndpointError(f"The language model did not answer within {seconds:g} seconds.")


def _within(call: Callable[[float], Value], left: float, seconds: float) -> Value:
    """The call's result. A call that overruns is left to its own time-out: no slow server can hold up the caller."""
    box: queue.SimpleQueue[tuple[Value | None, RerankerError | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            box.put((call(left), None))
        except Exception as error:  # A thread has nobody to raise to; every error comes back as one of ours.
            box.put((None, _mapped(error, seconds)))

    threading.Thread(target=work, daemon=True, name="personalq-endpoint").start()
    try:
        value, error = box.get(timeout=left)
    except queue.Empty:
        value, error = None, late(seconds)
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _mapped(error: Exception, seconds: float) -> RerankerError:
    """One of our errors for any other; its words are not repeated, for they may hold the URL."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, RerankerError):
        return error
    if isinstance(reason, TimeoutError):
        return late(seconds)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return EndpointError("The certificate of the language model's server cannot be verified; check its URL.")
    if isinstance(reason, OSError | http.client.HTTPException):
        return EndpointError("The language model's server cannot be reached; check that it runs.", again=True)
    return EndpointError(f"The language model could not be asked ({type(error).__name__}).")
