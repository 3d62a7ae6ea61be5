import json

import pytest
from catalog_files import weights

from personalq.catalog.jsonl import read_jsonl
from personalq.errors import CatalogError

RECORD = {
    "id": "civ-7-71", "name": "Frost fox", "version": "v2.0", "kind": "lora", "base_model": "SD 1.5",
    "triggers": ["frstfx fox", "<lora:frost:1>", "none"], "description": "Ice. Support me on Patreon!", "tags": ["fox"],
    "category": "animal", "created_at": "2024-03-08", "negative": False, "file": "frost_fox.safetensors",
}  # fmt: skip


def catalogue(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return read_jsonl(path)


def test_a_record_becomes_a_checkpoint(tmp_path):
    found = catalogue(tmp_path / "c.jsonl", RECORD).checkpoints[0]
    assert (found.id, found.name, found.kind, found.base) == ("civ-7-71", "Frost fox", "lora", "SD 1.5")
    assert (found.triggers, found.class_noun, found.description) == (("frstfx fox",), "fox", "Ice.")
    assert (found.version, found.version_ordinal, found.group_id) == ("v2.0", 2, "civ-7")
    assert (found.role, found.category, found.aliases) == ("subject", "animal", ("frost_fox",))
    assert found.created_at == "2024-03-08" and found.files == () and found.loadable


def test_weights_are_looked_for_beside_the_catalogue_only(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    inside, outside = weights(folder / "frost_fox.safetensors"), weights(tmp_path / "x.safetensors")
    names = ["frost_fox.safetensors", "../x.safetensors", str(outside), "..\\x.safetensors", "x" * 280, "a.pt"]
    found = catalogue(folder / "c.jsonl", *(RECORD | {"id": f"{i}", "file": file} for i, file in enumerate(names)))
    assert [item.files for item in found.checkpoints] == [(str(inside.resolve()),), (), (), (), (), ()]
    assert [item.loadable for item in found.checkpoints] == [True, True, True, True, True, False]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "no JSON object"),
        (b"[" * 100_000, "nested"),
        (b"\xff", "not UTF-8"),
        (b'{"kind": "lora"}', "no id"),
        (b'{"id": ["x"], "kind": "lora"}', "no id"),
        (b'{"id": "x", "kind": "model"}', "must be lora"),
        (json.dumps(RECORD).encode(), "is taken"),
        (b'{"id": "' + b"x" * (2**20) + b'"}', "longer than 1 MiB"),
    ],
)
def test_broken_lines_are_reported_and_skipped(tmp_path, line, reason):
    found = catalogue(tmp_path / "c.jsonl", RECORD, line, RECORD | {"id": "last"})
    assert [item.id for item in found.checkpoints] == ["civ-7-71", "last"]
    assert reason in found.problems[0].reason and found.problems[0].reason.startswith("Line 2")


def test_a_wrong_type_costs_only_its_field(tmp_path):
    found = catalogue(tmp_path / "c.jsonl", RECORD | {"tags": 5, "triggers": "frstfx", "created_at": "never"})
    assert (found.checkpoints[0].tags, found.checkpoints[0].triggers) == ((), ("frstfx",))
    assert found.checkpoints[0].created_at is None and "tags" in found.problems[0].reason


def test_roles_follow_category_and_negative(tmp_path):
    changes = [
        {"category": "style"},
        {"negative": True},
        {"category": "other", "name": "X", "tags": [], "triggers": []},
    ]
    found = catalogue(tmp_path / "c.jsonl", *(RECORD | {"id": f"{i}"} | c for i, c in enumerate(changes)))
    assert [item.role for item in found.checkpoints] == ["style", "utility", "unknown"]


def test_a_missing_catalogue_is_an_error(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read"):
        read_jsonl(tmp_path / "nothing.jsonl")
