"""The user metadata AUTOMATIC1111's web UI keeps in `<stem>.json`: the user's own words. It knows no other sidecar."""

from __future__ import annotations

from personalq.catalog.facts import Facts, usable_weight
from personalq.catalog.untrusted import Fields

MARKS = ("activation text", "preferred weight", "sd version")


def recognises(document: Fields) -> bool:
    """Whether the object has the fields only this format has."""
    return any(mark in document for mark in MARKS)


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one sidecar; a preferred weight of 0 is unset."""
    activation, base = document.text("activation text"), document.text("sd version")
    return (
        Facts(
            source="a1111",
            bases=(base,) if base else (),
            triggers=(activation,) if activation else (),
            description="\n".join(filter(None, (document.text("description"), document.text("notes")))),
            license=document.text("license"),
            weight=usable_weight(document.number("preferred weight")),
        ),
    )
