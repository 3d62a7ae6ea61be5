"""Byte-exact triggers, correct spans, and every other word kept in order."""

from __future__ import annotations

import pytest

from personalq.checkin.intent import parse
from personalq.checkin.rewrite import Rewritten, rewrite
from personalq.records import Checkpoint, Request

DOG = Checkpoint("d", name="Biscuit", triggers=("zwx dog",), class_noun="dog", role="subject", base="tiny-sd")
BARE = Checkpoint("b", name="Biscuit", triggers=("zwx",), class_noun="dog", role="subject", base="tiny-sd")
INK = Checkpoint("s", name="Duotone Ink", triggers=("DuoTn, ink",), role="style", base="tiny-sd")


def write(text: str, *checkpoints: Checkpoint) -> Rewritten:
    written = rewrite(parse(Request(text, as_of="2026-01-15")), checkpoints)
    for span in written.spans:
        trigger = next(checkpoint.triggers[0] for checkpoint in checkpoints if checkpoint.id == span.id)
        assert span.role == "concept" or written.prompt[span.start : span.end] == trigger
    for checkpoint in checkpoints:
        if checkpoint.triggers:
            assert written.prompt.count(checkpoint.triggers[0]) == 1
    return written


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("my dog at the beach", "zwx dog at the beach"),
        ("my sleepy dog at the beach", "my sleepy zwx dog at the beach"),
        ("biscuit at the beach", "zwx dog at the beach"),
        ("my puppy at the beach", "zwx dog at the beach"),
        ("a photo of Biscuit the dog, v2", "a photo of zwx dog"),
        ("zwx dog at the beach", "zwx dog at the beach"),
        ("ZWX Dog at the beach", "zwx dog at the beach"),
        ("draw me something for mum", "draw me zwx dog, something for mum"),
        ("🏖️ my dog 🏖️", "🏖️ zwx dog 🏖️"),
    ],
)
def test_a_subject_takes_the_place_of_its_phrase(text: str, prompt: str) -> None:
    written = write(text, DOG)
    assert written.prompt == prompt
    assert [span.role for span in written.spans] == ["trigger"]


def test_a_bare_trigger_keeps_the_noun_as_concept() -> None:
    written = write("my puppy at the beach", BARE)
    assert written.prompt == "zwx puppy at the beach"
    assert [(span.role, written.prompt[span.start : span.end]) for span in written.spans] == [
        ("trigger", "zwx"),
        ("concept", "puppy"),
    ]


def test_long_and_hyphened_names_are_found_by_their_words() -> None:
    named = Checkpoint("d", name="Biscuit the dog", triggers=("zwx dog",), class_noun="dog", role="subject")
    mug = Checkpoint("m", name="star-mug", triggers=("qvz mug",), class_noun="mug", role="subject")
    assert write("biscuit in the rain", named).prompt == "zwx dog in the rain"
    assert write("the star mug on a sofa", mug).prompt == "qvz mug on a sofa"


def test_a_style_leads_and_composes() -> None:
    written = write("my dog in the duotone style from april 2025", INK, DOG)
    assert written.prompt == "DuoTn, ink, zwx dog in the duotone style"
    assert [(span.role, span.id) for span in written.spans] == [("style", "s"), ("trigger", "d")]
    assert written.warnings == ()


def test_different_and_unknown_bases_are_warned_about() -> None:
    far = Checkpoint("f", name="Far", triggers=("fr",), role="style", base="SDXL 1.0")
    unknown = Checkpoint("u", name="Unknown", triggers=("nknwn",), role="style")
    assert "SDXL 1.0" in write("my dog, far style", far, DOG).warnings[0]
    assert "not known" in write("my dog, unknown style", unknown, DOG).warnings[0]


def test_without_a_trigger_the_words_stay() -> None:
    written = write("my dog at the beach", Checkpoint("n", name="Nameless", class_noun="dog"))
    assert written.prompt == "my dog at the beach"
    assert written.spans == ()
    assert "no trigger" in written.warnings[0]


def test_two_checkpoints_with_one_trigger_mark_it_once() -> None:
    twin = Checkpoint("t", name="Twin", triggers=("zwx dog",), class_noun="dog", role="subject")
    written = rewrite(parse(Request("my dog")), (DOG, twin))
    assert written.prompt == "zwx dog"
    assert len(written.spans) == 1
