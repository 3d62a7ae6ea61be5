"""StabilityMatrix's sidecar (`<stem>.cm-info.json`). It knows that file only, none of the program's database."""

from __future__ import annotations

import re

from personalq.catalog.civitai import KINDS
from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import Fields


def recognises(document: Fields) -> bool:
    """Whether the object has the fields only this format has."""
    return "ModelName" in document or "TrainedWords" in document


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one sidecar."""
    base, digest, group = document.text("BaseModel"), document.child("Hashes").text("SHA256"), document.text("ModelId")
    parts = (document.text("ModelDescription"), document.text("VersionDescription"))
    return (
        Facts(
            source="cm-info",
            name=document.text("ModelName"),
            kind=KINDS.get(document.text("ModelType").casefold()),
            bases=(base,) if base else (),
            triggers=document.texts("TrainedWords"),
            tags=document.texts("Tags"),
            description="\n".join(filter(None, parts)),
            version=document.text("VersionName"),
            group=f"civitai-{group}" if re.fullmatch(r"[1-9]\d{0,11}", group) else "",
            hashes=(digest.casefold(),) if re.fullmatch(r"[0-9A-Fa-f]{10,64}", digest) else (),
        ),
    )
