"""The user's own word on a checkpoint (`<stem>.personalq.json`), which is believed before every other source."""

from __future__ import annotations

from personalq.catalog.facts import Facts, usable_weight
from personalq.catalog.untrusted import Fields

SUFFIX = ".personalq.json"


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one sidecar; its fields are named as in a `.jsonl` catalogue."""
    base = document.text("base_model")
    return (
        Facts(
            source="user",
            name=document.text("name"),
            bases=(base,) if base else (),
            triggers=document.texts("triggers"),
            class_noun=document.text("class_noun"),
            tags=document.texts("tags"),
            description=document.text("description"),
            version=document.text("version"),
            weight=usable_weight(document.number("weight")),
        ),
    )
