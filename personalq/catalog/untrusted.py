"""Reading files nobody vouches for: sizes, nesting and types are checked here. It does not know any format.

Nothing in this module runs, unpickles or follows what it reads.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from personalq.errors import BrokenFileError

MAX_SIDECAR = 4 * 2**20
MAX_TEXT = 20_000
MAX_ITEMS = 200
ABSENT = frozenset({"", "none", "null", "nil", "n/a", "undefined", "nan"})
# Control characters, lone surrogates and the bidirectional overrides that make text read as something else.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def read_limited(path: Path, limit: int = MAX_SIDECAR) -> bytes:
    """The whole file. Raises BrokenFileError when it is larger than `limit` bytes or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BrokenFileError(f"It cannot be read ({error.strerror}); check its permissions.") from error
    if len(data) > limit:
        raise BrokenFileError(f"It is larger than {limit} bytes, too large for a description; remove or shorten it.")
    return data


def decode(data: bytes) -> str:
    """UTF-8 text, byte order mark dropped. Raises BrokenFileError for anything else."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenFileError(f"It is not UTF-8 text (byte {error.start}); save it again as UTF-8.") from error


def parse_json(text: str) -> object:
    """The JSON value. Raises BrokenFileError for malformed or absurdly nested text."""
    try:
        value: object = json.loads(text)
    except RecursionError:
        raise BrokenFileError("Its JSON is nested absurdly deep; it is broken or hostile.") from None
    except ValueError as error:
        raise BrokenFileError(f"It is not valid JSON ({error}); repair or remove it.") from error
    return value


def clean(value: str, limit: int = MAX_TEXT) -> str:
    """`value` without unsafe characters and outer space; "" for words such as "None" that stand for nothing."""
    text = UNSAFE.sub("", value[:limit]).strip()
    return "" if text.casefold() in ABSENT else text


class Fields:
    """A JSON object whose fields may have any type: a wrong one counts as missing and is complained about once."""

    def __init__(self, value: object, complaints: list[str] | None = None, where: str = "") -> None:
        self.complaints = [] if complaints is None else complaints
        self.where = where
        self.values: dict[object, object] = {}
        if isinstance(value, dict):
            self.values = value
        elif value is not None:
            self._complain("", value, "an object")

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def names(self) -> tuple[str, ...]:
        """The names of the fields, those that are text."""
        return tuple(key for key in self.values if isinstance(key, str))

    def text(self, *keys: str) -> str:
        """The first of `keys` that holds text, cleaned; numbers count as text."""
        for key in keys:
            value = self._typed(key, (str, int, float), "text")
            if value is not None and clean(str(value)):
                return clean(str(value))
        return ""

    def texts(self, key: str) -> tuple[str, ...]:
        """The texts of a list; one text alone is a list of one."""
        value = self._typed(key, (str, list), "a list of texts")
        if isinstance(value, str):
            value = [value]
        items = (value or [])[:MAX_ITEMS]
        for item in items:
            if item is not None and not isinstance(item, str):
                self._complain(key, item, "a list of texts")
                break
        return tuple(text for item in items if isinstance(item, str) and (text := clean(item)))

    def number(self, key: str) -> float | None:
        """A finite number; text that spells one counts."""
        value = self._typed(key, (int, float, str), "a number")
        try:
            number = float(value) if value not in (None, "") else None
        except (ValueError, OverflowError):
            self._complain(key, value, "a number")
            return None
        return number if number is not None and math.isfinite(number) else None

    def flag(self, key: str) -> bool:
        """True for true, 1, "true" and "1"."""
        return str(self.values.get(key)).casefold() in ("true", "1")

    def child(self, key: str) -> Fields:
        """The object under `key`; an empty one when it is missing."""
        return Fields(self.values.get(key), self.complaints, f"{self.where}{key}.")

    def children(self, key: str) -> tuple[Fields, ...]:
        """The objects of the list under `key`."""
        value = self._typed(key, (list,), "a list")
        return tuple(Fields(item, self.complaints, f"{self.where}{key}.") for item in (value or [])[:MAX_ITEMS])

    def embedded(self, key: str) -> Fields:
        """The object that the text under `key` spells in JSON, as trainers and managers nest it."""
        text = self.text(key)
        if not text:
            return Fields(None, self.complaints)
        try:
            return Fields(parse_json(text), self.complaints, f"{self.where}{key}.")
        except BrokenFileError:
            self.complaints.append(f"Its field {self.where}{key} holds broken JSON; the field is ignored.")
            return Fields(None, self.complaints)

    def _typed(self, key: str, types: tuple[type, ...], wanted: str) -> Any:
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, types) and not isinstance(value, bool):
            return value
        self._complain(key, value, wanted)
        return None

    def _complain(self, key: str, value: object, wanted: str) -> None:
        name = (self.where + key).rstrip(".") or "content"
        self.complaints.append(f"Its {name} is {type(value).__name__}, not {wanted}; it is ignored.")
