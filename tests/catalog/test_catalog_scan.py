import json
import os
import re

import pytest
from catalog_files import LORA, PEFT, PNG, UNET, card, raw, weights, write

from personalq.catalog.document import search_text
from personalq.catalog.scan import Catalog, scan
from personalq.catalog.versions import slug
from personalq.errors import CatalogError, UnknownCheckpointError
from personalq.records import Checkpoint


def reasons(catalog):
    return {problem.path.name: problem.reason for problem in catalog.problems}


def test_bases_are_not_checkpoints(tmp_path):
    base = tmp_path / "bases" / "tiny-sd"
    write(base / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    weights(base / "unet" / "diffusion_pytorch_model.safetensors", UNET)
    weights(tmp_path / "bases" / "loose.safetensors")
    write(tmp_path / "bases" / "broken" / "model_index.json", "{")
    weights(tmp_path / "fox.safetensors", LORA, {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "tiny-sd"})
    catalog = scan(tmp_path)
    assert catalog.bases == (base.resolve(),)
    assert [(item.id, item.base) for item in catalog.checkpoints] == [("fox", "tiny-sd")]
    assert list(reasons(catalog)) == ["model_index.json"]


def test_an_incomplete_pipeline_hides_no_neighbour(tmp_path):
    weights(tmp_path / "mix" / "fox.safetensors")
    write(tmp_path / "mix" / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    catalog = scan(tmp_path)
    assert [item.id for item in catalog.checkpoints] == ["fox"]
    assert "no denoiser weights" in reasons(catalog)["model_index.json"]


def test_a_dreambooth_folder_hides_no_neighbour(tmp_path):
    weights(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", UNET)
    weights(tmp_path / "fox.safetensors")
    weights(tmp_path / "more" / "owl.safetensors")
    assert {item.id for item in scan(tmp_path).checkpoints} == {"fox", "owl", slug(tmp_path.name)}


def test_ids_are_slugs_that_never_collide(tmp_path):
    generic = ("d/pytorch_lora_weights", "d/checkpoint-50/pytorch_lora_weights")
    for path in ("a/My Fox", "b/my_fox", "c/my-fox", *generic, "solo", "狐"):
        weights(tmp_path / f"{path}.safetensors")
    ids = [item.id for item in scan(tmp_path).checkpoints]
    assert ids == ["a-my-fox", "b-my-fox", "c-my-fox", "d-checkpoint-50", "d", "solo", "狐"]


def test_ids_in_one_folder_differ_too(tmp_path):
    for name in ("fox.safetensors", "FOX.safetensors", "fox!.safetensors"):
        weights(tmp_path / name)
    ids = [item.id for item in scan(tmp_path).checkpoints]
    assert len(set(ids)) == 3 and ids == [item.id for item in scan(tmp_path).checkpoints]


def test_versions_of_one_model_share_a_group(tmp_path):
    weights(tmp_path / "one" / "fox-v1.safetensors")
    weights(tmp_path / "two" / "fox_v2.safetensors")
    weights(tmp_path / "three" / "fox-2024-03-08.safetensors")
    weights(tmp_path / "civ" / "fox-v9.safetensors")
    write(tmp_path / "civ" / "fox-v9.civitai.info", {"id": 1, "modelId": 7, "name": "v9", "model": {"name": "Fox"}})
    weights(tmp_path / "other.safetensors")
    catalog = scan(tmp_path)
    groups = {item.id: item.group_id for item in catalog.checkpoints}
    assert {groups.pop("other")} == {"other"} and set(groups.values()) == {"civitai-7"}
    assert {item.version_ordinal for item in catalog.checkpoints} == {None, 1, 2, 9}


def test_pictures_beside_the_weights_are_previews(tmp_path):
    for name in ("a", "b", "c", "d"):
        weights(tmp_path / f"{name}.safetensors")
    for name in ("a.png", "a.preview.png", "b.jpg"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "c.png").write_text("<svg onload='alert(1)'/>")
    catalog = scan(tmp_path)
    previews = {item.id: item.preview and item.preview.rpartition("/")[2] for item in catalog.checkpoints}
    assert previews == {"a": "a.preview.png", "b": "b.jpg", "c": None, "d": None}
    assert "no PNG" in reasons(catalog)["c.png"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("fox.json", "{", "not valid JSON"),
        ("fox.json", "[" * 100_000, "nested"),
        ("fox.json", '{"activation text": ' + "9" * 10_000 + "}", "not valid JSON"),
        ("fox.json", '"text"', "no JSON object"),
        ("fox.json", '{"activation text": ["fox"], "preferred weight": 1}', "not a list|list, not text"),
        ("fox.json", '{"activation text": {"a": 1}}', "dict, not text"),
        ("fox.json", '{"activation text": "fox", "preferred weight": "much"}', "not a number"),
        ("fox.civitai.info", '{"modelId": 7, "trainedWords": 5}', "not a list of texts"),
        ("fox.civitai.info", '{"modelId": 7, "trainedWords": ["fox", 5]}', "not a list of texts"),
        ("fox.civitai.info", '{"modelId": 7, "model": "Fox"}', "str, not an object"),
        ("fox.civitai.info", '{"modelId": 7, "files": {}}', "dict, not a list"),
        ("fox.civitai.info", "{}", "none of the fields"),
        ("fox.metadata.json", '{"model_name": "x", "file_name": "y", "usage_tips": "{"}', "broken JSON"),
        ("README.md", "---\ntags: [a\n---\n# Fox\n", "no plain YAML"),
        ("README.md", "---\na: &x [1]\nb: *x\n---\n", "aliases are not allowed"),
        ("README.md", "---\n- a\n---\n", "list, not an object"),
        ("README.md", "---\na: " + "[" * 60_000 + "\n---\n", "nested deeper"),
        ("README.md", "---\na: " + "x" * 70_000 + "\n---\n", "longer than 64 KiB"),
        ("README.md", "---\ninstance_prompt: {a: b}\n---\n", "not a list of texts"),
    ],
)
def test_a_broken_sidecar_is_reported_and_the_weights_stay(tmp_path, name, content, reason):
    weights(tmp_path / "fox.safetensors")
    write(tmp_path / name, content)
    catalog = scan(tmp_path)
    assert [item.id for item in catalog.checkpoints] == ["fox"]
    assert [problem.path.name for problem in catalog.problems][:1] == [name]
    assert re.search(reason, reasons(catalog)[name])


def test_other_encodings_and_oversize_are_reported(tmp_path):
    weights(tmp_path / "fox.safetensors")
    (tmp_path / "fox.json").write_bytes('{"activation text": "ö"}'.encode("latin-1"))
    (tmp_path / "fox.civitai.info").write_bytes(b" " * (5 * 2**20))
    catalog = scan(tmp_path)
    assert len(catalog.checkpoints) == 1
    assert "not UTF-8" in reasons(catalog)["fox.json"] and "larger than" in reasons(catalog)["fox.civitai.info"]


def test_a_byte_order_mark_is_no_problem(tmp_path):
    weights(tmp_path / "fox.safetensors")
    (tmp_path / "fox.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"activation text": "frstfx"}).encode())
    assert scan(tmp_path).checkpoints[0].triggers == ("frstfx",)


def test_broken_weights_are_reported_and_left_out(tmp_path):
    weights(tmp_path / "good.safetensors")
    raw(tmp_path / "bomb.safetensors", b"{}", b"", 10 * 2**30)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "page.pt").write_text("<html>404</html>")
    (tmp_path / "cut.bin").write_bytes(b"\x80\x02}q\x00X\xff\xff\x00\x00st")
    (tmp_path / "zip.pt").write_bytes(b"PK\x03\x04" + bytes(40) + b"PK\x05\x06" + bytes(18))
    write(tmp_path / "bomb.json", {"activation text": "bomb"})
    catalog = scan(tmp_path)
    assert [item.id for item in catalog.checkpoints] == ["good"]
    assert set(reasons(catalog)) == {"bomb.safetensors", "empty.safetensors", "page.pt", "cut.bin", "zip.pt"}


def test_files_that_are_no_checkpoint_are_passed_over(tmp_path):
    weights(tmp_path / "recipe" / "pca.safetensors", {"mean": (192,), "components": (12, 192)})
    weights(tmp_path / "recipe" / "probe.safetensors", {"features.0.weight": (8, 3, 3, 3), "head.weight": (8, 8)})
    write(tmp_path / "recipe" / "README.md", "# How it was made\n\nTrigger word: none of this is a card.")
    assert scan(tmp_path) == Catalog(())


def test_trained_weights_of_an_unknown_kind_are_reported(tmp_path):
    weights(tmp_path / "odd.safetensors", {"a.b": (8, 3), "c.d": (2, 2)}, {"ss_output_name": "odd"})
    assert "not supported" in reasons(scan(tmp_path))["odd.safetensors"]


def test_links_out_of_the_repository_are_not_followed(tmp_path):
    root, outside = tmp_path / "repo", tmp_path / "outside"
    weights(root / "fox.safetensors")
    weights(outside / "secret.safetensors")
    write(outside / "secret.json", {"activation text": "secret"})
    (outside / "secret.png").write_bytes(PNG)
    (root / "away.safetensors").symlink_to(outside / "secret.safetensors")
    (root / "fox.json").symlink_to(outside / "secret.json")
    (root / "fox.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "dead.safetensors").symlink_to(root / "nothing")
    (root / "inside.safetensors").symlink_to(root / "fox.safetensors")
    os.mkfifo(root / "pipe.safetensors")
    catalog = scan(root)
    assert {item.id: (item.triggers, item.preview) for item in catalog.checkpoints} == {
        "fox": ((), None), "inside": ((), None),
    }  # fmt: skip
    names = {"away.safetensors", "fox.json", "fox.png", "folder", "loop", "dead.safetensors", "pipe.safetensors"}
    assert set(reasons(catalog)) == names


def test_names_in_sidecars_never_become_paths(tmp_path):
    secret = write(tmp_path / "secret.png", "x")
    weights(tmp_path / "repo" / "fox.safetensors")
    sidecar = {"file_name": "../../secret", "model_name": "../../../etc/passwd", "preview_url": str(secret)}
    write(tmp_path / "repo" / "fox.metadata.json", sidecar)
    found = scan(tmp_path / "repo").checkpoints[0]
    assert found.id == "fox" and found.preview is None
    assert all(file.startswith(str((tmp_path / "repo").resolve())) for file in found.files)


def test_none_strings_are_nothing(tmp_path):
    weights(tmp_path / "fox.safetensors", LORA, {"ss_output_name": "None", "ss_training_started_at": "None"})
    write(tmp_path / "fox.json", {"activation text": "None", "sd version": "none", "description": None})
    found = scan(tmp_path).checkpoints[0]
    assert (found.triggers, found.base, found.created_at, found.aliases, found.description) == ((), None, None, (), "")
    assert scan(tmp_path).problems == ()


def test_hidden_characters_do_not_reach_the_record(tmp_path):
    weights(tmp_path / "pytorch_lora_weights.safetensors", PEFT)
    write(tmp_path / "README.md", card('instance_prompt: "zwx\\u202E dog"\nlicense: "m\\u0007it"', "# Fo\u2066x\n"))
    found = scan(tmp_path).checkpoints[0]
    text = found.name + found.description + (found.license or "") + "".join(found.triggers)
    assert not any(mark in text for mark in "\u202e\u2066\x07")


def test_progress_counts_every_file(tmp_path):
    for name in ("a", "b"):
        weights(tmp_path / f"{name}.safetensors")
    write(tmp_path / "a.json", {"activation text": "a"})
    calls = []
    scan(tmp_path, lambda done, total, name: calls.append((done, total, name)))
    assert calls == [(1, 3, "a.safetensors"), (2, 3, "b.safetensors"), (3, 3, "a.json")]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(CatalogError, match="no folder"):
        scan(tmp_path / "nothing")


def test_unknown_ids_name_their_neighbours():
    catalog = Catalog((Checkpoint("biscuit-dog"), Checkpoint("luna-cat")))
    assert catalog.by_id("luna-cat").id == "luna-cat"
    with pytest.raises(UnknownCheckpointError, match="biscuit-dog"):
        catalog.by_id("biscut-dog")


def test_search_text_weighs_names_and_triggers():
    checkpoint = Checkpoint(
        "x", "Biscuit", base="tiny-sd", triggers=("zwx dog",), class_noun="dog", tags=("blue",), aliases=("bsct",),
        description="Our dog.", sample_prompts=("zwx dog swims",), version="v2",
    )  # fmt: skip
    text = search_text(checkpoint)
    assert text.count("Biscuit") == 3 and text.count("bsct") == 2 and text.count("zwx dog\n") == 2
    assert all(part in text for part in ("tiny-sd", "blue", "Our dog.", "zwx dog swims", "v2"))
