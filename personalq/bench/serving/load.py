"""Visitors of the running app, through its API as any program would call it: many at once, and one for very long."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gradio_client import Client

from personalq.bench.serving.running import PATIENCE, App
from personalq.errors import BenchError

REQUESTS = (
    "my dog on the beach",
    "Biscuit the dog in the snow",
    "a cat in the city",
    "a tax form",
    "my fox, old print",
)
PROMPT, CONCEPT = "zwx dog in the snow", "biscuit-dog"
Told = Callable[[int, int, str], None]


def client(app: App) -> Client:
    """A visitor of its own."""
    return Client(app.url, verbose=False, analytics_enabled=False)


def ready(app: App) -> float:
    """Seconds from the start of the process until the base model was in memory.

    Raises BenchError when it is not within PATIENCE seconds.
    """
    visitor = client(app)
    while time.perf_counter() - app.started < PATIENCE:
        if visitor.predict(api_name="/vram_report")["resident"]["base"]:
            return time.perf_counter() - app.started
        time.sleep(0.1)
    raise BenchError("The base model was not read: run the app and look at its status line.")


def questions(app: App, times: int) -> dict[str, float]:
    """Milliseconds from a request to its candidates, over `times` requests by one visitor."""
    visitor, took = client(app), []
    for i in range(times):
        before = time.perf_counter()
        visitor.predict(REQUESTS[i % len(REQUESTS)], "", api_name="/clarify")
        took.append(1000 * (time.perf_counter() - before))
    return {"requests": times, "p50": statistics.median(took), "p95": sorted(took)[int(0.95 * (times - 1))]}


def crowd(app: App, users: int, steps: int) -> dict[str, Any]:
    """`users` visitors who ask for two pictures at the same moment: how many got theirs, and when."""
    visitors = [client(app) for _ in range(users)]
    gate = threading.Barrier(users)

    def ask(seed: int) -> tuple[bool, float, str]:
        gate.wait()
        before = time.perf_counter()
        try:
            left, right, facts = visitors[seed].predict(PROMPT, CONCEPT, seed, steps, 8, api_name="/compare_images")
        except Exception as error:
            return False, time.perf_counter() - before, str(error)
        served = bool(left and right) and facts["seed"] == seed
        return served, time.perf_counter() - before, ""

    with ThreadPoolExecutor(users) as pool:
        answers = list(pool.map(ask, range(users)))
    waits = sorted(seconds for _, seconds, _ in answers)
    return {
        "users": users,
        "steps": steps,
        "served": sum(served for served, _, _ in answers),
        "first_s": waits[0],
        "last_s": waits[-1],
        "pictures_per_minute": 60 * 2 * users / waits[-1],
        "errors": sorted({error for _, _, error in answers if error}),
    }


def endurance(app: App, pictures: int, steps: int, every: int, tell: Told) -> dict[str, Any]:
    """Resident bytes of the app while it makes `pictures` pairs, read every so many; the growth after the first read.

    Precision alternates between 8 and 4 bits, so that denoisers are read and dropped all the time.
    """
    visitor = client(app)
    readings: list[tuple[int, int | None]] = []
    for i in range(1, pictures + 1):
        visitor.predict(PROMPT, CONCEPT, i, steps, 8 if i % 2 else 4, api_name="/compare_images")
        if i % every == 0:
            readings.append((i, app.resident()))
        tell(i, pictures, "pairs of pictures")
    known = [(i, size) for i, size in readings if size is not None]
    growth = slope(known[1:]) if len(known) > 2 else None
    return {"pairs": pictures, "steps": steps, "resident": readings, "bytes_per_pair": growth}


def slope(points: Sequence[tuple[int, int]]) -> float:
    """The least-squares slope of y over x."""
    xs, ys = [float(x) for x, _ in points], [float(y) for _, y in points]
    return statistics.linear_regression(xs, ys).slope
