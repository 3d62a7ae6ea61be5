"""The texts in a PNG file that nobody vouches for, read without decoding a pixel. It does not know what they mean."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from personalq.errors import PictureError

MAX_FILE, MAX_PIXELS, MAX_TEXT = 20 * 2**20, 64 * 2**20, 2**20
"""Bytes of a file that is read, its pixels, and bytes of a text in it, unpacked."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
AGAIN = "choose the file as it was saved, a messenger or a hub may have written it anew"


def texts(path: Path, keywords: Collection[str]) -> dict[str, str]:
    """The texts under some keywords, the first of each, also where the file is cut off behind them.

    Raises PictureError for what is no PNG, too large, or damaged where these texts stand.
    """
    found: dict[str, str] = {}
    for kind, body in _chunks(_bytes(path)):
        if kind == b"IHDR":
            _check_pixels(body)
            continue
        keyword, _, rest = body.partition(b"\0")
        name = keyword.decode("latin-1")
        if name in keywords and name not in found:
            found[name] = _text(kind, rest)
    return found


def _bytes(path: Path) -> bytes:
    """The file. Raises PictureError when it is none, is too large or is no PNG."""
    try:
        if not path.is_file():
            raise PictureError(f"There is no picture at {path.name}: choose a PNG file.")
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise PictureError(f"{path.name} cannot be read: check its permissions.") from error
    if len(data) > MAX_FILE:
        raise PictureError(f"This picture is larger than {MAX_FILE // 2**20} MB: choose it as it was saved.")
    if not data.startswith(SIGNATURE):
        raise PictureError(f"This is no PNG file, whatever its name: {AGAIN}.")
    return data


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG by type, as far as the file goes; text that is damaged raises PictureError."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        start, at = at + 8, at + 12 + length
        if at > len(data) or kind == b"IEND":
            return
        if kind in (b"IHDR", *TEXTS):
            body = data[start : start + length]
            if zlib.crc32(kind + body) != struct.unpack_from(">I", data, at - 4)[0]:
                raise PictureError("This picture's text is damaged: fetch or save it again.")
            yield kind, body


def _check_pixels(body: bytes) -> None:
    if len(body) != 13:
        raise PictureError("This picture's header is damaged: fetch or save it again.")
    width, height = struct.unpack_from(">II", body)
    if width * height > MAX_PIXELS:
        raise PictureError(f"{width} x {height} pixels are too many: choose a picture of at most {MAX_PIXELS}.")


def _text(kind: bytes, rest: bytes) -> str:
    """The text of a chunk, whose keyword is taken off already."""
    if kind == b"tEXt":
        return _unpacked(rest, False).decode("latin-1")
    if kind == b"zTXt":
        return _unpacked(rest[1:], True).decode("latin-1")
    text = rest[2:].split(b"\0", 2)[-1]  # behind two flags, a language and a translated keyword
    return _unpacked(text, rest[:1] == b"\1").decode("utf-8", "replace")


def _unpacked(data: bytes, compressed: bool) -> bytes:
    """A text's bytes. Raises PictureError when it is too long, or would be once it is unpacked."""
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, MAX_TEXT + 1) if compressed else data
    except zlib.error as error:
        raise PictureError("This picture's text is damaged: fetch or save it again.") from error
    if len(text) > MAX_TEXT:
        raise PictureError("This picture's text is far longer than any settings are: do not trust it.")
    return text
