"""AUTOMATIC1111's text: written as its reader expects, read from other programs, and nothing in a prompt fakes it."""

import json
import re
from typing import Any

import pytest
from picture_data import SHA, picture_data

from personalq.backend.provenance.claims import validated
from personalq.backend.provenance.infotext import parameters, parsed
from personalq.errors import PictureError

WILD = """masterpiece, (best quality:1.2), 1girl, <lora:inkStyle_v2:0.7>, <lora:hands:1:0.5>, rain
by the sea
Negative prompt: easynegative, (worst quality:1.4),
lowres
Steps: 28, Sampler: DPM++ 2M Karras, Schedule type: Karras, CFG scale: 6.5, Seed: 3141592653, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.45, Clip skip: 2, \
ADetailer prompt: "smile, \\"wide\\", Steps: 3", Lora hashes: "inkStyle_v2: a1b2c3d4e5f6, hands: 0011223344", \
TI hashes: "easynegative: c74b4e810b03, easynegative: c74b4e810b03", Version: v1.10.1"""

# The web UI's own reader, in a few words: the last line, by name and value, JSON strings unpacked.
READER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def read_as_the_web_ui_does(text: str) -> tuple[str, str, dict[str, str]]:
    *lines, last = text.strip().split("\n")
    parts: dict[bool, list[str]] = {False: [], True: []}
    negative = False
    for line in lines:
        if line.strip().startswith("Negative prompt:"):
            negative, line = True, line.strip()[16:]
        parts[negative].append(line.strip())
    values = {k: json.loads(v) if v[:1] == '"' else v for k, v in READER.findall(last)}
    return "\n".join(parts[False]), "\n".join(parts[True]), values


def test_the_web_ui_reads_what_is_written() -> None:
    base = {"name": "odd: a, b", "fingerprint": "", "sha256": None}
    prompt, negative, values = read_as_the_web_ui_does(parameters(picture_data(base=base)))
    assert (prompt, negative) == ("photo of zwx dog <lora:biscuit:0.8>", "blur")
    assert {**values, "Version": ""} == {
        "Steps": "4", "Sampler": "DDIM", "CFG scale": "3.5", "Seed": "7", "Size": "16x16", "Model": "odd: a, b",
        "Lora hashes": f"biscuit: {SHA[:10]}", "RNG": "CPU", "Precision": "taq-w8a8", "Version": "",
    }  # fmt: skip


def test_whole_models_and_embeddings_have_places_of_their_own() -> None:
    concepts: list[dict[str, Any]] = [
        {"id": "whole", "name": "", "kind": "dreambooth", "trigger": "", "sha256": SHA, "weight": 1.0},
        {"id": "word", "name": "", "kind": "ti", "trigger": "", "sha256": SHA[::-1], "weight": 1.0},
    ]
    prompt, _, values = read_as_the_web_ui_does(parameters(picture_data(concepts=concepts)))
    assert "<" not in prompt
    assert (values["Model"], values["Model hash"]) == ("whole", SHA[:10])
    assert values["TI hashes"] == f"word: {SHA[::-1][:10]}"


@pytest.mark.parametrize(
    "prompt",
    [
        "x\nNegative prompt: evil\nSteps: 99, Sampler: a, CFG scale: 2, Seed: 3, Size: 1x1",
        "Steps: 99, Sampler: a, CFG scale: 2, Seed: 3, Size: 1x1",
        "Negative prompt: evil",
        '<lora:evil:1> a "quoted" word, Lora hashes: "evil: 0011223344"\r\n\x00\ud800',
    ],
)
def test_no_prompt_passes_for_settings(prompt: str) -> None:
    data = picture_data(prompt=prompt, negative=prompt)
    text = parameters(data)
    text.encode()
    assert text.count("\n") == 2
    for found in (validated(parsed(text)), validated(parsed(parameters({**data, "negative": ""})))):
        assert (found["steps"], found["seed"], found["width"], found["guidance"]) == (4, 7, 16, 3.5)
        assert [c["id"] for c in found["concepts"]] == ["biscuit"]
        assert ("evil" in found["negative"]) == ("evil" in prompt and found["negative"] != "")


def test_a_text_from_elsewhere() -> None:
    found = validated(parsed(WILD))
    assert found["prompt"] == "masterpiece, (best quality:1.2), 1girl, , , rain\nby the sea"
    assert found["negative"] == "easynegative, (worst quality:1.4),\nlowres"
    assert [found[key] for key in ("steps", "seed", "guidance", "width", "height")] == [28, 3141592653, 6.5, 512, 768]
    assert [(c["id"], c["kind"], c["weight"], c["sha256"]) for c in found["concepts"]] == [
        ("inkStyle_v2", "lora", 0.7, "a1b2c3d4e5f6"),
        ("hands", "lora", 0.5, "0011223344"),
        ("easynegative", "ti", None, "c74b4e810b03"),
    ]
    assert found["base"] == {"name": "v1-5-pruned-emaonly", "fingerprint": "", "sha256": "6ce0161689"}
    assert found["source"] == "a1111" and found["spans"] is None and found["sampler"] == "DPM++ 2M Karras"


def test_the_hashes_of_civitais_extension() -> None:
    hashes = '{"lora:x": "0123456789", "model": "abcdef0123"}'
    text = f"a <lora:x:1>\nSteps: 2, CFG scale: 7, Seed: 1, Hashes: {hashes}, Size: 8x8"
    found = validated(parsed(text))
    assert found["concepts"][0]["sha256"] == "0123456789"
    assert (found["base"]["sha256"], found["width"]) == ("abcdef0123", 8)


@pytest.mark.parametrize("text", ["", "only a prompt", '{"sui_image_params": {}}', "Steps: 3", "Steps: 1, 2, 3, 4"])
def test_text_without_settings_is_refused(text: str) -> None:
    with pytest.raises(PictureError, match="choose"):
        parsed(text)


@pytest.mark.parametrize("piece", ["a", 'aa:"', 'aa:"\\",', "<lora:a:", "<lora:", "aa:,", ", Hashes: {", "\nSteps:"])
def test_hostile_lines_take_no_time_and_break_nothing(piece: str) -> None:
    start = "Steps: 1, Seed: 2, CFG scale: 3, Size: 4x4, "
    for text in (start + piece * (20_000 // len(piece)), piece * (19_000 // len(piece)) + "\n" + start):
        try:
            found = validated(parsed(text))
        except PictureError:
            continue
        assert validated(found) == found
