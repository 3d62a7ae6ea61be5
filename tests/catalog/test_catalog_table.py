"""The traps of every format, one by one, and who is believed when all of them speak at once. Files made up here.

Plain readings of each format are in `test_catalog_readers`, real samples of most in `test_catalog_samples`.
"""

import hashlib
import json
import os

import pytest
from catalog_files import LORA, PEFT, card, weights, write

from personalq.catalog import lists
from personalq.catalog.scan import scan


def only(root):
    catalog = scan(root)
    assert len(catalog.checkpoints) == 1, catalog
    return catalog.checkpoints[0]


def by_name(root):
    return {item.files[0].rpartition("/")[2]: item for item in scan(root).checkpoints}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- who is believed -----------------------------------------------------------------------------

FOX, GENERIC = "fox.safetensors", "pytorch_lora_weights.safetensors"
CIVITAI = {"id": 8, "modelId": 7, "name": "v2", "createdAt": "2024-03-08T12:00:00.000Z", "trainedWords": ["t-civitai"]}


def speak_all_at_once(root):
    """One LoRA of which every source says another trigger, in the order in which they are believed."""
    header = {"modelspec.trigger_phrase": "t-modelspec", "ss_output_name": "t-output", "modelspec.title": "X",
              "ss_tag_frequency": json.dumps({"1_x": {"t-tag": 99}})}  # fmt: skip
    shapes = {"<t-header>": (8,), "unet:0:up": (4, 1), "unet:0:down": (1, 4)}
    weights(root / "fox.safetensors", shapes, header)
    body = "Trigger word: t-description"
    return [
        ("user", write(root / "fox.personalq.json", {"triggers": ["t-user"]})),
        ("a1111", write(root / "fox.json", {"activation text": "t-a1111"})),
        ("lora-manager", write(root / "fox.metadata.json", {"file_name": "fox", "model_name": "Fox",
                                                             "civitai": {"trainedWords": ["t-manager"]}})),
        ("cm-info", write(root / "fox.cm-info.json", {"ModelName": "Fox", "TrainedWords": ["t-matrix"]})),
        ("invokeai", write(root / "models.json", {"models": [{"path": "a/fox.safetensors",
                                                              "trigger_phrases": ["t-invoke"]}]})),
        ("draw-things", write(root / "custom_lora.json", [{"file": FOX, "name": "F", "prefix": "t-draw"}])),
        ("space-list", write(root / "loras.json", [{"repo": "a/b", "weights": FOX, "trigger_word": "t-space"}])),
        ("ai-horde", write(root / "stable_diffusion.json", {"Fox": {"baseline": "x", "trigger": ["t-horde"],
                                                            "config": {"files": [{"path": FOX}]}}})),
        ("civitai", write(root / "fox.civitai.info", CIVITAI)),
        ("modelspec", None),
        ("card", write(root / "README.md", card("instance_prompt: t-card", body))),
    ]  # fmt: skip


def test_triggers_are_believed_in_the_order_of_the_design_when_all_sources_lie_in_one_folder(tmp_path):
    for source, file in speak_all_at_once(tmp_path):
        found = only(tmp_path)
        assert found.trigger_sources[0] == source and found.triggers[0].startswith("t-")
        if file is None:
            weights(tmp_path / "fox.safetensors", {"<t-header>": (8,), "unet:0:up": (4, 1), "unet:0:down": (1, 4)})
        elif source != "card":
            file.unlink()
    write(tmp_path / "README.md", "Trigger word: t-description")
    assert only(tmp_path).trigger_sources == ("header-token",)
    assert not any(word in str(only(tmp_path).triggers) for word in ("t-output", "t-tag"))
    weights(tmp_path / "fox.safetensors", LORA)
    write(tmp_path / "fox.json", {"activation text": "", "description": "Trigger word: t-description"})
    assert (only(tmp_path).triggers, only(tmp_path).trigger_sources) == (("t-description",), ("description",))


def test_dates_are_believed_in_the_order_of_the_design_and_never_those_of_files(tmp_path):
    header = {"modelspec.date": "2023-01-01", "ss_training_started_at": "1680350400.5"}
    path = weights(tmp_path / "fox.safetensors", LORA, header)
    write(tmp_path / "fox.civitai.info", CIVITAI)
    write(tmp_path / "fox.cm-info.json", {"ModelName": "F", "TrainedWords": [], "ImportedAt": "2025-05-05T00:00:00Z"})
    write(tmp_path / "fox.metadata.json", {"file_name": "fox", "model_name": "F", "modified": 1750000000.0})
    os.utime(path, (1.6e9, 1.6e9))
    assert only(tmp_path).created_at == "2023-01-01"
    weights(tmp_path / "fox.safetensors", LORA, header | {"modelspec.date": "None"})
    assert only(tmp_path).created_at == "2023-04-01"
    weights(tmp_path / "fox.safetensors", LORA)
    assert only(tmp_path).created_at == "2024-03-08"
    (tmp_path / "fox.civitai.info").unlink()
    assert only(tmp_path).created_at is None


def test_the_users_own_word_counts_even_when_it_is_an_everyday_one(tmp_path):
    weights(tmp_path / "fox.safetensors")
    write(tmp_path / "fox.civitai.info", CIVITAI | {"trainedWords": ["frstfx"], "model": {"name": "Theirs"}})
    edit = {"name": "Mine", "triggers": ["cat"], "base_model": "SDXL 1.0", "class_noun": "cat", "weight": 0.5}
    write(tmp_path / "fox.personalq.json", edit)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.base) == ("Mine", ("cat", "frstfx"), "SDXL 1.0")
    assert (found.class_noun, found.weight, found.aliases) == ("cat", 0.5, ("fox", "Theirs"))


# --- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", ["{", "[1]", '"text"', "None", "", json.dumps({"a": 5}), "[" * 50_000])
def test_kohya_broken_nested_json_costs_only_the_tags(tmp_path, frequency):
    weights(tmp_path / "fox.safetensors", LORA, {"ss_output_name": "fox_v1", "ss_tag_frequency": frequency})
    found = only(tmp_path)
    assert (found.tags, found.aliases, found.triggers) == ((), ("fox_v1",), ())


def test_kohya_tags_as_an_object_and_numbers_as_text(tmp_path):
    header = {
        "ss_tag_frequency": {"1_a": {"snow": "12", "ice": 3}},
        "ss_training_started_at": 1737280000.5,
        "ss_epoch": "10",
    }
    weights(tmp_path / "fox.safetensors", LORA, header)
    found = only(tmp_path)
    assert (found.tags, found.created_at, found.triggers) == (("snow", "ice"), "2025-01-19", ())


def test_kohya_model_names_hint_at_a_base_only_when_it_is_known(tmp_path):
    for name, base in (("v1-5-pruned-emaonly.safetensors", "SD 1.5"), ("dreamMix_v8.safetensors", None)):
        weights(tmp_path / "fox.safetensors", LORA, {"ss_sd_model_name": name})
        assert only(tmp_path).base == base


def test_modelspec_hints_of_use_are_trusted_least(tmp_path):
    hint = {"modelspec.title": "Fox", "modelspec.usage_hint": "Trigger word: `frstfx fox`"}
    weights(tmp_path / "fox.safetensors", LORA, hint)
    assert (only(tmp_path).triggers, only(tmp_path).trigger_sources) == (("frstfx fox",), ("description",))
    write(tmp_path / "fox.json", {"activation text": "other"})
    assert only(tmp_path).triggers == ("other",)


# --- sidecars ------------------------------------------------------------------------------------


def test_a1111_bars_separate_alternatives_and_zero_is_no_weight(tmp_path):
    weights(tmp_path / "fox.safetensors")
    sidecar = {"activation text": "frstfx fox || snwfx fox || ", "preferred weight": 0, "description": "One.",
               "notes": "Two.", "negative text": "blurry", "sd version": "SDXL"}  # fmt: skip
    write(tmp_path / "fox.json", sidecar)
    found = only(tmp_path)
    assert (found.triggers, found.weight, found.base) == (("frstfx fox", "snwfx fox"), 1.0, "SDXL 1.0")
    assert found.description == "One.\nTwo."
    for weight in (99, -50, "nan", "inf", True):
        write(tmp_path / "fox.json", sidecar | {"preferred weight": weight})
        assert only(tmp_path).weight == 1.0


def test_civitai_generic_words_and_loader_tags_give_way(tmp_path):
    weights(tmp_path / "fox.safetensors")
    words = ["cat", "<lora:frost:0.7>", "none", "<zwx>", "<frost:1>", "masterpiece"]
    write(tmp_path / "fox.civitai.info", CIVITAI | {"trainedWords": words})
    assert only(tmp_path).triggers == ("<zwx>", "cat", "masterpiece")
    long = "cat, dog, " + ", ".join(f"frstword{n}" for n in range(9))
    write(tmp_path / "fox.civitai.info", CIVITAI | {"trainedWords": [long]})
    assert only(tmp_path).triggers == ("frstword0",)


@pytest.mark.parametrize(
    "files",
    [[{"name": "data.zip", "type": "Model"}], [{"name": "photos", "type": "Training Data"}], [{"name": "x.rar"}]],
)
def test_civitai_versions_that_are_training_data_give_nothing(tmp_path, files):
    weights(tmp_path / "fox.safetensors", LORA, {"n": "1"})
    good = {"name": "v1", "trainedWords": ["good"], "files": [{"name": "fox.safetensors", "type": "Model"}]}
    model = {"id": 7, "name": "Fox", "modelVersions": [{"name": "data", "trainedWords": ["bad"], "files": files}, good]}
    write(tmp_path / "fox.json", model)
    assert (only(tmp_path).triggers, only(tmp_path).version) == (("good",), "v1")


@pytest.mark.parametrize("base", ["Other", "Unknown", "", None, "none"])
def test_bases_that_say_nothing_are_unknown_not_another(tmp_path, base):
    weights(tmp_path / "fox.safetensors")
    write(tmp_path / "fox.civitai.info", CIVITAI | {"baseModel": base})
    assert only(tmp_path).base is None


def test_lora_manager_without_civitai_and_with_broken_tips(tmp_path):
    weights(tmp_path / "fox.safetensors")
    sidecar = {
        "file_name": "fox",
        "model_name": "Fox",
        "civitai": None,
        "tags": ["a"],
        "usage_tips": "{}",
        "notes": "N",
    }
    write(tmp_path / "fox.metadata.json", sidecar)
    found = only(tmp_path)
    assert (found.name, found.tags, found.triggers, found.created_at, found.weight) == ("Fox", ("a",), (), None, 1.0)


MATRIX = {
    "ModelId": 7, "ModelName": "Frost", "ModelDescription": "<p>Fox.</p>", "VersionName": "v3", "ModelType": "LORA",
    "Tags": ["fox"], "TrainedWords": ["frstfx"], "BaseModel": "SDXL 1.0", "ImportedAt": "2025-05-05T00:00:00Z",
    "UserTitle": None, "RemoteFileName": "frost_v3.safetensors", "Hashes": {"SHA256": None, "BLAKE3": "AB" * 32},
}  # fmt: skip


def test_stability_matrix_titles_hashes_and_days_of_import(tmp_path):
    path = weights(tmp_path / "renamed.safetensors", LORA, {"n": "1"})
    weights(tmp_path / "fox.safetensors", LORA, {"n": "2"})
    write(tmp_path / "fox.cm-info.json", MATRIX)
    found = by_name(tmp_path)
    assert (found["fox.safetensors"].name, found["fox.safetensors"].created_at) == ("Frost", None)
    assert found["renamed.safetensors"].triggers == ()
    write(tmp_path / "fox.cm-info.json", MATRIX | {"Hashes": {"SHA256": digest(path).upper()}, "UserTitle": "My fox"})
    found = by_name(tmp_path)
    assert (found["renamed.safetensors"].name, found["renamed.safetensors"].triggers) == ("My fox", ("frstfx",))
    assert "Frost" in found["renamed.safetensors"].aliases and found["fox.safetensors"].triggers == ()


def test_stability_matrix_without_words_or_ids(tmp_path):
    weights(tmp_path / "fox.safetensors")
    empty = dict.fromkeys(MATRIX) | {"ModelName": "Frost", "ModelType": "Upscaler"}
    write(tmp_path / "fox.cm-info.json", empty)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.kind, found.group_id) == ("Frost", (), "lora", "frost")
    assert scan(tmp_path).problems == ()


INVOKE = {
    "key": "k", "name": "Frost", "path": "/models/sdxl/lora/fox.safetensors", "hash": "blake3:" + "ab" * 32,
    "type": "lora", "base": "sdxl", "trigger_phrases": ["frstfx", "snow fox"], "description": None,
    "default_settings": {"weight": 0.6},
}  # fmt: skip


@pytest.mark.parametrize("wrapped", [INVOKE, [INVOKE], {"models": [INVOKE, {"name": "other"}]}])
def test_invokeai_one_record_or_a_list_of_them(tmp_path, wrapped):
    weights(tmp_path / "fox.safetensors")
    write(tmp_path / ("models.json" if wrapped is not INVOKE else "fox.json"), wrapped)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.base, found.weight) == ("Frost", ("frstfx", "snow fox"), "SDXL 1.0", 0.6)


def test_invokeai_other_hashes_are_no_sha256_and_nulls_are_nothing(tmp_path):
    path = weights(tmp_path / "renamed.safetensors")
    record = INVOKE | {"path": "elsewhere.safetensors"}
    for hash_, name in ((f"blake3:{digest(path)}", "renamed"), (f"sha256:{digest(path)}", "Frost")):
        write(tmp_path / "list.json", [record | {"hash": hash_}])
        assert only(tmp_path).name == name
    nothing = {"trigger_phrases": None, "base": "any", "default_settings": None, "hash": f"sha256:{digest(path)}"}
    write(tmp_path / "list.json", [record | nothing])
    assert (only(tmp_path).triggers, only(tmp_path).base, only(tmp_path).weight) == ((), None, 1.0)
    write(tmp_path / "list.json", [record | nothing | {"default_settings": {"weight": 70}}])
    assert only(tmp_path).weight == 1.0


def test_draw_things_digests_empty_prefixes_and_lists(tmp_path):
    path = weights(tmp_path / "renamed.safetensors", LORA, {"n": "1"})
    weights(tmp_path / "ink.safetensors", LORA, {"n": "2"})
    record = {"name": "Ink", "file": "ink_f16.ckpt", "version": "v2", "is_lo_ha": False}
    pen = {"name": "Pen", "file": "ink.safetensors", "version": "sdxl_base_v0.9", "prefix": "pnpn style "}
    entries = [record | {"converted": {"ink_f16.ckpt": digest(path)}, "prefix": ""}, pen]
    write(tmp_path / "custom_lora.json", entries)
    found = by_name(tmp_path)
    ink, pen = found["renamed.safetensors"], found["ink.safetensors"]
    assert (ink.name, ink.triggers, ink.base, ink.version) == ("Ink", (), "SD 2.1", None)
    assert (pen.name, pen.triggers, pen.base, pen.role) == ("Pen", ("pnpn style",), "SDXL 1.0", "style")


# --- lists ---------------------------------------------------------------------------------------


def test_space_lists_tell_namesakes_apart_by_their_repository(tmp_path):
    for home in ("frost-fox", "brass-owl", "unlisted"):
        weights(tmp_path / "loras_cache" / home / GENERIC, PEFT, {"n": home})
    entries = [
        {"title": "Fox", "repo": "lab/frost-fox", "weights": GENERIC, "trigger_word": "frstfx"},
        {"title": "Owl", "repo": "loras_cache/brass-owl", "trigger_word": None},
        {"title": "Gone", "repo": "lab/gone", "weights": GENERIC, "trigger_word": "gone"},
    ]  # fmt: skip
    write(tmp_path / "loras.json", entries)
    found = {item.files[0].split("/")[-2]: item for item in scan(tmp_path).checkpoints}
    assert (found["frost-fox"].name, found["frost-fox"].triggers) == ("Fox", ("frstfx",))
    assert (found["brass-owl"].name, found["brass-owl"].triggers) == ("Owl", ())
    assert (found["unlisted"].name, found["unlisted"].triggers) == ("unlisted", ())


def test_space_triggers_made_of_slots_need_their_embedding(tmp_path):
    weights(tmp_path / "zelda.safetensors")
    entry = {"title": "Z", "repo": "a/b", "weights": "zelda.safetensors", "trigger_word": "in the style of <s0><s1>"}
    write(tmp_path / "loras.json", [entry])
    catalog = scan(tmp_path)
    assert catalog.checkpoints[0].triggers == ("in the style of <s0><s1>",)
    assert [problem.path.name for problem in catalog.problems] == ["zelda.safetensors"]
    assert "embedding" in catalog.problems[0].reason
    weights(tmp_path / "zelda_emb.safetensors", {"clip_l": (2, 768), "clip_g": (2, 1280)})
    assert scan(tmp_path).problems == ()


def test_lists_do_not_speak_of_files_above_or_beside_their_folder(tmp_path):
    weights(tmp_path / "a" / "fox.safetensors")
    weights(tmp_path / "b" / "owl.safetensors")
    entry = {"title": "Fox", "repo": "x/y", "weights": "fox.safetensors", "trigger_word": "frstfx"}
    write(tmp_path / "b" / "loras.json", [entry])
    assert {item.name for item in scan(tmp_path).checkpoints} == {"fox", "owl"}


def test_horde_items_keep_their_comma_lists_and_all_entries_count(tmp_path, monkeypatch):
    weights(tmp_path / "last.safetensors")
    entry = {"baseline": "stable_diffusion_xl", "trigger": ["frstfx, snow", "owl"], "type": "ckpt"}
    many = {f"Other {n}": {"baseline": "x", "config": {"files": [{"path": f"{n}.ckpt"}]}} for n in range(400)}
    many["Last"] = entry | {"config": {"files": [{"path": "last.safetensors"}]}}
    write(tmp_path / "stable_diffusion.json", many)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.base) == ("Last", ("frstfx, snow", "owl"), "SDXL 1.0")
    assert found.kind == "lora"  # Its tensors know better than the list.
    monkeypatch.setattr(lists, "MAX_ENTRIES", 400)
    assert "only the first 400" in scan(tmp_path).problems[0].reason


# --- names ---------------------------------------------------------------------------------------


def test_one_card_for_an_embedding_whose_word_and_stem_differ(tmp_path):
    weights(tmp_path / "smoke" / "smoke-final.safetensors", {"<smokestyle>": (2, 768)})
    write(tmp_path / "smoke" / "README.md", "This is the `<smoke-style>` concept")
    found = only(tmp_path)
    assert found.triggers == ("<smoke-style>", "<smokestyle>") and "smoke-final" in (found.name, *found.aliases)


def test_names_and_tags_lose_their_html(tmp_path):
    weights(tmp_path / "fox.safetensors")
    model = {"name": "<b>Frost</b> <script>alert(1)</script>fox <zwx>", "tags": ["<i>ice</i>", "<!-- x -->"]}
    write(tmp_path / "fox.civitai.info", CIVITAI | {"model": model})
    found = only(tmp_path)
    assert (found.name, found.tags) == ("Frost fox <zwx>", ("ice",))
