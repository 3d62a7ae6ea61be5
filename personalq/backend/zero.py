"""Borrows a GPU for the length of one call where the app runs on Hugging Face's ZeroGPU. Knows no models or widgets.

There a call runs in a forked worker: it sees what the app had in memory when the worker was forked, its arguments and
what it yields are pickled, and what it changes stays in that worker, which may or may not serve the next call.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import wraps
from importlib import import_module
from typing import ParamSpec, TypeVar

from personalq.errors import GenerationError, PersonalQError
from personalq.records import Job, Precision

P = ParamSpec("P")
F = TypeVar("F")

START, LOAD, STEP = 10.0, 8.0, 0.25
"""Guesses, not measurements, in seconds: a new worker with its base model, each precision, each denoising step."""
MOST = 120
"""Seconds that are asked for at most: what a visitor who is not signed in has in a day."""
LESS = "ask for fewer steps, fewer pictures or a smaller size"


def on_zero() -> bool:
    """Whether Hugging Face says that this is a ZeroGPU Space."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def prepare() -> None:
    """On ZeroGPU let `spaces` change torch, which must happen before a GPU is first asked for; elsewhere nothing."""
    if on_zero():
        import_module("spaces")


def estimate(job: Job, precisions: Sequence[Precision]) -> int:
    """Seconds of GPU to ask for, at most MOST: loading and every step of every picture at every precision."""
    steps = job.steps * max(job.count, 1)
    return min(MOST, math.ceil(START + len(precisions) * (LOAD + steps * STEP)))


def leased(
    frames: Callable[P, Generator[F, None, None]], seconds: Callable[P, int]
) -> Callable[P, Generator[F, None, None]]:
    """`frames` on a borrowed GPU on ZeroGPU, and `frames` itself elsewhere.

    `seconds` tells from the same arguments how long the GPU is needed. Call this once, before the page is launched:
    ZeroGPU counts the functions that borrow then, and keeps workers by function. The arguments must be picklable;
    an engine is not, so `frames` should be a method of what holds it. Errors of ours come back as they were raised;
    a lease that was refused or ended early raises GenerationError.
    """
    if not on_zero():
        return frames
    prepare()

    def shipped(*args: P.args, **kwargs: P.kwargs) -> Generator[F | PersonalQError, None, None]:
        try:
            with closing(frames(*args, **kwargs)) as made:
                yield from made
        except PersonalQError as error:  # ZeroGPU would bring back no more than its name
            yield error

    borrowed: Callable[P, Generator[F | PersonalQError, None, None]]
    borrowed = import_module("spaces").GPU(duration=seconds)(shipped)

    @wraps(frames)
    def lease(*args: P.args, **kwargs: P.kwargs) -> Generator[F, None, None]:
        try:
            with closing(borrowed(*args, **kwargs)) as items:
                for item in items:
                    if isinstance(item, PersonalQError):
                        raise item
                    yield item
        except PersonalQError:
            raise
        except Exception as error:
            raise refusal(error) from error

    return lease


def refusal(error: Exception) -> GenerationError:
    """What ZeroGPU's error means for the visitor, and what to do. It tells its errors apart by their titles."""
    title, message = str(getattr(error, "title", "")), str(getattr(error, "message", error))
    if title == "ZeroGPU quota exceeded":
        again = re.search(r"Try again in (\d[\w:, ]*)", message)
        wait = f", wait {again[1]}" if again else ", wait for tomorrow's"
        return GenerationError(
            f"There is no GPU time left for you here: sign in to Hugging Face for more{wait} or {LESS}."
        )
    if title == "ZeroGPU illegal duration":
        return GenerationError(f"This takes longer than ZeroGPU lends a GPU: {LESS}.")
    if title == "ZeroGPU pending credits exceeded":
        return GenerationError("Your other pictures hold all the GPU time you have: wait until they are finished.")
    if title in ("ZeroGPU queue timeout", "ZeroGPU client error"):
        return GenerationError("No GPU was free: try again in a minute, and reload the page if that does not help.")
    if title == "ZeroGPU worker error" and message == "GPU task aborted":
        return GenerationError(f"The GPU was taken back before the pictures were finished: {LESS}.")
    what = message if title == "ZeroGPU worker error" else type(error).__name__
    return GenerationError(f"ZeroGPU could not make the pictures ({what}): try again, and {LESS} if that fails too.")
