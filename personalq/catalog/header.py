"""The header of a safetensors file, read and checked without touching the tensors. It knows no trainer and no model."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from personalq.catalog.untrusted import decode, parse_json
from personalq.errors import BrokenFileError

MAX_HEADER = 16 * 2**20
MAX_NAME = 500
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Names and shapes of the tensors, and the metadata as it is stored (it should be text, but may be anything)."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, object]
    length: int = 0
    """Bytes before the first tensor."""


def read_header(path: Path) -> Header:
    """Read and verify the header of `path`.

    Raises BrokenFileError when the header is missing, too long, no JSON, or does not describe the bytes that follow.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = header_length(file.read(8), size)
            return parse_header(file.read(length), size)
    except OSError as error:
        raise BrokenFileError(f"It cannot be read ({error.strerror}); check its permissions.") from error


def header_length(start: bytes, size: int) -> int:
    """Bytes of the header after the first 8 of a file of `size` bytes, which `start` begins with.

    Raises BrokenFileError when the file is too short for it or no real file has one so long.
    """
    if len(start) < 8:
        raise BrokenFileError("It ends before its header; download it again.")
    (length,) = struct.unpack("<Q", start[:8])
    if length > MAX_HEADER:
        raise BrokenFileError(
            f"It is no .safetensors file, whatever its name: it claims a header of {length} bytes. Do not trust it; "
            "choose another."
        )
    if length > size - 8:
        raise BrokenFileError("It is cut off inside its header; download it again.")
    return int(length)


def parse_header(data: bytes, size: int) -> Header:
    """The header `data` of a file of `size` bytes in all. Raises BrokenFileError as `read_header` does."""
    document = parse_json(decode(data))
    if not isinstance(document, dict):
        raise BrokenFileError("Its header is no object; it is no safetensors file.")
    metadata = document.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise BrokenFileError("Its metadata is no object; save it again with safetensors.")
    return Header(_shapes(document, size - 8 - len(data)), metadata, 8 + len(data))


def _shapes(document: dict[str, object], available: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor, once the tensors are known to fill the `available` bytes without gap or overlap."""
    spans: list[tuple[int, int]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for name, entry in document.items():
        dtype, shape, (begin, end) = _entry(name, entry)
        count = 1
        for side in shape:
            count *= side
        if dtype in BYTES and end - begin != count * BYTES[dtype]:
            raise BrokenFileError(f"Tensor {name[:60]!r} does not have the size its shape says; download it again.")
        spans.append((begin, end))
        shapes[name] = shape
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise BrokenFileError("Its tensors overlap or leave gaps; it was not written by safetensors.")
        position = end
    if position > available:
        raise BrokenFileError(f"It is cut off: {position - available} bytes are missing; download it again.")
    if position < available:
        raise BrokenFileError(f"It carries {available - position} bytes that belong to no tensor; do not trust it.")
    return shapes


def _entry(name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """dtype, shape and byte range of one header entry. Raises BrokenFileError when it is not one."""
    if isinstance(entry, dict) and len(name) <= MAX_NAME:
        dtype, shape, offsets = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
        if isinstance(dtype, str) and shape is not None and offsets and len(offsets) == 2 and offsets[0] <= offsets[1]:
            return dtype, shape, (offsets[0], offsets[1])
    raise BrokenFileError(f"Its entry for tensor {name[:60]!r} is malformed; download it again.")


def _counts(value: object) -> tuple[int, ...] | None:
    """`value` when it is a short list of whole numbers from 0 to 2**48, else None."""
    if not isinstance(value, list) or len(value) > 8:
        return None
    return tuple(value) if all(type(item) is int and 0 <= item < 2**48 for item in value) else None
