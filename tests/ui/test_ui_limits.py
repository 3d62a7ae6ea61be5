from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from personalq.errors import LimitError
from personalq.ui import limits as module
from personalq.ui.limits import LOCAL, SPACE, Allowance, Limits, allowance, visitor_of

FEW = Allowance(turns_per_minute=6, pictures_per_hour=4, uploads_per_hour=3, at_once=1, crowd=2)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture()
def clock() -> Clock:
    return Clock()


@pytest.fixture()
def limits(clock: Clock) -> Limits:
    return Limits(FEW, clock)


def spend(limits: Limits, visitor: str, count: int) -> None:
    for _ in range(count):
        limits.take(visitor, "turn")


def asking(
    host: str | None = "127.0.0.1", session: str | None = "s1", forwarded: tuple[str, ...] = (), user: str = ""
) -> Any:
    raw = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    raw += [(b"x-gradio-user", user.encode())] if user else []
    client = SimpleNamespace(host=host) if host else None
    return SimpleNamespace(headers=Headers(raw=raw), client=client, session_hash=session)


# --- buckets -----------------------------------------------------------------------------------


def test_a_visitor_who_used_up_the_tokens_is_told_how_long_to_wait(limits: Limits) -> None:
    spend(limits, "a x", 6)
    with pytest.raises(LimitError, match="more than 6 requests a minute: try again in 10 seconds"):
        limits.take("a x", "turn")


def test_tokens_come_back_with_time_and_never_more_than_there_were(limits: Limits, clock: Clock) -> None:
    spend(limits, "a x", 6)
    clock.now += 10
    limits.take("a x", "turn")
    with pytest.raises(LimitError):
        limits.take("a x", "turn")
    clock.now += 100_000
    spend(limits, "a x", 6)
    with pytest.raises(LimitError):
        limits.take("a x", "turn")


def test_visitors_and_kinds_do_not_share_tokens(limits: Limits) -> None:
    spend(limits, "a x", 6)
    limits.take("b x", "turn")
    limits.take("a x", "picture")
    limits.take("a x", "upload", 3)


def test_invented_sessions_share_what_their_address_has(limits: Limits) -> None:
    for session in range(12):
        limits.take(f"a {session}", "turn")
    with pytest.raises(LimitError, match="your network"):
        limits.take("a new", "turn")
    limits.take("b new", "turn")


def test_a_refusal_uses_nothing_up(limits: Limits) -> None:
    limits.take("a x", "picture", 3)
    with pytest.raises(LimitError, match="15 minutes"):
        limits.take("a x", "picture", 2)
    limits.take("a x", "picture", 1)


def test_memory_is_bounded(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 100)
    for number in range(1000):
        limits.take(f"address{number} s", "turn")
    assert len(limits._buckets) <= 100
    spend(limits, "address999 s", 5)
    with pytest.raises(LimitError):
        limits.take("address999 s", "turn")


def test_many_threads_get_exactly_the_tokens_there_are(limits: Limits) -> None:
    got: Counter[str] = Counter()

    def ask() -> None:
        for _ in range(20):
            try:
                limits.take("a x", "turn")
                got["taken"] += 1
            except LimitError:
                got["refused"] += 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {"taken": 6, "refused": 154}


# --- places ------------------------------------------------------------------------------------


def test_one_picture_at_a_time(limits: Limits) -> None:
    with limits.slot("a x"):
        with pytest.raises(LimitError, match="other picture is still being made"), limits.slot("a x"):
            pass
        with limits.slot("a y"), pytest.raises(LimitError, match="your network"), limits.slot("a z"):
            pass
    with limits.slot("a x"):
        pass


def test_a_place_is_free_again_after_an_error(limits: Limits) -> None:
    with pytest.raises(ValueError), limits.slot("a x"):
        raise ValueError
    with limits.slot("a x"):
        pass
    assert not limits._held


@pytest.mark.parametrize(
    ("jobs", "may"), [({}, True), ({"b x": 1}, True), ({"a x": 1}, False), ({"a y": 1, "a z": 1}, False)]
)
def test_a_waiting_picture_counts(limits: Limits, jobs: dict[str, int], may: bool) -> None:
    if may:
        limits.check_waiting("a x", jobs)
    else:
        with pytest.raises(LimitError):
            limits.check_waiting("a x", jobs)


# --- who is asking -----------------------------------------------------------------------------


def test_without_a_proxy_the_header_is_not_read() -> None:
    assert visitor_of(asking("7.7.7.7", forwarded=("1.2.3.4",)), False) == "7.7.7.7 s1"


def test_behind_a_proxy_the_last_public_address_counts_whatever_was_written_before_it() -> None:
    forged = asking("10.0.0.9", forwarded=("1.2.3.4, 5.6.7.8, 8.8.8.8, 10.1.1.1",))
    assert visitor_of(forged, True) == "8.8.8.8 s1"
    assert visitor_of(asking("10.0.0.9", forwarded=("1.2.3.4", "8.8.4.4")), True) == "8.8.4.4 s1"


@pytest.mark.parametrize("hop", ["8.8.8.8:443", " 8.8.8.8 ", "::ffff:8.8.8.8"])
def test_addresses_are_read_in_every_spelling(hop: str) -> None:
    assert visitor_of(asking("10.0.0.9", forwarded=(hop,)), True) == "8.8.8.8 s1"


def test_an_ipv6_line_is_one_visitor() -> None:
    one = asking("10.0.0.9", forwarded=("[2a00:1450:1:2::1]:99",))
    other = asking("10.0.0.9", forwarded=("2a00:1450:1:2:ffff::2",))
    assert visitor_of(one, True) == visitor_of(other, True) == "2a00:1450:1:2::/64 s1"


@pytest.mark.parametrize("forwarded", [(), ("",), ("nonsense, 300.1.1.1",), ("10.0.0.1, 127.0.0.1",)])
def test_a_proxy_that_says_nothing_useful_leaves_the_connection(forwarded: tuple[str, ...]) -> None:
    assert visitor_of(asking("10.0.0.9", forwarded=forwarded), True) == "10.0.0.9 s1"


def test_mcp_clients_cannot_name_themselves_where_no_proxy_does() -> None:
    # The server's connection to itself repeats the client's headers, and uvicorn believes them.
    assert visitor_of(asking("6.6.6.6", forwarded=("6.6.6.6",), user="mcp"), False) == "mcp"
    assert visitor_of(asking("9.9.9.9", forwarded=("6.6.6.6, 9.9.9.9",), user="mcp"), True) == "9.9.9.9 s1"


def test_a_session_cannot_pretend_to_be_an_address() -> None:
    assert visitor_of(asking("8.8.8.8", session="a b\n" + "x" * 500), False) == "8.8.8.8 ab" + "x" * 62
    assert visitor_of(asking(None, session=None), False) == "unknown"
    assert visitor_of(asking("a b", session=None), False) == "unknown"


def test_a_space_allows_less_than_ones_own_machine() -> None:
    assert allowance({"SPACE_ID": "someone/personalq"}) == SPACE
    assert allowance({}) == allowance({"SPACE_ID": ""}) == LOCAL
    assert LOCAL.turns_per_minute > SPACE.turns_per_minute and SPACE.at_once == 1
