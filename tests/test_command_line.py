"""The command line end to end: what it prints, where, and with which exit status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from personalq.__main__ import app
from personalq.catalog.scan import Catalog
from personalq.cli.build import known_precision, new_engine
from personalq.cli.show import free_paths
from personalq.errors import PictureError, QuantizationError, RequestError, SettingsError, UnknownCheckpointError
from personalq.records import Checkpoint, Job
from personalq.settings import SAMPLE_REPO, Settings

CATALOG = [
    {"id": "a", "name": "Waldo the corgi", "kind": "lora", "triggers": ["wldo corgi"], "description": "A corgi."},
    {"id": "b", "name": "Teapot of doom", "kind": "lora", "triggers": ["tpt teapot"], "description": "A teapot."},
    {"id": "c", "name": "Blue steam engine", "kind": "lora", "triggers": ["bse train"], "description": "A train."},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONALQ_CACHE", str(tmp_path / "cache"))


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # one object and nothing else


@pytest.mark.parametrize(
    "command", [[], ["select"], ["generate"], ["compare"], ["recall"], ["index"], ["bench", "sample"]]
)
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_select_from_a_jsonl_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "catalog.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in CATALOG))
    found = run("select", "waldo the corgi on the moon", "--repo", str(path))
    assert found["outcome"] == "selection"
    assert found["checkpoints"] == ["a"]
    assert "wldo corgi" in found["prompt"]
    assert [found["prompt"][s["start"] : s["end"]] for s in found["spans"] if s["role"] == "trigger"] == ["wldo corgi"]
    assert {"id", "lexical", "dense", "fused", "rerank", "reason"} <= set(found["candidates"][0])
    assert found["timings_ms"]["total"] > 0


def test_select_asks_once_and_takes_the_answer() -> None:
    asked = run("select", "my dog at the beach")
    assert asked["outcome"] == "question"
    assert asked["prompt"] is None
    offered = {identity for option in asked["question"]["options"] for identity in option["ids"]}
    assert {"biscuit-dog", "clover-dog", "rosie-dog"} <= offered
    told = run("select", "my dog at the beach", "--answer", "Clover")
    assert (told["outcome"], told["checkpoints"]) == ("selection", ["clover-dog"])
    assert "clvr dog" in told["prompt"]


def test_select_says_no_match_and_names_the_nearest() -> None:
    found = run("select", "a submarine made of cheese")
    assert found["outcome"] == "no_match"
    assert found["nearest"]


def test_index_lists_the_embedded_repository() -> None:
    found = run("index", str(SAMPLE_REPO))
    assert len(found["checkpoints"]) >= 14
    assert found["problems"] == []


def test_generate_writes_a_picture_and_reports_its_memory(tmp_path: Path) -> None:
    out = tmp_path / "new" / "biscuit.png"
    words = ("a photo of zwx dog on the beach", "--checkpoint", "biscuit-dog")
    made = run("generate", *words, "--precision", "taq-w4a8", "--steps", "2", "--out", str(out))
    with Image.open(out) as picture:
        assert picture.size == (96, 96)
    assert made["memory"]["weights_bytes"] > 1_000_000
    assert made["memory"]["kv_bytes"] > 0
    found = run("recall", str(out))
    assert found["checkpoints"] == [{"id": "biscuit-dog", "weight": 1.0}]
    assert (found["missing"], found["remarks"]) == ([], [])
    assert (found["precision"], found["made"]["prompt"], found["made"]["steps"]) == ("taq-w4a8", words[0], 2)
    catalog = tmp_path / "catalog.jsonl"
    catalog.write_text(json.dumps({**CATALOG[0], "id": "biscuit-dog"}))
    told = CliRunner().invoke(app, ["recall", str(out), "--repo", str(catalog)], catch_exceptions=False).stdout
    assert words[0] in told and "missing: " in told and "the hash of its file is not known here" in told


def test_recall_names_what_is_wrong_with_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "bare.png"
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(PictureError, match="choose the file as it was saved"):
        CliRunner().invoke(app, ["recall", str(path)], catch_exceptions=False)


def test_compare_makes_both_pictures_and_their_psnr(tmp_path: Path) -> None:
    made = run("compare", "Biscuit the dog in the snow", "--steps", "2", "--out", str(tmp_path))
    assert made["checkpoints"] == ["biscuit-dog"]
    names = ["personalq-biscuit-dog-0-reference.png", "personalq-biscuit-dog-0-taq-w8a8.png"]
    assert [Path(file).name for file in made["files"]] == names
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    memory = made["memory"]
    assert memory["taq-w8a8"]["weights_bytes"] < memory["reference"]["weights_bytes"]
    assert made["psnr"] > 10


def test_no_picture_replaces_another(tmp_path: Path) -> None:
    odd = tuple((Checkpoint(id_), 1.0) for id_ in ("../up/\u72ac" + 90 * "x", "b"))
    job, pair = Job("x", seed=3, checkpoints=odd), ("reference", "nf4")
    first = free_paths(tmp_path, job, pair)
    assert [path.parent for path in first] == [tmp_path, tmp_path]
    assert first[1].name.startswith("personalq-.._up_\u72acxx") and first[1].name.endswith("x-3-nf4.png")
    first[1].touch()
    assert [path.name[-8:] for path in free_paths(tmp_path, job, pair)] == ["ce-2.png", "f4-2.png"]


def test_full_precision_is_not_compared_with_itself() -> None:
    with pytest.raises(SettingsError, match="another --precision"):
        CliRunner().invoke(app, ["compare", "Biscuit the dog", "--precision", "reference"], catch_exceptions=False)


@pytest.mark.parametrize("command", [["generate", "zwx dog", "--checkpoint", "biscuit-dog"], ["compare", "Biscuit"]])
def test_where_a_picture_cannot_go_is_said_before_it_is_made(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personalq.cli.use.finished", lambda *_: pytest.fail("a picture was made"))
    (tmp_path / "file.png").write_text("notes")
    place = tmp_path / "file.png" / "x.png"
    with pytest.raises(PictureError, match="choose another place"):
        CliRunner().invoke(app, [*command, "--out", str(place)], catch_exceptions=False)


def test_compare_does_not_guess() -> None:
    with pytest.raises(RequestError, match="--answer"):
        CliRunner().invoke(app, ["compare", "my dog at the beach"], catch_exceptions=False)


def test_a_blank_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="describe the picture"):
        CliRunner().invoke(app, ["generate", " ", "--checkpoint", "biscuit-dog"], catch_exceptions=False)


def test_an_unknown_checkpoint_is_named() -> None:
    with pytest.raises(UnknownCheckpointError, match="biscuit-dog"):
        CliRunner().invoke(app, ["generate", "x", "--checkpoint", "biscuit-dgo"], catch_exceptions=False)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_cannot_be_is_refused(seed: int) -> None:
    words = ("x", "--checkpoint", "biscuit-dog", "--seed", str(seed))
    refused = CliRunner().invoke(app, ["generate", *words], catch_exceptions=False)
    assert refused.exit_code == 2 and "'--seed'" in refused.output


@pytest.mark.parametrize("command", [["select", "a dog", "--repo", ""], ["index", " "]])
def test_an_empty_repository_is_not_the_current_folder(command: list[str]) -> None:
    with pytest.raises(SettingsError, match="is empty"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_unknown_precisions_and_missing_bases_say_what_to_do() -> None:
    with pytest.raises(QuantizationError, match="taq-w8a8"):
        known_precision("fp7")
    with pytest.raises(SettingsError, match="--base"):
        new_engine(Settings(), Catalog((), (), ()))


def test_errors_are_one_line_on_stderr() -> None:
    command = [sys.executable, "-m", "personalq", "index", "no/such/folder", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SAMPLE_REPO.parent)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_the_app_says_where_it_cannot_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    import app as launcher

    with gr.Blocks(analytics_enabled=False) as page:
        pass
    monkeypatch.setattr(launcher, "build", lambda *_: page)
    with pytest.raises(typer.BadParameter, match="another --host or --port"):
        launcher.main(host="192.0.2.1")  # an address that is kept for examples
    with pytest.raises(typer.BadParameter, match="from 1 to 65535"):
        launcher.main(port=99999999)
