"""Preview files as small inline pictures; it does not know which checkpoint a picture belongs to.

Inline, because then the server needs no access to the folders the previews lie in.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SIDE = 192
"""Pixels of the longer side."""
MOST_PIXELS = 50_000_000
"""Larger pictures are not opened: a small file can unpack to gigabytes."""


def thumbnail(path: str | None) -> str:
    """The picture at `path` as a `data:` address of at most 192 pixels, or "" when there is none to show."""
    if not path:
        return ""
    try:
        return _inline(path, Path(path).stat().st_mtime_ns)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return ""


@lru_cache(maxsize=1024)
def _inline(path: str, modified: int) -> str:
    with Image.open(path) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"{path} has more than {MOST_PIXELS} pixels")
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    small.save(data, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
