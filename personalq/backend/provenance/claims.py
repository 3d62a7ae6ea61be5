"""What a picture, or an entry kept in a browser, claims about how it was made: every field checked, nothing believed.

It knows no files and no catalogue. What is not of its type counts as missing, and fields that are not known are left
out, so that what comes out of here can be shown, kept and checked again without changing.
"""

from __future__ import annotations

import re
from dataclasses import fields as columns
from typing import Any, get_args

from personalq.catalog.untrusted import MAX_TEXT, UNSAFE, Fields
from personalq.errors import PictureError
from personalq.records import Kind, MemoryReading, Protected, SpanRole

FORMAT = 1
"""Of the data; a later one is refused."""
MAX_LABEL = 300
"""Characters of names, ids, triggers and the like."""
MAX_SIDE, MAX_STEPS, MAX_GUIDANCE, MAX_WEIGHT = 2**16, 10_000, 100.0, 10.0
SEEDS = (-(2**63), 2**64 - 1)
"""What torch takes as a seed."""
HASH = re.compile(r"[0-9a-f]{8,64}")
BITS = ("weights", "activations", "text_rows", "probabilities")
SOURCES = ("personalq", "a1111")
"""Whether the data was written by this program, or read from text in AUTOMATIC1111's form."""


def validated(data: object) -> dict[str, Any]:
    """Data such as `metadata.made` gives, from anywhere: the same fields, each of its type and within its limits.

    A missing number is None, a missing text "". `spans` is None where the data has none; those that do not lie in the
    prompt are left out. `altered` tells that a prompt was cut or held characters that are not kept. Raises
    PictureError for data that is no object, has no prompt, or is of a later format.
    """
    if not isinstance(data, dict):
        raise PictureError("This does not say how a picture was made: choose a picture as PersonalQ saved it.")
    fields = Fields(data)
    if (version := _whole(fields, "format", 1, 2**31) or FORMAT) > FORMAT:
        raise PictureError(f"A later PersonalQ wrote this (format {version}, not {FORMAT}): update PersonalQ.")
    prompt, negative = data.get("prompt"), data.get("negative", "")
    if not isinstance(prompt, str) or not isinstance(negative, str):
        raise PictureError("This says no prompt that can be read: choose a picture as PersonalQ saved it.")
    return {
        "format": FORMAT,
        "source": source if (source := fields.text("source")) in SOURCES else SOURCES[0],
        "prompt": _kept(prompt),
        "negative": _kept(negative),
        "altered": fields.flag("altered") or _kept(prompt) != prompt or _kept(negative) != negative,
        "spans": _spans(fields, prompt),
        "seed": _whole(fields, "seed", *SEEDS),
        "steps": _whole(fields, "steps", 1, MAX_STEPS),
        "guidance": _real(fields, "guidance", 0, MAX_GUIDANCE),
        "width": _whole(fields, "width", 1, MAX_SIDE),
        "height": _whole(fields, "height", 1, MAX_SIDE),
        "concepts": [_concept(item) for item in fields.children("concepts")],
        "precision": _label(fields, "precision"),
        "quantiser": "none" if data.get("quantiser") == "none" else _label(fields, "quantiser"),
        "bits": _bits(fields.child("bits")),
        "protect": _protect(fields.child("protect")),
        "protected_words": [word[:MAX_LABEL].strip() for word in fields.texts("protected_words")],
        "base": _base(fields.child("base")),
        "sampler": _label(fields, "sampler"),
        "dtype": _label(fields, "dtype"),
        "device": _label(fields, "device"),
        "versions": _versions(fields.child("versions")),
        "memory": _memory(fields.child("memory")) if data.get("memory") is not None else None,
    }


def _spans(fields: Fields, prompt: str) -> list[dict[str, Any]] | None:
    """The spans that lie in the prompt, moved to where their pieces are once it is cleaned."""
    if not isinstance(fields.values.get("spans"), list):
        return None
    spans = []
    for item in fields.children("spans"):
        start, end = (_whole(item, key, 0, len(prompt)) for key in ("start", "end"))
        if start is None or end is None or item.values.get("role") not in get_args(SpanRole):
            continue
        start, end = len(_kept(prompt[:start])), len(_kept(prompt[:end]))
        if start < end:
            spans.append({"start": start, "end": end, "role": item.values["role"], "id": _label(item, "id")})
    return spans


def _concept(item: Fields) -> dict[str, Any]:
    digest = item.text("sha256").casefold()
    return {
        "id": _label(item, "id"),
        "name": _label(item, "name"),
        "kind": kind if (kind := item.text("kind")) in get_args(Kind) else "",
        "trigger": _label(item, "trigger"),
        "sha256": digest if HASH.fullmatch(digest) else None,
        "weight": _real(item, "weight", -MAX_WEIGHT, MAX_WEIGHT),
    }


def _bits(item: Fields) -> dict[str, int | None]:
    return {name: _whole(item, name, 1, 64) for name in BITS}


def _protect(item: Fields) -> dict[str, Any]:
    chosen, rows = ([row for row in item.texts(key) if row in get_args(Protected)] for key in ("chosen", "rows"))
    given = isinstance(item.values.get("chosen"), list)
    return {"chosen": chosen if given else None, "rows": rows, "kept": _label(item, "kept")}


def _base(item: Fields) -> dict[str, Any]:
    digest = item.text("sha256").casefold()
    return {
        "name": _label(item, "name"),
        "fingerprint": _label(item, "fingerprint"),
        "sha256": digest if HASH.fullmatch(digest) else None,
    }


def _versions(item: Fields) -> dict[str, str]:
    return {name: _label(item, name) for name in ("personalq", "torch", "diffusers")}


def _memory(item: Fields) -> dict[str, Any]:
    texts = {name: _label(item, name, 1000) for name in ("device", "how_measured")}
    numbers = {"seconds": _real(item, "seconds", 0, 1e9)}
    names = (column.name for column in columns(MemoryReading))
    return {name: {**texts, **numbers}[name] if name in (*texts, *numbers) else _bytes(item, name) for name in names}


def _bytes(item: Fields, key: str) -> int | None:
    return _whole(item, key, 0, 2**60)


def _whole(fields: Fields, key: str, low: int, high: int) -> int | None:
    """The whole number under `key`, exactly; None for anything else, and for one out of bounds."""
    value = fields.values.get(key)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and low <= value <= high else None


def _real(fields: Fields, key: str, low: float, high: float) -> float | None:
    """The number under `key`, brought within bounds; None for anything else."""
    number = fields.number(key)
    return None if number is None else min(max(number, low), high)


def _label(fields: Fields, key: str, limit: int = MAX_LABEL) -> str:
    return " ".join(fields.text(key).split())[:limit].strip()


def _kept(text: str) -> str:
    """A prompt without unsafe characters. Its outer space stays, or spans would not fit."""
    return UNSAFE.sub("", text[:MAX_TEXT])
