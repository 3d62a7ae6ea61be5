"""What one file says about a checkpoint, with its source. It weighs no source against another."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from personalq.records import Kind

Source = Literal[
    "user",
    "a1111",
    "lora-manager",
    "cm-info",
    "invokeai",
    "draw-things",
    "space-list",
    "ai-horde",
    "civitai",
    "modelspec",
    "card",
    "embedding",
    "header-token",
    "kohya",
    "peft",
    "diffusers",
    "weights",
    "hub",
]


@dataclass(frozen=True)
class Facts:
    """Partial facts from one source; every empty value means "does not say"."""

    source: Source
    name: str = ""
    kind: Kind | None = None
    bases: tuple[str, ...] = ()
    """Base models as stored, the most specific first."""
    base_hints: tuple[str, ...] = ()
    """File names of the models trained on; they name the base only when it is a known one."""
    architecture: str = ""
    triggers: tuple[str, ...] = ()
    """Values that hold triggers, byte-exact as stored."""
    class_noun: str = ""
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    description: str = ""
    """As stored: HTML, markdown and promotion still in it."""
    sample_prompts: tuple[str, ...] = ()
    version: str = ""
    group: str = ""
    """Lineage as the source knows it, such as a civitai model id."""
    trained_at: str = ""
    """Date of training as stored: ISO text or seconds since 1970."""
    uploaded_at: str = ""
    license: str = ""
    weight: float | None = None
    negative: bool = False
    """The source says outright that this is a negative embedding."""
    loadable: bool = True
    beside: bool = True
    """Whether the facts may be matched by lying beside the weights with the same stem."""
    names: tuple[str, ...] = ()
    """File names of the weights these facts are about."""
    folder: str = ""
    """Name of the repository these facts are about: of weights with an everyday file name, only those below it."""
    hashes: tuple[str, ...] = ()
    """SHA-256 of those weights in lower-case hex, whole or at least its first 10 digits."""


TUPLES = frozenset(field.name for field in fields(Facts) if str(field.type).startswith("tuple"))


@dataclass(frozen=True)
class Reading:
    """Everything read from one file: facts, what was wrong with it, and its digests when it holds weights."""

    facts: tuple[Facts, ...] = ()
    problems: tuple[str, ...] = ()
    sha256: str | None = None
    tensors_sha256: str | None = None
    """Of what follows the header of a safetensors file."""


def from_saved(value: Any) -> Reading | None:
    """The reading that `asdict` and JSON made `value` of; None when it is not of that form."""
    try:
        facts, problems = tuple(map(_facts, value["facts"])), tuple(value["problems"])
        return Reading(facts, problems, value["sha256"], value["tensors_sha256"])
    except (KeyError, TypeError, AttributeError):
        return None


def _facts(item: dict[str, Any]) -> Facts:
    values: dict[str, Any] = {key: tuple(value) if key in TUPLES else value for key, value in item.items()}
    return Facts(**values)


def usable_weight(value: float | None) -> float | None:
    """A recommended strength, or None for unset (0) and absurd ones."""
    return value if value and abs(value) <= 4 else None
