"""Where two pictures differ, and by how much, as a picture. Knows no models and how neither picture was made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from personalq.backend.compare import psnr
from personalq.records import Difference

SHARE = 0.999
"""The last colour begins where this share of the pixels differs by less, so that few outliers do not darken all."""
LEAST = 8
"""It never begins below this many grey levels: rounding noise stays dark."""

SCALE = ((0, 0, 0), (48, 18, 96), (118, 26, 116), (186, 48, 88), (232, 96, 38), (246, 160, 20), (255, 232, 90))
"""The colours from no difference to the largest one drawn, at equal distances and in about equal steps of lightness
(CIE L* 0, 15, 29, 43, 58, 73, 92)."""


def heat_map(a: Image.Image, b: Image.Image) -> tuple[Image.Image, Difference]:
    """The absolute difference of each pixel on `SCALE`, RGB of the pictures' size, and its numbers.

    A pixel counts by the channel that differs most: in luminance, a red turned into a green as light would be missed.
    The scale ends at the 99.9th percentile of the pixels, at 8 grey levels or more. Raises ValueError for pictures of
    different sizes.
    """
    apart = psnr(a, b)  # which looks at the sizes
    x, y = (np.asarray(picture.convert("RGB")) for picture in (a, b))
    levels = (np.maximum(x, y) - np.minimum(x, y)).max(axis=2)
    counts = np.bincount(levels.ravel(), minlength=256)
    top = max(LEAST, int(np.searchsorted(counts.cumsum(), SHARE * levels.size)))
    difference = Difference(apart, float(levels.mean()), int(levels.max()), top)
    return Image.fromarray(colours(top)[levels]), difference


def colours(scale_max: int) -> NDArray[np.uint8]:
    """The colour of every difference 0 to 255, uint8 [256, 3], for a scale that ends at `scale_max`."""
    at = np.minimum(np.arange(256) / scale_max, 1.0) * (len(SCALE) - 1)
    channels = [np.interp(at, range(len(SCALE)), channel) for channel in zip(*SCALE, strict=True)]
    return np.stack(channels, axis=1).round().astype(np.uint8)
