"""InvokeAI's model record (`trigger_phrases`). It knows one exported record, none of the program's database."""

from __future__ import annotations

import re

from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import Fields


def recognises(document: Fields) -> bool:
    """Whether the object has the field only this format has."""
    return "trigger_phrases" in document


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one record."""
    base, digest = document.text("base"), document.text("hash").partition(":")[2].casefold()
    return (
        Facts(
            source="invokeai",
            name=document.text("name"),
            bases=(base,) if base and base != "any" else (),
            triggers=document.texts("trigger_phrases"),
            description=document.text("description"),
            weight=document.child("default_settings").number("weight"),
            hashes=(digest,) if re.fullmatch(r"[0-9a-f]{64}", digest) else (),
        ),
    )
