"""What is read out of a request, and what leaves the prompt."""

from __future__ import annotations

import pytest

from personalq.checkin.intent import parse, remaining
from personalq.errors import RequestError
from personalq.records import Intent, Request

TODAY = "2026-01-15"


def read(text: str, bases: tuple[str, ...] = ("tiny-sd",)) -> Intent:
    return parse(Request(text, as_of=TODAY), bases)


@pytest.mark.parametrize(
    ("text", "version", "left"),
    [
        ("ember fox v2 on the snow", "2", "ember fox on the snow"),
        ("ember fox, version 1.0", "1", "ember fox,"),
        ("the newest version of my fox in the rain", "newest", "my fox in the rain"),
        ("a fox from the latest lora", "newest", "a fox"),
        ("my first fox, use the oldest version", "first", "my first fox,"),
        ("a car with a v8 engine", None, "a car with a v8 engine"),
        ("the first snow", None, "the first snow"),
    ],
)
def test_versions(text: str, version: str | None, left: str) -> None:
    intent = read(text)
    assert intent.version == version
    assert remaining(intent) == left


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("my dog from last spring", ("2025-03-01", "2025-05-31")),
        ("my dog from last winter", ("2024-12-01", "2025-02-28")),
        ("the fox i saved end of april 2025", ("2025-04-21", "2025-04-30")),
        ("the fox from november 2024", ("2024-11-01", "2024-11-30")),
        ("the fox from 2025-04-12", ("2025-04-12", "2025-04-12")),
        ("my fox, trained in 2024", ("2024-01-01", "2024-12-31")),
        ("the fox i made last month", ("2025-12-01", "2025-12-31")),
        ("a 1952 car", None),
        ("a photo taken in 2007", None),
        ("a dog in spring", None),
    ],
)
def test_times(text: str, interval: tuple[str, str] | None) -> None:
    intent = read(text)
    assert intent.time_range == interval
    assert bool(intent.consumed) == (interval is not None)


def test_base_kind_and_negation_leave_the_prompt() -> None:
    intent = read("crochet fox. textual inversion, not the sdxl lora")
    assert (intent.kind, intent.base, intent.negatives) == ("ti", None, ("sdxl lora",))
    assert "sdxl" not in remaining(intent)
    assert "inversion" not in remaining(intent)
    on_base = read("a coin, i am on sd 2.1")
    assert on_base.base == "SD 2.1"
    assert remaining(on_base) == "a coin,"
    assert read("a dog on tiny-sd").base == "tiny-sd"


@pytest.mark.parametrize(
    ("text", "subject", "style", "noun"),
    [
        ("my dog at the beach", "my dog", None, "dog"),
        ("biscuit in the duotone style", "biscuit", "duotone", "biscuit"),
        ("the blue dog with the red bandana on the snow", "the blue dog with the red bandana", None, "dog"),
        ("a courtroom sketch of a cat", "of a cat", "courtroom sketch", None),
        ("a boat sailing into a storm", "a boat", None, "boat"),
    ],
)
def test_slots(text: str, subject: str, style: str | None, noun: str | None) -> None:
    intent = read(text)
    assert (intent.subject, intent.style) == (subject, style)
    assert noun is None or intent.class_noun == noun


@pytest.mark.parametrize("text", ["dont load anything, just a lake", "a lake, no lora", "only the base model, a lake"])
def test_opting_out(text: str) -> None:
    assert read(text).opt_out
    assert not read("a lake without people").opt_out


def test_consumed_pieces_are_positions_in_the_text() -> None:
    intent = read("\x00 ember  fox v2, from april 2025 🦊")
    assert [intent.text[start:end].strip() for start, end in intent.consumed] == ["v2", "from april 2025"]


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="no date"):
        parse(Request("a dog", as_of="yesterday"))
