"""Facts in the metadata that kohya's sd-scripts and their kin write (`ss_*`). It never takes a tag for a trigger."""

from __future__ import annotations

import re

from personalq.catalog.facts import Facts
from personalq.catalog.nouns import CATEGORY_OF
from personalq.catalog.untrusted import Fields, clean

TAG_LIMIT = 12


def read(metadata: Fields) -> Facts | None:
    """Facts from the header's metadata; None when no `ss_*` field is there.

    `ss_output_name` is an alias and the tags of the training captions are tags, most frequent first.
    """
    if not any(key.startswith("ss_") for key in metadata.names()):
        return None
    frequency: dict[str, float] = {}
    for folder in _folders(metadata, "ss_tag_frequency"):
        for tag in folder.names():
            frequency[tag] = frequency.get(tag, 0) + (folder.number(tag) or 0)
    output = metadata.text("ss_output_name")
    return Facts(
        source="kohya",
        name=output,
        aliases=(output,) if output else (),
        bases=tuple(filter(None, (metadata.text("ss_base_model_version"),))),
        base_hints=tuple(filter(None, (metadata.text("ss_sd_model_name"),))),
        tags=tuple(clean(tag, 60) for tag, _ in sorted(frequency.items(), key=lambda item: -item[1])[:TAG_LIMIT]),
        class_noun=_class_noun(metadata),
        trained_at=metadata.text("ss_training_started_at"),
        license=metadata.text("ss_license", "license"),
    )


def _folders(metadata: Fields, key: str) -> tuple[Fields, ...]:
    """The nested objects of `key`, which is JSON in text or, in some copies, an object outright."""
    value = metadata.child(key) if isinstance(metadata.values.get(key), dict) else metadata.embedded(key)
    return tuple(value.child(name) for name in value.names()[:50])


def _class_noun(metadata: Fields) -> str:
    """The noun that ends a dataset folder's name, as in `10_zwx dog`."""
    key = "ss_dataset_dirs"
    folders = metadata.child(key) if isinstance(metadata.values.get(key), dict) else metadata.embedded(key)
    for name in folders.names()[:50]:
        match = re.fullmatch(r"\d+_\S+ (?:\S+ )?(\S+)", name.strip()[:100])
        if match and match[1].casefold() in CATEGORY_OF:
            return match[1].casefold()
    return ""
