from pathlib import Path

import pytest

from personalq.backend.provenance.keeping import keep
from personalq.errors import PictureError


def test_every_picture_is_kept_and_none_is_written_over(tmp_path: Path) -> None:
    picture, folder = tmp_path / "a.png", tmp_path / "all"
    for content in (b"one", b"two", b"three"):
        picture.write_bytes(content)
        assert keep(picture, folder).read_bytes() == content
    kept = sorted(path.name for path in folder.rglob("*.png"))
    assert kept == ["a-2.png", "a-3.png", "a.png"]


def test_a_folder_that_cannot_be_written_says_what_to_choose(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"one")
    with pytest.raises(PictureError, match="--pictures"):
        keep(picture, picture)
