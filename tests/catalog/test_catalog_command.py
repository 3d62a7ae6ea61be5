"""The `index` command and what `--repo` accepts, as a user calls them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from catalog_files import PEFT, weights, write
from typer.testing import CliRunner

from personalq.__main__ import app
from personalq.errors import CatalogError, SettingsError
from personalq.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERSONALQ_CACHE", str(tmp_path / "cache"))


def index(source, *flags):
    result = CliRunner().invoke(app, ["index", str(source), "--no-vectors", *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_the_summary_tells_what_had_to_be_read(tmp_path):
    repo = tmp_path / "repo"
    for name in ("fox", "owl"):
        weights(repo / f"{name}.safetensors", metadata={"n": name})
    write(repo / "fox.json", "{")
    first = json.loads(index(repo, "--json").stdout)
    assert first["summary"] == {
        "checkpoints": 2, "problems": 1, "entries": 3, "new": 3, "reread": 0, "gone": 0, "trouble": "",
    }  # fmt: skip
    write(repo / "fox.json", {"activation text": "frstfx"})
    weights(repo / "cat.safetensors")
    (repo / "owl.safetensors").unlink()
    result = index(repo)
    lines = result.stdout.splitlines()
    assert lines[-1] == "2 checkpoints, 0 problems; 3 entries: 1 new, 1 read again, 1 gone."
    assert "fox  lora  frstfx  fox" in lines


def test_progress_has_a_time_estimate_and_stays_off_stdout(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(json.dumps({"id": str(n), "kind": "lora"}) for n in range(50)))
    result = index(path, "--json")
    assert re.search(r"/50\b.*\[\d\d:\d\d<", result.stderr)
    json.loads(result.stdout)


def test_problems_and_a_damaged_index_are_told_on_stderr(tmp_path):
    repo = tmp_path / "repo"
    weights(repo / "fox.safetensors")
    write(repo / "fox.json", "{")
    assert "fox.json: It is not valid JSON" in index(repo).stderr
    next((tmp_path / "cache").glob("*.json")).write_bytes(b"noise")
    assert "was damaged" in index(repo).stderr


def test_what_cannot_be_loaded_is_listed_as_such(tmp_path):
    repo = tmp_path / "repo"
    weights(repo / "fox.safetensors")
    (repo / "cat.ckpt").write_bytes(b"pickle")
    listed = json.loads(index(repo, "--json").stdout)["checkpoints"]
    assert {item["id"]: item["loadable"] for item in listed} == {"fox": True, "cat": False}
    lines = index(repo).stdout.splitlines()
    assert [line.endswith("(listed only: cannot be loaded)") for line in lines] == [True, False, False]


def test_vectors_are_made_along_with_the_index(tmp_path):
    path = write(tmp_path / "c.jsonl", {"id": "x", "kind": "lora", "name": "Fox"})
    result = CliRunner().invoke(app, ["index", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert any("vectors" in str(file) or file.suffix == ".npz" for file in (tmp_path / "cache").rglob("*"))


def test_a_hub_is_indexed_from_the_command_line(hub, tmp_path):
    hub.add("lab/fox", {"fox.safetensors": weights(tmp_path / "x.safetensors", PEFT).read_bytes()})
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "personalq", "index", "hub:user/lab", "--no-vectors", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert [item["id"] for item in json.loads(done.stdout)["checkpoints"]] == ["fox"]
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and "HF_HUB_OFFLINE" in done.stderr and "Traceback" not in done.stderr


def test_names_on_the_hub_need_no_folder():
    assert str(Settings.read(repo="hub:lab/fox").repo) == "hub:lab/fox"
    with pytest.raises(SettingsError, match="hub:owner/name"):
        Settings.read(repo="lab/fox")
    with pytest.raises(CatalogError, match="hub:owner/name"):
        CliRunner().invoke(app, ["index", "hub:fox"], catch_exceptions=False)
