"""PEFT's `adapter_config.json`. It names the base model and nothing a request could mean."""

from __future__ import annotations

from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import Fields


def recognises(document: Fields) -> bool:
    """Whether the object has the fields only this format has."""
    return "peft_type" in document


def read(document: Fields) -> tuple[Facts, ...]:
    """Facts of one adapter configuration."""
    base = document.text("base_model_name_or_path")
    return (Facts(source="peft", bases=(base,) if base else ()),)
