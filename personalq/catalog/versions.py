"""Versions, dates and lineage in names. It reads text only; which field wins is decided in `merge`."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime, timezone

NUMBER = r"(\d{1,4})(?:[._](\d{1,3}))?(?:\.(\d{1,3}))?"
MARK = r"(?:v|(?<![^\W\d_])(?:v|ver|version)[\s._-]*)"
MARKED = re.compile(rf"{MARK}{NUMBER}(?!\d)", re.IGNORECASE)
BARE = re.compile(r"(\d{1,3})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?(?=\s|$)")
ENDING = re.compile(r"(?<=[^\d.])([0-4]?\d)(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?$")
DATE = r"20\d\d[-_.]?(?:0[1-9]|1[0-2])(?:[-_.]?(?:0[1-9]|[12]\d|3[01]))?"
# Numbers in version names that are no version: dates, the base model, sizes of pictures, files and ranks, steps.
NOISE = re.compile(
    rf"(?<!\d){DATE}(?!\d)|"
    r"\bSD(?:XL)?[\s_-]*[123](?:\.[\dx])?\b|\b(?:512|768|1024)(?:px)?\b|\b\d+\s?MB\b|\.safetensors$"
    r"|(?:\b|_)(?:e|ep|epoch|dim|step)s?[\s_-]?\d+|\b\d+\s?steps?\b",
    re.IGNORECASE,
)
TAIL = re.compile(
    rf"[\s_.-]*(?:[\[(【]\s*)?(?:(?P<version>{MARK}\d+(?:[._]\d+)*)|(?P<date>(?<!\d){DATE})"
    r"|(?P<step>[-_](?:0{2,}\d+|e\d{1,3}|ep\d+|epoch\d+|step\d+)))(?:\s*[\])】])?\s*$",
    re.IGNORECASE,
)
YEARS = range(2015, 2100)


def ordinal(version: str | None) -> float | None:
    """The number a version name states: "v1.0" is 1, "v12" is 12, "1.60-beta" is 1.6; None when it states none."""
    text = NOISE.sub(" ", version or "").strip(" []()-_")
    match = MARKED.search(text) or BARE.match(text) or ENDING.search(text)
    if not match:
        return None
    major, minor, patch = match.groups()
    return float(f"{major}.{minor or 0}{'' if patch is None else patch}")


def split_version(name: str) -> tuple[str, str | None]:
    """`name` without its trailing version, date and training step, and the version or date found there.

    "Biscuit v2" is ("Biscuit", "v2"), "biscuit_2024-03" is ("biscuit", "2024-03"); a name that is nothing else stays.
    """
    rest, found = name.strip(), None
    while (match := TAIL.search(rest)) and match.start() > 0:
        rest = rest[: match.start()]
        found = match["version"] or found or match["date"]
    return rest.rstrip(" _-.") or name, found


def slug(text: str) -> str:
    """Lower-case letters and digits of any script joined by "-"; at most 80 characters, "" when there are none."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", "-", plain)[:80].strip("-")


def iso_date(stored: str) -> str | None:
    """The day (YYYY-MM-DD) of a stored time, ISO 8601 or seconds since 1970; None when it is implausible."""
    text = stored.strip()
    try:
        if re.fullmatch(r"\d{9,10}(?:\.\d+)?", text):
            day = datetime.fromtimestamp(float(text), tz=timezone.utc).date()
        else:
            match = re.match(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?![\d])", text)
            if not match:
                return None
            day = datetime(*(int(part) for part in match.groups())).date()  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    return day.isoformat() if day.year in YEARS else None
