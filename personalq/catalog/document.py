"""The text a checkpoint is searched by. It does not tokenise or score."""

from __future__ import annotations

from personalq.records import Checkpoint


def search_text(checkpoint: Checkpoint) -> str:
    """Name three times, aliases and triggers twice, then class noun, tags, version, base, description and prompts."""
    parts = (
        *((checkpoint.name,) * 3),
        *(checkpoint.aliases * 2),
        *(checkpoint.triggers * 2),
        checkpoint.class_noun,
        *checkpoint.tags,
        checkpoint.version,
        checkpoint.base,
        checkpoint.description,
        *checkpoint.sample_prompts,
    )
    return "\n".join(part for part in parts if part)
