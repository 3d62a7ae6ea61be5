"""Preview files as inline pictures."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from personalq.ui import previews


def test_a_picture_becomes_small_and_inline(tmp_path: Path) -> None:
    Image.new("RGB", (600, 300), "red").save(tmp_path / "p.png")
    address = previews.thumbnail(str(tmp_path / "p.png"))
    kind, _, data = address.partition(",")
    assert kind == "data:image/webp;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (previews.SIDE, previews.SIDE // 2)
    assert picture.convert("RGB").getpixel((5, 5))[0] > 200


def test_a_changed_picture_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.new("RGB", (9, 9), "red").save(path)
    before = previews.thumbnail(str(path))
    Image.new("RGB", (9, 9), "blue").save(path)
    path.touch()
    assert previews.thumbnail(str(path)) != before


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken", b"<svg onload='alert(1)'/>"])
def test_broken_files_have_no_preview(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.png").write_bytes(content)
    assert previews.thumbnail(str(tmp_path / "p.png")) == ""


def test_no_file_no_preview(tmp_path: Path) -> None:
    assert previews.thumbnail(None) == "" == previews.thumbnail(str(tmp_path / "gone.png"))


def test_huge_pictures_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (60, 60)).save(tmp_path / "p.png")
    monkeypatch.setattr(previews, "MOST_PIXELS", 3599)
    assert previews.thumbnail(str(tmp_path / "p.png")) == ""
