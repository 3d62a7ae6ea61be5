"""Facts in ModelSpec metadata (`modelspec.*`) of a safetensors header. It knows no other metadata."""

from __future__ import annotations

from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import Fields


def read(metadata: Fields) -> Facts | None:
    """Facts from the header's metadata; None when no `modelspec.*` field is there."""
    if not any(key.startswith("modelspec.") for key in metadata.names()):
        return None
    architecture = metadata.text("modelspec.architecture")
    tags = metadata.text("modelspec.tags").split(",")
    parts = (metadata.text("modelspec.description"), metadata.text("modelspec.usage_hint"))
    trigger = metadata.text("modelspec.trigger_phrase")
    return Facts(
        source="modelspec",
        name=metadata.text("modelspec.title"),
        architecture=architecture.partition("/")[0],
        bases=(architecture.partition("/")[0],) if architecture else (),
        triggers=(trigger,) if trigger else (),
        tags=tuple(tag.strip() for tag in tags if tag.strip()),
        description="\n".join(part for part in parts if part),
        trained_at=metadata.text("modelspec.date"),
        license=metadata.text("modelspec.license"),
        negative=metadata.flag("modelspec.is_negative_embedding"),
    )
