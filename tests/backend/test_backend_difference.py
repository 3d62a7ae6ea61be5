"""Maps of differences: black where pictures are the same, lighter where they are further apart, and honest numbers."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from personalq.backend.compare import psnr
from personalq.backend.difference import colours, heat_map

GREY = Image.new("RGB", (40, 30), (100, 100, 100))


def lightness(table: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE L* of sRGB colours."""
    c = table / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    return np.where(linear > 0.008856, 116 * np.cbrt(linear) - 16, 903.3 * linear)


def with_square(colour: tuple[int, int, int], side: int = 10) -> Image.Image:
    changed = GREY.copy()
    changed.paste(colour, (0, 0, side, side))
    return changed


def test_identical_pictures_are_black() -> None:
    drawn, difference = heat_map(GREY, GREY.copy())
    assert drawn.size == GREY.size and drawn.getextrema() == ((0, 0),) * 3
    assert (difference.psnr, difference.mean, difference.largest) == (float("inf"), 0.0, 0)
    assert difference.scale_max == 8


def test_rounding_noise_stays_dark_and_what_changed_is_lit() -> None:
    noise, _ = heat_map(GREY, with_square((101, 100, 100)))
    square, difference = heat_map(GREY, with_square((160, 100, 100)))
    table = colours(difference.scale_max)
    assert difference.scale_max == difference.largest == 60
    assert square.getpixel((0, 0)) == tuple(table[255]) and square.getpixel((39, 29)) == (0, 0, 0)
    assert lightness(np.array([noise.getpixel((0, 0))]))[0] < 15
    assert difference.mean == pytest.approx(60 * 100 / 1200)
    assert difference.psnr == psnr(GREY, with_square((160, 100, 100)))


def test_a_change_of_hue_alone_is_seen() -> None:
    """Red and green of the same luminance, 0.299 R + 0.587 G + 0.114 B."""
    red, green = (Image.new("RGB", (4, 4), colour) for colour in ((200, 0, 0), (0, 102, 0)))
    assert heat_map(red, green)[1].largest == 200


def test_a_few_outliers_do_not_darken_the_rest() -> None:
    size = (100, 100)
    a = np.full((*size, 3), 100, dtype=np.uint8)
    b = a.copy()
    b[:50] += 20
    b[0, :5] = 255
    _, difference = heat_map(Image.fromarray(a), Image.fromarray(b))
    assert difference.scale_max == 20 and difference.largest == 155


def test_the_scale_climbs_evenly_and_stops_at_its_end() -> None:
    steps = np.diff(lightness(colours(255)))
    assert (steps > 0).all() and steps.max() < 1
    short = colours(37)
    assert (short[37:] == short[255]).all() and not (short[36] == short[37]).all()
    assert not short[0].any()


def test_other_modes_are_read_as_rgb_and_other_sizes_refused() -> None:
    assert heat_map(GREY.convert("L"), GREY.convert("RGBA"))[1].largest == 0
    with pytest.raises(ValueError, match="one size"):
        heat_map(GREY, GREY.resize((30, 40)))
