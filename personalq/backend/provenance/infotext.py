"""AUTOMATIC1111's text about a picture, in both directions. It knows no files, and believes nothing of what it reads.

The text is the prompt, a line "Negative prompt: ...", and at last a line "Steps: 20, Sampler: Euler a, ..." of names
and values; a value with a comma, colon or line break is a JSON string. LoRAs stand in the prompt, as
`<lora:NAME:WEIGHT>`, and their hashes in the value "Lora hashes": "NAME: HASH, NAME: HASH".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from personalq.catalog.untrusted import MAX_TEXT, UNSAFE, parse_json
from personalq.errors import BrokenFileError, PictureError

AUTO_V2 = 10
"""Digits of a SHA-256 that stand for a file, as Civitai and the web UI shorten it."""
NEGATIVE = "Negative prompt:"
MARKS = re.compile(r"<(?=\w+:)")
"""What begins a tag such as `<lora:...>`."""
HEADS = re.compile(r"(Negative prompt|^\s*Steps):")
"""What would begin another part of the text."""
FIELD = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"]){0,4000}"|[^,]*)(?:,|$)')
"""One name and its value, of bounded length: the line is anybody's."""
TAG = re.compile(r"<(?:lora|lyco):([^:<>]{1,300})(?::([^<>]{0,100}))?>")
HASHES = re.compile(r",\s*Hashes:\s*(\{[^{}]{0,8000}\})")
SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


# --- writing -----------------------------------------------------------------------------------


def parameters(data: Mapping[str, Any]) -> str:
    """The text for data such as `metadata.made` gives.

    A prompt is written in one line, and what would read as a tag or as another part of the text gets a space: nothing
    in it can pass for a setting. The data itself is exact.
    """
    loras = [c for c in data["concepts"] if c["kind"] == "lora"]
    tags = [f"<lora:{_name(c)}:{c['weight']:g}>" for c in loras]
    lines = [" ".join([_plain(data["prompt"]), *tags])]
    if data["negative"]:
        lines.append(f"{NEGATIVE} {_plain(data['negative'])}")
    details = {name: value for name, value in _details(data).items() if value}
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in details.items()))
    return "\n".join(lines)


def _details(data: Mapping[str, Any]) -> dict[str, str]:
    whole = next((c for c in data["concepts"] if c["kind"] == "dreambooth"), None)
    return {
        "Steps": str(data["steps"]),
        "Sampler": data["sampler"],
        "CFG scale": f"{data['guidance']:g}",
        "Seed": str(data["seed"]),
        "Size": f"{data['width']}x{data['height']}",
        "Model hash": (whole["sha256"] or "")[:AUTO_V2] if whole else "",
        "Model": _name(whole) if whole else UNSAFE.sub("", data["base"]["name"]),
        "Lora hashes": _hash_list(data, "lora"),
        "TI hashes": _hash_list(data, "ti"),
        "RNG": "CPU",
        "Precision": data["precision"],
        "Version": f"PersonalQ {data['versions']['personalq']}",
    }


def _hash_list(data: Mapping[str, Any], kind: str) -> str:
    found = [c for c in data["concepts"] if c["kind"] == kind and c["sha256"]]
    return ", ".join(f"{_name(c)}: {c['sha256'][:AUTO_V2]}" for c in found)


def _name(concept: Mapping[str, Any]) -> str:
    """The id, which is one word of letters, digits and dashes unless a catalogue file says otherwise."""
    return re.sub(r'[:,<>"\s\\]+', " ", UNSAFE.sub("", concept["id"])).strip()


def _plain(text: str) -> str:
    line = UNSAFE.sub("", text).replace("\n", " ").replace("\t", " ")
    return HEADS.sub(r"\1 :", MARKS.sub("< ", line)).strip()


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


# --- reading -----------------------------------------------------------------------------------


def parsed(text: str) -> dict[str, Any]:
    """What a text says, in the form of `metadata.made` but unchecked, and without what it does not say.

    Samplers are noted and emphasis marks stay in the prompt; neither is followed here. Raises PictureError for text
    that has no line of settings.
    """
    lines = text[:MAX_TEXT].strip().split("\n")
    at = _settings_line(lines)
    hashes = _hashes(lines[at])
    fields = {name: _unquoted(value) for name, value in FIELD.findall(HASHES.sub("", lines[at]))}
    prompt, negative = _parts(lines[:at])
    size = SIZE.fullmatch(fields.get("Size", ""))
    hashes |= {f"lora:{name}": digest for name, digest in _pairs(fields.get("Lora hashes", ""))}
    hashes |= {f"embed:{name}": digest for name, digest in _pairs(fields.get("TI hashes", ""))}
    base = {"name": fields.get("Model", ""), "sha256": fields.get("Model hash") or hashes.get("model")}
    return {
        "source": "a1111",
        "prompt": TAG.sub("", prompt).strip(),
        "negative": negative,
        "seed": fields.get("Seed"),
        "steps": fields.get("Steps"),
        "guidance": fields.get("CFG scale"),
        "width": size[1] if size else None,
        "height": size[2] if size else None,
        "concepts": list(_concepts(prompt, hashes)),
        "precision": fields.get("Precision"),
        "base": base,
        "sampler": fields.get("Sampler"),
    }


def _settings_line(lines: list[str]) -> int:
    """The index of the last line of settings; a prompt's own lines come before it."""
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].strip().startswith("Steps:") and len(FIELD.findall(lines[at])) >= 3:
            return at
    raise PictureError(
        "Its text does not say how it was made in a form that is read here: choose a picture that PersonalQ or "
        "AUTOMATIC1111's web UI saved."
    )


def _parts(lines: list[str]) -> tuple[str, str]:
    """The prompt and the negative prompt."""
    stripped = [line.strip() for line in lines]
    at = next((i for i, line in enumerate(stripped) if line.startswith(NEGATIVE)), len(stripped))
    negative = "\n".join(stripped[at:]).removeprefix(NEGATIVE)
    return "\n".join(stripped[:at]).strip(), negative.strip()


def _concepts(prompt: str, hashes: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """LoRAs of the prompt's tags and of the hashes, then the embeddings, each once."""
    seen: dict[str, str | None] = {}
    for name, arguments in TAG.findall(prompt):
        seen.setdefault(name.strip(), _strength(arguments))
    for key in hashes:
        if key.startswith("lora:"):
            seen.setdefault(key.removeprefix("lora:"), None)
    for name, weight in seen.items():
        digest = hashes.get(f"lora:{name}") or hashes.get(f"lora:{name.replace(',', '')}")
        yield {"id": name, "name": name, "kind": "lora", "sha256": digest, "weight": weight}
    for key, digest in hashes.items():
        if key.startswith("embed:"):
            name = key.removeprefix("embed:")
            yield {"id": name, "name": name, "kind": "ti", "sha256": digest, "weight": None}


def _strength(arguments: str) -> str:
    """The strength for the denoiser: `unet=`, else the second number, which is the denoiser's, else the first."""
    named = dict(part.split("=", 1) for part in arguments.split(":") if "=" in part)
    plain = [part for part in arguments.split(":") if part and "=" not in part]
    return named.get("unet") or (plain[1:2] or plain[:1] or ["1"])[0]


def _hashes(line: str) -> dict[str, str]:
    """The object "Hashes", as Civitai's extension writes it: "lora:NAME", "embed:NAME" or "model" to hash."""
    found = HASHES.search(line)
    try:
        value = parse_json(found[1]) if found else {}
    except BrokenFileError:
        return {}
    pairs = value.items() if isinstance(value, dict) else ()
    return {name: digest for name, digest in pairs if isinstance(digest, str)}


def _pairs(value: str) -> list[tuple[str, str]]:
    """The names and hashes of "NAME: HASH, NAME: HASH"."""
    found = [item.rpartition(":") for item in value.split(",")]
    return [(name.strip(), digest.strip()) for name, mark, digest in found if mark]


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):
        return value
    try:
        return str(parse_json(value))
    except BrokenFileError:
        return value
