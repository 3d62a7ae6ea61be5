"""Widget values, checked, and a job as the widgets show it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scripted_desk import PIP, controls

from personalq.errors import RequestError
from personalq.records import Job
from personalq.ui.controls import (
    LAST_SEED,
    MOST_NEGATIVE,
    MOST_PROMPT,
    MOST_SEED,
    ROWS,
    SHAPES,
    Controls,
    kept_rows,
    new_seed,
    shown,
)

NAN, INF = math.nan, math.inf


def job(prompt: str = "a dog", weight: float = 1.0, **given: Any) -> Job:
    return controls(**given).job(prompt, (), [(PIP, weight)], 7)


def test_a_job_is_what_the_widgets_say() -> None:
    made = job(negative=" blurred ", steps=30.0, guidance=4, batch=3.0, protect="The start token only", weight=-0.5)
    assert made == Job("a dog", "blurred", (), ((PIP, -0.5),), 7, 30, 4.0, count=3, protect=("start",))
    assert [type(value) for value in (made.steps, made.count, made.guidance)] == [int, int, float]


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 0}, {"steps": 51}, {"steps": -1}, {"steps": NAN}, {"steps": INF},
        {"batch": 0}, {"batch": 5}, {"batch": NAN}, {"batch": 1e9},
        {"guidance": -0.1}, {"guidance": 30.1}, {"guidance": NAN}, {"guidance": INF},
        {"weight": 4.1}, {"weight": -4.1}, {"weight": NAN}, {"weight": -INF},
        {"prompt": "x" * (MOST_PROMPT + 1)}, {"negative": "x" * (MOST_NEGATIVE + 1)},
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_told(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as told:
        job(**given)
    assert len(str(told.value)) < 200


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 1}, {"steps": 50}, {"batch": 4}, {"guidance": 0}, {"guidance": 30}, {"weight": 4}, {"weight": -4},
        {"prompt": "x" * MOST_PROMPT}, {"negative": "x" * MOST_NEGATIVE},
    ],
)  # fmt: skip
def test_the_largest_and_the_smallest_are_taken(given: dict[str, Any]) -> None:
    assert job(**given).seed == 7


# --- seeds -------------------------------------------------------------------------------------


def test_a_locked_seed_is_kept_and_another_drawn() -> None:
    assert [controls(seed=seed).chosen_seed() for seed in (0, 7.0, MOST_SEED)] == [0, 7, MOST_SEED]
    drawn = {controls(seed=seed, locked=locked).chosen_seed() for seed, locked in ((7, False), (None, True)) * 20}
    assert len(drawn) > 30 and all(0 <= seed <= LAST_SEED for seed in drawn)


def test_new_seeds_differ_and_stay_in_range() -> None:
    seeds = {new_seed() for _ in range(100)}
    assert len(seeds) > 90 and min(seeds) >= 0 and max(seeds) <= LAST_SEED


@pytest.mark.parametrize("seed", [-1, MOST_SEED + 1, NAN, INF, -INF, 2**64])
def test_a_seed_that_cannot_be_is_told(seed: float) -> None:
    with pytest.raises(RequestError, match="Choose a seed"):
        controls(seed=seed).chosen_seed()
    assert controls(seed=seed, locked=False).chosen_seed() >= 0


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "own", "pixels"),
    [
        ("Portrait", (512, 512), (384, 512)),
        ("Landscape", (512, 512), (512, 384)),
        ("Smaller", (1024, 1024), (768, 768)),
        ("Smaller", (128, 128), (96, 96)),
        ("Portrait", (16, 16), (32, 32)),
        ("512 x 768", (512, 512), (512, 768)),
        ("512x768", (512, 512), (512, 768)),
        (" 640 × 480 ", (512, 512), (640, 480)),
        ("640*480", (512, 512), (640, 480)),
        ("640, 480", (512, 512), (640, 480)),
        ("640 480", (512, 512), (640, 480)),
        ("2048 x 2048", (512, 512), (2048, 2048)),
    ],
)
def test_sizes_are_shapes_of_the_base_or_typed_pixels(size: str, own: tuple[int, int], pixels: tuple[int, int]) -> None:
    assert Controls(size=size).pixels(own) == pixels


def test_a_square_is_left_to_the_base() -> None:
    assert Controls(size="Square").pixels((512, 512)) is None


@pytest.mark.parametrize("own", [(512, 512), (768, 768), (1024, 1024), (128, 128)])
def test_shapes_keep_to_what_a_base_can_make(own: tuple[int, int]) -> None:
    for name in SHAPES:
        made = Controls(size=name).pixels(own) or own
        assert all(side % 32 == 0 and 0 < side <= most for side, most in zip(made, own, strict=True))


@pytest.mark.parametrize(
    "size", ["", None, "big", "512", "512 x", "x 512", "512 x 768 x 3", "-512 x 512", "5 x 5", "51.5 x 60", "9" * 9999]
)
def test_a_size_that_is_not_understood_is_told_in_few_words(size: Any) -> None:
    with pytest.raises(RequestError, match="not understood") as told:
        Controls(size=size).pixels((512, 512))
    assert len(str(told.value)) < 200


@pytest.mark.parametrize("size", ["2049 x 512", "512 x 9999"])
def test_a_size_that_is_too_large_is_told(size: str) -> None:
    with pytest.raises(RequestError, match="too large"):
        Controls(size=size).pixels((512, 512))


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_shown_as_it_was_chosen(name: str) -> None:
    pixels = Controls(size=name).pixels((512, 512)) or (None, None)
    assert shown(Job("x", width=pixels[0], height=pixels[1]), (512, 512)) == name


@pytest.mark.parametrize(
    ("width", "height", "size"), [(640, 480, "640 x 480"), (512, 512, "Square"), (None, 384, "Landscape")]
)
def test_other_sizes_are_shown_in_pixels_and_understood_again(width: int | None, height: int, size: str) -> None:
    assert shown(Job("x", width=width, height=height), (512, 512)) == size
    assert (Controls(size=size).pixels((512, 512)) or (512, 512)) == (width or 512, height)


# --- rows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_shown_as_they_were_chosen(name: str) -> None:
    assert kept_rows(job(protect=name).protect) == name


@pytest.mark.parametrize("rows", [None, (), ("random",), ("noun", "trigger")])
def test_rows_without_a_name_are_shown_as_the_first(rows: tuple[str, ...] | None) -> None:
    assert kept_rows(rows) == next(iter(ROWS))


def test_unknown_rows_are_left_to_the_precision() -> None:
    assert job(protect="Everything and more").protect is None
