"""InvokeAI's model record (`trigger_phrases`). It knows one exported record, none of the program's database."""

from __future__ import annotations

import re

from personalq.catalog.facts import Facts, usable_weight
from personalq.catalog.untrusted import Fields
from personalq.records import Kind

KINDS: dict[str, Kind] = {"lora": "lora", "embedding": "ti", "main": "dreambooth"}


def recognises(document: Fields) -> bool:
    """Whether the object has the field only this format has."""
    return "trigger_phrases" in document


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one record. Its hash is BLAKE3 unless it says otherwise, and then no SHA-256 of the weights."""
    base, file = document.text("base"), document.text("path").replace("\\", "/").rpartition("/")[2]
    method, _, digest = document.text("hash", "file_hash").casefold().partition(":")
    return (
        Facts(
            source="invokeai",
            name=document.text("name"),
            kind=KINDS.get(document.text("type").casefold()),
            bases=(base,) if base and base != "any" else (),
            triggers=document.texts("trigger_phrases"),
            description=document.text("description"),
            weight=usable_weight(document.child("default_settings").number("weight")),
            names=(file,) if file else (),
            hashes=(digest,) if method == "sha256" and re.fullmatch(r"[0-9a-f]{64}", digest) else (),
        ),
    )
