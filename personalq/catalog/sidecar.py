"""Which format a JSON file beside weights is in, by its content. The formats themselves live in their own modules."""

from __future__ import annotations

from pathlib import Path

from personalq.catalog import a1111, card, civitai, cm_info, draw_things, invokeai, lists, lora_manager, peft, user_edit
from personalq.catalog.facts import Reading
from personalq.catalog.untrusted import Fields, decode, parse_json, read_limited
from personalq.errors import BrokenFileError

SUFFIXES = (user_edit.SUFFIX, ".civitai.info", ".cm-info.json", ".metadata.json", ".json")
CARD = "readme.md"
OURS = (".civitai.info", ".cm-info.json", ".metadata.json")
# The order matters: a manager's sidecar nests a civitai version.
FORMATS = (lora_manager, cm_info, a1111, civitai, invokeai, draw_things, peft)


def stem(path: Path) -> str | None:
    """The stem of the weights the sidecar's name points to; None when the file is no sidecar by name."""
    for suffix in SUFFIXES:
        if path.name.casefold().endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def read(path: Path) -> Reading:
    """Facts of one sidecar or card; none for JSON of another purpose, such as a tokenizer.

    Raises BrokenFileError for a malformed, oversized or hostile file.
    """
    return interpret(path, read_limited(path))


def interpret(path: Path, data: bytes) -> Reading:
    """The same for the content `data` of the file `path`, which is not opened."""
    text = decode(data)
    if path.name.casefold() == CARD:
        return card.read(text)
    value = parse_json(text)
    listed = lists.read(value)
    if listed is not None:
        return listed
    if not isinstance(value, dict):
        raise BrokenFileError("It holds no JSON object; remove it or export it again.")
    document = Fields(value)
    reader = next((module.read for module in FORMATS if module.recognises(document)), None)
    if path.name.casefold().endswith(user_edit.SUFFIX):
        reader = user_edit.read
    if reader:
        facts = reader(document)
        return Reading(facts, tuple(dict.fromkeys(document.complaints)))
    if path.name.casefold().endswith(OURS):
        raise BrokenFileError("It has none of the fields its name promises; export it again.")
    return Reading()
