"""Names inside pickled embeddings (`.pt`, `.bin`), read opcode by opcode: nothing is ever unpickled or loaded."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from itertools import pairwise
from pathlib import Path

from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import clean
from personalq.errors import BrokenFileError

MAX_PICKLE = 4 * 2**20
MAX_OPCODES = 200_000
TEXT_OPCODES = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINUNICODE8"})
FIELDS = ("name", "sd_checkpoint_name")


def read(path: Path) -> tuple[Facts, ...]:
    """Facts of a textual inversion or LoRA in a pickle, which is listed but never loaded; none for other pickles.

    Raises BrokenFileError when the file is a torch archive or pickle that cannot be parsed.
    """
    texts = _texts(path)
    if any(".lora_down." in text or "lora_A." in text or ".lora.down" in text for text in texts):
        return (Facts(source="weights", kind="lora", loadable=False),)
    tokens = tuple(text for text in texts[:3] if text.startswith("<") and text.endswith(">"))
    if not tokens and "string_to_param" not in texts and "emb_params" not in texts:
        return ()
    found = {name: clean(value) for name, value in pairwise(texts) if name in FIELDS}
    word = found.get("name", "")
    base = found.get("sd_checkpoint_name", "")
    return (
        Facts(
            source="embedding",
            kind="ti",
            triggers=tokens or (word or path.name.partition(".")[0],),
            aliases=(word,) if word else (),
            base_hints=(base,) if base else (),
            loadable=False,
        ),
    )


def _texts(path: Path) -> tuple[str, ...]:
    """Every text constant of the pickle in the file, in order."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PICKLE)
        if data.startswith(b"PK"):
            data = _archived(path)
        elif not data.startswith(b"\x80"):
            raise BrokenFileError("It is neither a torch archive nor a pickle; remove it or download it again.")
        return _constants(data)
    except OSError as error:
        raise BrokenFileError(f"It cannot be read ({error.strerror}); check its permissions.") from error


def _archived(path: Path) -> bytes:
    """The `data.pkl` of a torch archive, at most 4 MiB of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next((entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")), None)
            if entry is None or entry.compress_type != zipfile.ZIP_STORED:
                raise BrokenFileError("It is an archive, but not one that torch writes; remove it.")
            with archive.open(entry) as file:
                return file.read(MAX_PICKLE)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise BrokenFileError(f"Its archive is damaged ({error}); download it again.") from error


def _constants(data: bytes) -> tuple[str, ...]:
    """Text constants of up to 5 pickles in a row (torch's old format has four before the names)."""
    texts: list[str] = []
    stream, count = io.BytesIO(data), 0
    try:
        for _ in range(5):
            if stream.tell() >= len(data):
                break
            for opcode, argument, _position in pickletools.genops(stream):
                count += 1
                if count > MAX_OPCODES:
                    return tuple(texts)
                if opcode.name in TEXT_OPCODES and isinstance(argument, str) and len(texts) < 5000:
                    texts.append(argument[:300])
    except (ValueError, struct.error, EOFError, OverflowError, IndexError, MemoryError) as error:
        if not texts:
            raise BrokenFileError(f"Its pickle cannot be parsed ({error}); download it again.") from error
    return tuple(texts)
