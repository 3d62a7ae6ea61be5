"""ComfyUI Lora Manager's sidecar (`<stem>.metadata.json`). Its `modified` is the day of import, so it is not read."""

from __future__ import annotations

from dataclasses import replace

from personalq.catalog import civitai
from personalq.catalog.facts import Facts, usable_weight
from personalq.catalog.untrusted import Fields


def recognises(document: Fields) -> bool:
    """Whether the object has the fields only this format has."""
    return "model_name" in document and ("file_name" in document or "modelDescription" in document)


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one sidecar with the civitai version nested in it."""
    nested = document.child("civitai")
    version = civitai.version_facts(nested, nested.child("model"), nested.text("modelId"))
    base, digest = document.text("base_model"), document.text("sha256").casefold()
    tips = document.embedded("usage_tips")
    return (
        replace(
            version,
            source="lora-manager",
            name=document.text("model_name") or version.name,
            bases=(*((base,) if base else ()), *version.bases),
            tags=document.texts("tags") or version.tags,
            description="\n".join(filter(None, (document.text("modelDescription", "notes"), version.description)))
            if not version.description
            else version.description,
            weight=usable_weight(tips.number("strength")),
            hashes=(digest,) if len(digest) == 64 else version.hashes,
        ),
    )
