"""Lists that describe many checkpoints: Space `loras.json`, AI Horde references, Draw Things, InvokeAI. No files.

An entry speaks of weights by file name or digest, never by lying beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from personalq.catalog import draw_things, invokeai
from personalq.catalog.facts import Facts, Reading, usable_weight
from personalq.catalog.untrusted import Fields
from personalq.records import Kind

FILE = re.compile(
    r"(?:.*[_-])?loras?(?:[_-].*)?\.json|stable_diffusion\.json|db_embeds\.json|models\.json"
    r"|custom_(?:lora|textual_inversion)s?\.json",
    re.IGNORECASE,
)
"""Names of lists that lie above the weights they speak of."""
MAX_ENTRIES = 5000


def read(value: object) -> Reading | None:
    """Facts of every entry that is known; None when `value` is no list of checkpoints."""
    if isinstance(value, dict) and isinstance(value.get("models"), list):
        value = [item for item in value["models"] if isinstance(item, dict) and "trigger_phrases" in item]
    if isinstance(value, list):
        entries = [Fields(item) for item in value[:MAX_ENTRIES] if isinstance(item, dict)]
        known = [(entry, reader) for entry in entries if (reader := _reader(entry))]
    elif isinstance(value, dict) and any(isinstance(item, dict) and "baseline" in item for item in value.values()):
        named = [(name, item) for name, item in value.items() if isinstance(item, dict) and isinstance(name, str)]
        known = [(Fields({"name": name} | item), _horde) for name, item in named[:MAX_ENTRIES]]
    else:
        return None
    facts = tuple(replace(fact, beside=False) for entry, reader in known for fact in reader(entry))
    complaints = [complaint for entry, _ in known for complaint in entry.complaints]
    if len(value) > MAX_ENTRIES:
        complaints.append(f"It holds {len(value)} entries; only the first {MAX_ENTRIES} are read. Divide it.")
    return Reading(facts, tuple(dict.fromkeys(complaints)))


def _reader(entry: Fields) -> Callable[[Fields], Sequence[Facts]] | None:
    """The format of one entry."""
    if "trigger_word" in entry and ("repo" in entry or "weights" in entry):
        return _space
    return next((module.read for module in (invokeai, draw_things) if module.recognises(entry)), None)


def _space(entry: Fields) -> tuple[Facts, ...]:
    """A LoRA of a Space. Its `repo` tells apart the many that are called `pytorch_lora_weights`."""
    word, file = entry.text("trigger_word"), entry.text("weights")
    return (
        Facts(
            source="space-list",
            name=entry.text("title"),
            triggers=(word,) if word else (),
            sample_prompts=entry.texts("prompts")[:5],
            weight=usable_weight(entry.number("lora_scale")),
            folder=entry.text("repo").rstrip("/").rpartition("/")[2],
            names=(file.rpartition("/")[2],) if file else (),
        ),
    )


def _horde(entry: Fields) -> tuple[Facts, ...]:
    """A model or embedding of an AI Horde reference."""
    files = entry.child("config").children("files")
    base, made = entry.text("baseline"), entry.text("EmbedType", "type").casefold()
    kinds: dict[str, Kind] = {"textual inversion": "ti", "ckpt": "dreambooth", "lora": "lora"}
    names = (*(file.text("path") for file in files), entry.text("DownloadPath").rpartition("/")[2])
    return (
        Facts(
            source="ai-horde",
            name=entry.text("EmbedName", "name"),
            kind=kinds.get(made),
            bases=(base,) if base else (),
            triggers=entry.texts("trigger"),
            tags=entry.texts("tags"),
            description=entry.text("description", "Description"),
            version=entry.text("version"),
            names=tuple(filter(None, names)),
            hashes=tuple(digest for file in files if len(digest := file.text("sha256sum").casefold()) == 64),
        ),
    )
