"""Copies finished pictures to a folder of their owner's, a folder a day. It does not know what they show."""

from __future__ import annotations

import shutil
from datetime import date
from itertools import count
from pathlib import Path

from personalq.errors import PictureError


def keep(picture: Path, folder: Path) -> Path:
    """Where the copy of a picture lies below `folder`; one of the same name is never written over.

    Raises PictureError when it cannot be written.
    """
    day = folder / date.today().isoformat()
    try:
        day.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            copy = day / (picture.name if number == 1 else f"{picture.stem}-{number}{picture.suffix}")
            try:
                with copy.open("xb") as kept, picture.open("rb") as made:
                    shutil.copyfileobj(made, kept)
                return copy
            except FileExistsError:
                continue
    except OSError as error:
        raise PictureError(
            f"The picture cannot be kept in {folder} ({error.strerror}): choose another --pictures."
        ) from None
    raise AssertionError("there is always another number")
