"""Data from anywhere: what is well-formed passes unchanged, what is not counts as missing, nothing breaks."""

import json
from typing import Any

import pytest
from picture_data import picture_data

from personalq.backend.provenance.claims import validated
from personalq.errors import PictureError

JUNK: list[Any] = [None, True, -1, 10**400, float("nan"), float("inf"), "x" * 100_000, "\ud800\x00", [], {}, [[[]]]]


def test_well_formed_data_passes_unchanged() -> None:
    data = picture_data()
    assert validated(data) == data
    assert validated(json.loads(json.dumps(data))) == data


@pytest.mark.parametrize("key", [key for key in picture_data() if key not in ("prompt", "negative")])
def test_any_field_may_hold_anything_and_checking_again_changes_nothing(key: str) -> None:
    for junk in [*JUNK, [*JUNK], dict.fromkeys(("id", "start", "chosen", "name"), 3), [{"id": j} for j in JUNK]]:
        found = validated(picture_data(**{key: junk}))
        assert validated(found) == found
        assert len(json.dumps(found, allow_nan=False)) < 100_000


@pytest.mark.parametrize("data", [None, "text", [], {}, {"prompt": 3}, {"prompt": "x", "negative": []}])
def test_what_has_no_prompt_is_refused(data: object) -> None:
    with pytest.raises(PictureError, match="choose"):
        validated(data)


def test_a_later_format_is_refused() -> None:
    with pytest.raises(PictureError, match="update"):
        validated(picture_data(format=2))


def test_big_seeds_are_exact_and_impossible_ones_missing() -> None:
    seeds = [2**63 + 1, -5, "12345678901234567", 2**64, 1.5, True, float("nan")]
    found = [validated(picture_data(seed=seed))["seed"] for seed in seeds]
    assert found == [2**63 + 1, -5, 12345678901234567, None, None, None, None]


def test_spans_outside_the_prompt_are_left_out() -> None:
    good = {"start": 0, "end": 5, "role": "style", "id": "a"}
    wrong = [{"start": 3, "end": 3}, {"start": 5, "end": 2}, {"start": -1}, {"end": 17}, {"role": "x"}, {"start": "a"}]
    assert validated(picture_data(spans=[good, *({**good, **w} for w in wrong), 3, None]))["spans"] == [good]


def test_spans_follow_their_words_when_unsafe_characters_go() -> None:
    prompt = "a\u202eb\x00 zwx \ud800dog"
    spans = [
        {"start": prompt.index(word), "end": prompt.index(word) + 3, "role": "trigger", "id": "a"}
        for word in ("zwx", "dog")
    ]
    found = validated(picture_data(prompt=prompt, spans=spans))
    assert found["altered"] and found["prompt"] == "ab zwx dog"
    assert [found["prompt"][s["start"] : s["end"]] for s in found["spans"]] == ["zwx", "dog"]


def test_prompts_keep_their_outer_space_and_words_that_stand_for_nothing() -> None:
    found = validated(picture_data(prompt=" none\n", negative="null", spans=[]))
    assert (found["prompt"], found["negative"], found["altered"]) == (" none\n", "null", False)


def test_long_prompts_are_cut_and_say_so() -> None:
    found = validated(picture_data(prompt="x" * 30_000, spans=[{"start": 19_999, "end": 30_000, "role": "style"}]))
    assert len(found["prompt"]) == 20_000 and found["altered"]
    assert [(s["start"], s["end"]) for s in found["spans"]] == [(19_999, 20_000)]


def test_hashes_are_hashes() -> None:
    concepts = [{"id": "a", "sha256": digest} for digest in ("ABCDEF0123", "xyz", "ab", 5, "a" * 65, None)]
    assert [c["sha256"] for c in validated(picture_data(concepts=concepts))["concepts"]] == ["abcdef0123", *[None] * 5]
