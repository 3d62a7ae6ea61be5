"""The texts of PNG files that nobody vouches for."""

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from personalq.backend.provenance.png import MAX_FILE, SIGNATURE, texts
from personalq.errors import PictureError

KEYS = ("parameters", "personalq")


def png(info: PngInfo | None = None) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def read(folder: Path, data: bytes) -> dict[str, str]:
    path = folder / "picture.png"
    path.write_bytes(data)
    return texts(path, KEYS)


@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_of_text_is_read(tmp_path: Path, packed: bool) -> None:
    info = PngInfo()
    info.add_text("parameters", "caf\u00e9", zip=packed)
    info.add_itxt("personalq", '\u72ac \U0001f436\n"<>', "en", "key", zip=packed)
    info.add_text("Comment", "not asked for")
    assert read(tmp_path, png(info)) == {"parameters": "caf\u00e9", "personalq": '\u72ac \U0001f436\n"<>'}


def test_the_first_of_two_counts_and_text_behind_the_pixels_too(tmp_path: Path) -> None:
    data = png()
    late = chunk(b"tEXt", b"parameters\0one") + chunk(b"tEXt", b"parameters\0two")
    assert read(tmp_path, data[:-12] + late + data[-12:]) == {"parameters": "one"}


def test_a_picture_that_is_cut_off_behind_its_text_still_tells(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "settings")
    data = png(info)
    for end in range(len(data)):
        try:
            found = read(tmp_path, data[:end])
        except PictureError:
            assert end < len(SIGNATURE)
        else:
            assert found in ({}, {"parameters": "settings"})
    assert read(tmp_path, data[: data.index(b"IDAT") + 6]) == {"parameters": "settings"}


@pytest.mark.parametrize(
    "body",
    [
        b"zTXtparameters\0\0" + zlib.compress(bytes(50 * 2**20)),
        b"iTXtpersonalq\0\1\0\0\0" + zlib.compress(bytes(50 * 2**20)),
        b"iTXtpersonalq\0\0\0\0\0" + b"x" * (2**20 + 1),
    ],
)
def test_texts_that_unpack_to_too_much_are_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(PictureError, match="do not trust"):
        read(tmp_path, header(4, 4) + chunk(body[:4], body[4:]))


@pytest.mark.parametrize("body", [b"zTXtparameters\0\0no zlib", b"iTXtpersonalq\0\1\0\0\0no zlib"])
def test_texts_that_do_not_unpack_are_damaged(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(PictureError, match="damaged"):
        read(tmp_path, header(4, 4) + chunk(body[:4], body[4:]))


def test_short_and_strange_chunks_break_nothing(tmp_path: Path) -> None:
    strange = [b"tEXt", b"zTXtparameters", b"iTXtpersonalq", b"iTXtpersonalq\0", b"tEXt\xff\xfe", b"XXXXx"]
    assert set(read(tmp_path, header(4, 4) + b"".join(chunk(b[:4], b[4:]) for b in strange)).values()) <= {""}
    assert read(tmp_path, header(4, 4) + b"\xff\xff\xff\xfftEXtparameters\0x") == {}


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "settings")
    with pytest.raises(PictureError, match="damaged"):
        read(tmp_path, png(info).replace(b"settings", b"sittings"))


def test_too_many_pixels_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="too many"):
        read(tmp_path, header(2**31 - 1, 2**31 - 1))


def test_what_is_no_png_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "JPEG")
    for data in (out.getvalue(), b"", b"GIF89a", SIGNATURE[:5]):
        with pytest.raises(PictureError, match="no PNG"):
            read(tmp_path, data)


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("none.png", "pipe.png", ".", "a\0b.png"):
        with pytest.raises(PictureError):
            texts(tmp_path / name, KEYS)
    with pytest.raises(PictureError, match="20 MB"):
        read(tmp_path, SIGNATURE + bytes(MAX_FILE))
