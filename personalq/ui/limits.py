"""How much one visitor may ask for, and who counts as one. It knows no events, and forgets visitors who are idle."""

from __future__ import annotations

import ipaddress
import math
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from personalq.errors import LimitError

Kind = Literal["turn", "picture", "upload"]
MOST = 20_000
"""Buckets in memory; beyond it the ones that were used longest ago are forgotten."""
UNKNOWN = "unknown"
MCP = "mcp"
"""What all MCP clients count as where no proxy says who they are."""


@dataclass(frozen=True)
class Allowance:
    """What one visitor may do, and what one address with many visitors may."""

    turns_per_minute: int
    pictures_per_hour: int
    uploads_per_hour: int
    at_once: int
    """Pictures that may be waited for or made at the same time."""
    crowd: int
    """All visitors from one address together may do this many times as much as one."""

    def of(self, kind: Kind) -> tuple[int, float, str]:
        """How many in how many seconds, and that in words."""
        if kind == "turn":
            return self.turns_per_minute, 60.0, f"{self.turns_per_minute} requests a minute"
        if kind == "picture":
            return self.pictures_per_hour, 3600.0, f"{self.pictures_per_hour} pictures an hour"
        return self.uploads_per_hour, 3600.0, f"{self.uploads_per_hour} files an hour"


LOCAL = Allowance(turns_per_minute=600, pictures_per_hour=3600, uploads_per_hour=600, at_once=8, crowd=20)
SPACE = Allowance(turns_per_minute=60, pictures_per_hour=60, uploads_per_hour=60, at_once=1, crowd=4)


def on_space(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this runs as a Space on Hugging Face, behind its proxy."""
    return bool(environ.get("SPACE_ID"))


def allowance(environ: Mapping[str, str] = os.environ) -> Allowance:
    """What visitors may do here: much on one's own machine, less on a Space that strangers share."""
    return SPACE if on_space(environ) else LOCAL


class Limits:
    """A bucket of tokens for each visitor, each address and each kind of request, which fills again with time.

    A visitor is "address session" (`visitor_of`). Sessions are the browser's own invention and cost nothing, so an
    address has a bucket of its own for all of them. Safe to call from several threads.
    """

    def __init__(self, allowed: Allowance | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """`allowed` is by default what `allowance` says for this machine."""
        self.allowed = allowed or allowance()
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, Kind], tuple[float, float]] = OrderedDict()
        """Tokens left and when they were counted; a full bucket is not kept."""
        self._held: Counter[str] = Counter()

    def take(self, visitor: str, kind: Kind, cost: int = 1) -> None:
        """Use up `cost` tokens of the visitor and of the address. Raises LimitError, which says how long to wait."""
        count, seconds, words = self.allowed.of(kind)
        address = _address(visitor)
        purses = {(visitor, kind): count, (f"all of {address}", kind): count * self.allowed.crowd}
        with self._lock:
            now = self._clock()
            left = {key: self._left(key, size, seconds, now) for key, size in purses.items()}
            waits = [(cost - left[key]) * seconds / size for key, size in purses.items()]
            if max(waits) > 0:
                whose = "" if waits[0] > 0 else " for each visitor of your network"
                raise LimitError(f"That is more than {words}{whose}: try again in {_time(max(waits))}.")
            for key in purses:
                self._buckets[key] = (left[key] - cost, now)
                self._buckets.move_to_end(key)
            while len(self._buckets) > MOST:
                self._buckets.popitem(last=False)

    @contextmanager
    def slot(self, visitor: str) -> Iterator[None]:
        """Holds the visitor's place while a picture is made. Raises LimitError while the places are taken."""
        address = f"all of {_address(visitor)}"
        with self._lock:
            if self._held[visitor] >= self.allowed.at_once:
                raise LimitError(BUSY)
            if self._held[address] >= self.allowed.at_once * self.allowed.crowd:
                raise LimitError("Other pictures are still being made for your network: try again in a minute.")
            self._held.update((visitor, address))
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract((visitor, address))
                self._held += Counter()  # forgets the zeros

    def check_waiting(self, visitor: str, jobs: Mapping[str, int]) -> None:
        """Raises LimitError when a visitor may not wait for a picture more than the `jobs` that each visitor has."""
        address = _address(visitor)
        together = sum(count for other, count in jobs.items() if _address(other) == address)
        if jobs.get(visitor, 0) >= self.allowed.at_once or together >= self.allowed.at_once * self.allowed.crowd:
            raise LimitError(BUSY)

    def _left(self, key: tuple[str, Kind], size: int, seconds: float, now: float) -> float:
        if key not in self._buckets:
            return size
        tokens, counted = self._buckets[key]
        return min(size, tokens + (now - counted) * size / seconds)


BUSY = "Your other picture is still being made: wait for it, or stop it first."


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} seconds"
    return f"{math.ceil(seconds / 60)} minutes"


def _address(visitor: str) -> str:
    return visitor.partition(" ")[0]


# --- who is asking -----------------------------------------------------------------------------


def visitor_of(request: gr.Request, behind_proxy: bool | None = None) -> str:
    """Who counts as one visitor: the address and, after a space, the session that the browser or client named.

    Behind a proxy (None: on a Space) every connection comes from the proxy, so the address is the last public one of
    `X-Forwarded-For`: proxies append to it, so what a client wrote there itself stands further left and is not read.
    Elsewhere the header is not read at all. An IPv6 address counts as its /64, since one line has a whole one.

    MCP clients come through a connection of the server to itself that repeats their headers; without a proxy nothing
    there can be believed, and they all count as "mcp".
    """
    headers = request.headers
    forwarded = _forwarded(headers) if (on_space() if behind_proxy is None else behind_proxy) else None
    if forwarded is None and headers.get("x-gradio-user") == "mcp":
        return MCP
    host = getattr(request.client, "host", None) or UNKNOWN
    session = "".join(str(request.session_hash or "").split())[:64]
    return f"{forwarded or _network(host) or UNKNOWN} {session}".strip()


def waiting(blocks: gr.Blocks, group: str) -> Counter[str]:
    """How many jobs of a concurrency group each visitor has waiting or running.

    Gradio has no public way to ask, and it calls an event only when its turn has come.
    """
    queue: Any = blocks._queue
    jobs = [job for batch in queue.active_jobs if batch for job in batch if job.concurrency_id == group]
    if group in queue.event_queue_per_concurrency_id:
        jobs += queue.event_queue_per_concurrency_id[group].queue
    return Counter(
        visitor_of(gr.Request(job.request, session_hash=job.session_hash)) for job in list(jobs) if job.alive
    )


def _forwarded(headers: Any) -> str | None:
    """The last public address that proxies passed on; None when there is none."""
    lines = headers.getlist("x-forwarded-for") if hasattr(headers, "getlist") else [headers.get("x-forwarded-for")]
    hops = ",".join(line for line in lines if line).split(",")
    return next((found for hop in reversed(hops) if (found := _network(hop, public=True))), None)


def _network(text: str, public: bool = False) -> str | None:
    """An address without its port, IPv6 as the /64 it lies in; None when it is none, or must be `public` and is not."""
    text = text.strip()
    text = text[1:].partition("]")[0] if text.startswith("[") else text
    text = text.partition(":")[0] if text.count(":") == 1 else text
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if public and not address.is_global:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))
