"""Lists that describe many checkpoints: Space `loras.json` and AI Horde references. It knows files by name only."""

from __future__ import annotations

from personalq.catalog.facts import Facts
from personalq.catalog.untrusted import MAX_ITEMS, Fields


def recognises_space(document: Fields) -> bool:
    """Whether one entry of a list is a LoRA of a Space."""
    return "trigger_word" in document and ("repo" in document or "weights" in document)


def read_space(entry: Fields) -> Facts:
    """Facts of one entry of a Space list."""
    word, file = entry.text("trigger_word"), entry.text("weights")
    return Facts(
        source="space-list",
        name=entry.text("title"),
        triggers=(word,) if word else (),
        sample_prompts=entry.texts("prompts")[:5],
        weight=entry.number("lora_scale") or None,
        beside=False,
        names=(file,) if file else (),
    )


def recognises_horde(document: Fields) -> bool:
    """Whether the object maps names to entries with a baseline."""
    return any("baseline" in document.child(name) for name in document.names()[:3])


def read_horde(document: Fields) -> tuple[Facts, ...]:
    """Facts of every entry of an AI Horde reference."""
    found = []
    for name in document.names()[:MAX_ITEMS]:
        entry = document.child(name)
        files = entry.child("config").children("files")
        base = entry.text("baseline")
        found.append(
            Facts(
                source="ai-horde",
                name=entry.text("name", "EmbedName") or name,
                bases=(base,) if base else (),
                triggers=entry.texts("trigger"),
                description=entry.text("description", "Description"),
                version=entry.text("version"),
                beside=False,
                names=(*(file.text("path") for file in files), entry.text("DownloadPath").rpartition("/")[2]),
                hashes=tuple(digest for file in files if len(digest := file.text("sha256sum").casefold()) == 64),
            )
        )
    return tuple(found)
