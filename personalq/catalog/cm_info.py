"""StabilityMatrix's sidecar (`<stem>.cm-info.json`). Its `ImportedAt` is the day of import, so it is not read."""

from __future__ import annotations

import re

from personalq.catalog.civitai import KINDS
from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import Fields


def recognises(document: Fields) -> bool:
    """Whether the object has the fields only this format has."""
    return "ModelName" in document or "TrainedWords" in document


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one sidecar; the title the user gave comes before the model's."""
    base, digest, group = document.text("BaseModel"), document.child("Hashes").text("SHA256"), document.text("ModelId")
    parts = (document.text("ModelDescription"), document.text("VersionDescription"))
    return (
        Facts(
            source="cm-info",
            name=document.text("UserTitle", "ModelName"),
            aliases=tuple(filter(None, (document.text("ModelName") if document.text("UserTitle") else "",))),
            kind=KINDS.get(document.text("ModelType").casefold()),
            bases=(base,) if base else (),
            triggers=document.texts("TrainedWords"),
            tags=document.texts("Tags"),
            description="\n".join(filter(None, parts)),
            version=document.text("VersionName"),
            group=f"civitai-{group}" if re.fullmatch(r"[1-9]\d{0,11}", group) else "",
            names=tuple(filter(None, (document.text("RemoteFileName"),))),
            hashes=(digest.casefold(),) if re.fullmatch(r"[0-9A-Fa-f]{10,64}", digest) else (),
        ),
    )
