"""Hostile content in every place a format has for text: nothing is raised, run or followed, and the weights stay."""

import json
import os
import re
from pathlib import Path

import pytest
from catalog_files import LORA, UNET, card, raw, weights, write

from personalq.catalog.merge import MAX_NAME, MAX_TRIGGERS
from personalq.catalog.scan import scan
from personalq.catalog.untrusted import UNSAFE

LONG = "x" * 300_000
VALUES = {
    "nul": "a\0b", "surrogate": "a\ud800b", "escape": "a\x1b[2Jb\x9b31m", "bidi": "a\u202eb\u2066c", "long": LONG,
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>hello<!-- hidden -->", "number": 10**400,
    "climb": "../../../../etc/passwd", "list": ["a", ["b", {"c": 1}], None, 5], "object": {"a": {"b": {}}},
    "true": True, "null": None, "empty": "", "lines": "a\n\n" * 50_000, "many": [f"t{n}" for n in range(5000)],
    "float": 1e999, "template": "${HOME} {{7*7}} %s%n `id` $(id)", "open": "[" * 5000,
}  # fmt: skip
FIELDS = {
    "fox.json": ("activation text", "sd version", "preferred weight", "description", "notes"),
    "fox.metadata.json": ("model_name", "file_name", "base_model", "sha256", "tags", "modelDescription", "usage_tips",
                          "civitai", "notes"),
    "fox.cm-info.json": ("ModelName", "UserTitle", "TrainedWords", "Tags", "BaseModel", "VersionName", "Hashes",
                         "ModelId"),
    "fox.civitai.info": ("trainedWords", "modelId", "model", "files", "images", "createdAt", "baseModel", "name"),
    "models.json": ("trigger_phrases", "name", "path", "hash", "base", "default_settings", "type"),
    "metadata.json": ("file", "name", "prefix", "version", "converted", "keyword"),
    "loras.json": ("repo", "weights", "trigger_word", "title", "prompts", "lora_scale"),
    "fox.personalq.json": ("name", "triggers", "class_noun", "tags", "description", "weight"),
    "adapter_config.json": ("peft_type", "base_model_name_or_path"),
}  # fmt: skip


def texts(checkpoint):
    """Every text of a record."""
    for value in vars(checkpoint).values():
        yield from (item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, str))


def looks_sane(catalog, root):
    assert len(catalog.checkpoints) == 1
    found = catalog.checkpoints[0]
    assert not any(UNSAFE.search(text) for text in texts(found))
    assert len(found.name) <= MAX_NAME and len(found.triggers) <= MAX_TRIGGERS and len(found.description) <= 4000
    assert sum(map(len, texts(found))) < 200_000
    assert "<script" not in found.name + found.description and "onerror" not in found.name + found.description
    assert all(os.path.realpath(file).startswith(os.path.realpath(root)) for file in found.files)
    assert all(problem.reason.isprintable() and len(problem.reason) < 500 for problem in catalog.problems)
    json.dumps([list(texts(found)), [problem.reason for problem in catalog.problems]]).encode()
    " ".join(texts(found)).encode("utf-8")


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("name", FIELDS)
def test_hostile_values_in_every_field_of_a_sidecar(tmp_path, name, value):
    weights(tmp_path / "fox.safetensors")
    for each in (FIELDS[name], *((field,) for field in FIELDS[name])):
        document = dict.fromkeys(FIELDS[name], "fox.safetensors") | dict.fromkeys(each, value)
        write(tmp_path / name, [document] if name == "loras.json" else document)
        looks_sane(scan(tmp_path), tmp_path)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_hostile_values_in_a_header(tmp_path, value):
    keys = ["ss_output_name", "ss_base_model_version", "ss_tag_frequency", "ss_dataset_dirs", "ss_training_started_at"]
    keys += (f"modelspec.{key}" for key in ("title", "tags", "trigger_phrase", "date", "architecture", "description"))
    weights(tmp_path / "fox.safetensors", LORA, dict.fromkeys(keys, value))
    looks_sane(scan(tmp_path), tmp_path)


@pytest.mark.parametrize("value", [v for v in VALUES.values() if isinstance(v, str)])
def test_hostile_values_in_a_card(tmp_path, value):
    weights(tmp_path / "fox.safetensors")
    front = f"instance_prompt: {json.dumps(value)}\ntags: [{json.dumps(value)}]\nbase_model: {json.dumps(value)}\n"
    text = card(front + f"license: {json.dumps(value)}", f"# {value}\n\n{value}\n\nYou should use `{value}` here.")
    (tmp_path / "README.md").write_bytes(text.encode("utf-8", "surrogatepass"))
    looks_sane(scan(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "front",
    ["- " * 20_000 + "x", "\n".join(" " * n + "a:" for n in range(3000)), "? " * 5000, "a: " + "{" * 39 + "}" * 39,
     "!!" * 9999, "a: !!python/object/apply:os.system ['touch evil']", "<<: [a]\n" * 500, "a: |\n" + " x\n" * 9000,
     "\t- a", "%YAML 9.9", "'" * 9999, "a: &b c", "x: *y", "key: " * 9999],
)  # fmt: skip
def test_hostile_front_matter_costs_only_itself(tmp_path, front):
    weights(tmp_path / "fox.safetensors")
    write(tmp_path / "README.md", card(front, "# Frost fox\n\nYou should use `frstfx` to call it."))
    looks_sane(scan(tmp_path), tmp_path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "content",
    [b"\0" * 1000, b"\xef\xbb\xbf", b"{}", b"[]", b"null", b'"' + b"\\u0000" * 9000 + b'"', b"[" * 10**6,
     b'{"a":' * 10**5, b'{"activation text": "\\ud800\\udfff\\ud800"}', b"\xff\xfe{\0}\0", b"1" * 10**6,
     b'{"activation text": 1e999999}', b'{"activation text": NaN}', b'{"a": 1, "a": 2, "activation text": "x"}'],
)  # fmt: skip
@pytest.mark.parametrize("name", ["fox.json", "fox.civitai.info", "loras.json", "README.md"])
def test_files_that_are_no_such_thing(tmp_path, name, content):
    weights(tmp_path / "fox.safetensors")
    (tmp_path / name).write_bytes(content)
    looks_sane(scan(tmp_path), tmp_path)


def test_tensor_names_are_text_too(tmp_path):
    names = ["<a\0b>", "<a\ud800b>", "<" + "x" * 59 + ">", "<img src=x onerror=alert(1)>", "<../../x>"]
    for number, name in enumerate(names):
        header = json.dumps({name: {"dtype": "F16", "shape": [1, 768], "data_offsets": [0, 1536]}}).encode()
        raw(tmp_path / f"{number}" / f"e{number}.safetensors", header, bytes(1536))
    catalog = scan(tmp_path)
    assert not any(UNSAFE.search(text) for item in catalog.checkpoints for text in texts(item))
    assert all(problem.reason.isprintable() for problem in catalog.problems)


def test_links_that_lead_in_circles_end(tmp_path):
    weights(tmp_path / "repo" / "fox.safetensors")
    repo = tmp_path / "repo"
    (repo / "self.safetensors").symlink_to(repo / "self.safetensors")
    (repo / "a.json").symlink_to(repo / "b.json")
    (repo / "b.json").symlink_to(repo / "a.json")
    (repo / "deep").mkdir()
    (repo / "deep" / "up").symlink_to(repo)
    (repo / "deep" / "down").symlink_to(repo / "deep")
    catalog = scan(repo)
    assert [item.id for item in catalog.checkpoints] == ["fox"]
    assert {problem.path.name for problem in catalog.problems} == {"self.safetensors", "a.json", "b.json", "up", "down"}


def test_names_of_files_that_fool_the_eye_stay_inside_the_record(tmp_path):
    weights(tmp_path / "fox\u202egnp.safetensors")
    weights(tmp_path / "owl\x1b[2J.safetensors", LORA, {"n": "1"})
    catalog = scan(tmp_path)
    assert len(catalog.checkpoints) == 2
    for item in catalog.checkpoints:
        assert not re.search("[\u202e\x1b]", item.id + item.name + "".join(item.aliases))


def test_folders_deeper_than_anyone_makes_them_are_read(tmp_path):
    folder = tmp_path.joinpath(*("d" for _ in range(150)))
    weights(folder / "fox.safetensors")
    weights(folder / "unet" / "diffusion_pytorch_model.safetensors", UNET)
    assert {item.kind for item in scan(tmp_path).checkpoints} == {"lora", "dreambooth"}


def test_names_of_files_that_no_terminal_should_see_are_shown_as_escapes(tmp_path):
    (tmp_path / "a\x1b[2J\u202eb.safetensors").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors")).write_bytes(b"")
    shown = [str(problem) for problem in scan(tmp_path).problems]
    assert len(shown) == 2 and all(text.isprintable() for text in shown)
    assert "\\x1b[2J\\u202eb.safetensors: It ends before" in "".join(shown) and "\\udcff" in "".join(shown)
