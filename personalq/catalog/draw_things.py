"""Draw Things' community metadata (`metadata.json`). Its `version` is the base's; it knows none of the checkpoint's."""

from __future__ import annotations

from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import Fields

MARKS = ("prefix", "keyword", "converted", "is_lo_ha")


def recognises(document: Fields) -> bool:
    """Whether the object has the fields only this format has."""
    return "file" in document and "name" in document and any(mark in document for mark in MARKS)


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one record; `prefix` is a LoRA's trigger, `keyword` an embedding's."""
    base, word = document.text("version"), document.text("prefix", "keyword")
    file, converted = document.text("file"), document.child("converted")
    return (
        Facts(
            source="draw-things",
            name=document.text("name"),
            kind="ti" if "keyword" in document else None,
            bases=(base,) if base else (),
            triggers=(word,) if word else (),
            names=(file,) if file else (),
            hashes=tuple(digest for name in converted.names() if len(digest := converted.text(name).casefold()) == 64),
        ),
    )
