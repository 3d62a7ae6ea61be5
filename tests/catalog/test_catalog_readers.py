"""Every metadata format as it lies in a folder, through the whole scan."""

import hashlib
import json
import pickle
import zipfile

import pytest
from catalog_files import LORA, PEFT, PNG, UNET, card, weights, write

from personalq.catalog.scan import scan


def only(root):
    catalog = scan(root)
    assert len(catalog.checkpoints) == 1, catalog
    return catalog.checkpoints[0]


def test_peft_lora_with_a_model_card(tmp_path):
    folder = tmp_path / "concepts" / "biscuit-dog"
    weights(folder / "pytorch_lora_weights.safetensors", PEFT)
    (folder / "preview.png").write_bytes(PNG)
    (folder / "training").mkdir()
    (folder / "training" / "01.png").write_bytes(PNG)
    front = (
        "base_model: ../../bases/tiny-sd\nlicense: apache-2.0\ninstance_prompt: a photo of zwx dog\ndate: 2025-05-11\n"
        "tags:\n- text-to-image\n- lora\n- bandana\nwidget:\n- text: zwx dog on the beach"
    )
    body = (
        "# Biscuit the dog\n\nBiscuit is **our** blue dog.\n\n## Usage\n\n```python\nimport x\n```\nRun it.\n\n"
        "You should use `zwx dog` to trigger the image generation."
    )
    write(folder / "README.md", card(front, body))
    found = only(tmp_path)
    assert found.id == "biscuit-dog" and found.name == "Biscuit the dog" and found.kind == "lora"
    assert found.triggers == ("zwx dog",) and found.trigger_sources == ("card",) and found.class_noun == "dog"
    assert found.base == "tiny-sd" and found.base_raw == "../../bases/tiny-sd" and found.license == "apache-2.0"
    assert found.tags == ("bandana",) and found.sample_prompts == ("zwx dog on the beach",)
    assert found.description == "Biscuit is our blue dog." and found.created_at == "2025-05-11"
    assert found.role == "subject" and found.category == "animal" and found.loadable
    assert found.preview == str((folder / "preview.png").resolve())
    assert found.files == tuple(
        str((folder / name).resolve()) for name in ("pytorch_lora_weights.safetensors", "README.md")
    )
    assert found.weight_sha256 == hashlib.sha256((folder / "pytorch_lora_weights.safetensors").read_bytes()).hexdigest()


def test_kohya_header_with_strings_only(tmp_path):
    metadata = {
        "ss_output_name": "clover_v2", "ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "2.safetensors",
        "ss_training_started_at": "1737280000.5", "ss_training_comment": "None", "ss_v2": "None",
        "ss_tag_frequency": json.dumps({"10_clvr dog": {"solo": 9, "party hat": 12}}),
        "ss_dataset_dirs": json.dumps({"10_clvr dog": {"n_repeats": 10, "img_count": 6}}),
    }  # fmt: skip
    weights(tmp_path / "renamed.safetensors", LORA, metadata)
    found = only(tmp_path)
    assert found.name == "renamed" and found.aliases == ("clover_v2",) and found.triggers == ()
    assert found.base == "SDXL 1.0" and found.created_at == "2025-01-19" and found.class_noun == "dog"
    assert found.tags == ("party hat", "solo") and found.source_format == "kohya"


def test_modelspec_header(tmp_path):
    metadata = {
        "modelspec.title": "My pet", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.trigger_phrase": "mypetdog", "modelspec.usage_hint": "Trigger: x", "modelspec.tags": "Dog, Blue",
        "modelspec.date": "2023-07-16T18:13:38Z", "modelspec.description": "Mine.", "modelspec.license": "CC0",
    }  # fmt: skip
    weights(tmp_path / "a.safetensors", LORA, metadata)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.base) == ("My pet", ("mypetdog",), "SDXL 1.0")
    assert found.trigger_sources == ("modelspec",)
    assert (found.created_at, found.license, found.tags) == ("2023-07-16", "CC0", ("Dog", "Blue"))
    assert found.architecture == "stable-diffusion-xl-v1-base"


def test_a_negative_embedding_says_so_and_is_a_tool(tmp_path):
    weights(tmp_path / "calm.safetensors", {"emb_params": (8, 768)}, {"modelspec.is_negative_embedding": "true"})
    found = only(tmp_path)
    assert (found.kind, found.role, found.triggers) == ("ti", "utility", ("calm",))


def test_a1111_sidecar(tmp_path):
    weights(tmp_path / "rosie.safetensors")
    sidecar = {
        "description": "Pink.", "sd version": "Unknown", "activation text": "rosie_dog", "preferred weight": 0.7,
    }  # fmt: skip
    write(tmp_path / "rosie.json", sidecar)
    found = only(tmp_path)
    assert (found.triggers, found.trigger_sources, found.weight) == (("rosie_dog",), ("a1111",), 0.7)
    assert found.base is None and found.base_raw == "Unknown" and found.description == "Pink."
    write(tmp_path / "rosie.json", sidecar | {"preferred weight": 0})
    assert only(tmp_path).weight == 1.0


def version(**changes):
    return {
        "id": 71, "modelId": 7, "name": "v2", "createdAt": "2024-03-08T12:00:00.000Z", "baseModel": "SD 1.5",
        "trainedWords": ["frstfx fox", "<lora:frost:1>"], "description": "<p>Better.</p>",
        "files": [{"name": "frost-fox-v2.safetensors", "type": "Model", "primary": True}],
        "images": [{"meta": {"prompt": "frstfx fox <lora:frost:0.6> in snow"}}, {"meta": None}],
    } | changes  # fmt: skip


MODEL = {"name": "Frost fox", "type": "LORA", "tags": ["fox", "ice"], "description": "<p>Ice-blue fox.</p>"}


def test_civitai_info(tmp_path):
    weights(tmp_path / "frost-fox-v2.safetensors")
    write(tmp_path / "frost-fox-v2.civitai.info", version(model=MODEL))
    found = only(tmp_path)
    assert (
        found.id == "frost-fox-v2"
        and found.name == "Frost fox"
        and found.version == "v2"
        and found.version_ordinal == 2
    )
    assert found.group_id == "civitai-7" and found.created_at == "2024-03-08" and found.base == "SD 1.5"
    assert found.triggers == ("frstfx fox",) and found.tags == ("fox", "ice")
    assert found.description == "Ice-blue fox.\nBetter." and found.sample_prompts == ("frstfx fox in snow",)


def test_civitai_api_json_gives_each_file_its_own_version(tmp_path):
    first, second = (weights(tmp_path / f"frost{i}.safetensors", LORA, {"n": str(i)}) for i in (1, 2))
    digest = hashlib.sha256(second.read_bytes()).hexdigest().upper()
    versions = [
        version(id=71, name="v1", trainedWords=["old fox"], files=[{"name": "frost1.safetensors", "type": "Model"}]),
        version(id=72, trainedWords=["new fox"], files=[{"name": "x.safetensors", "hashes": {"SHA256": digest}}]),
        version(id=73, name="Training Data", files=[{"name": "data.zip", "type": "Training Data"}]),
    ]
    write(tmp_path / "model.json", {"id": 7, "modelVersions": versions} | MODEL)
    found = {item.id: item for item in scan(tmp_path).checkpoints}
    assert found["frost1"].triggers == ("old fox",) and found["frost1"].version == "v1"
    assert found["frost2"].triggers == ("new fox",) and found["frost2"].version_ordinal == 2
    assert {item.group_id for item in found.values()} == {"civitai-7"}
    assert first.exists()


def test_civitai_api_json_of_another_file_gives_no_trigger(tmp_path):
    weights(tmp_path / "frost.safetensors")
    versions = [version(id=i, files=[{"name": f"other{i}.safetensors", "type": "Model"}]) for i in (1, 2)]
    write(tmp_path / "frost.json", {"id": 7, "modelVersions": versions} | MODEL)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.created_at) == ("Frost fox", (), None)


def test_lora_manager_ignores_the_day_of_import(tmp_path):
    weights(tmp_path / "robe.safetensors")
    sidecar = {
        "file_name": "robe", "model_name": "Robe", "base_model": "Other", "modified": 1687000000.0, "tags": [],
        "modelDescription": "A <b>robe</b>.", "usage_tips": '{"strength": 0.8}', "civitai": {"trainedWords": ["zwxr"]},
    }  # fmt: skip
    write(tmp_path / "robe.metadata.json", sidecar)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.weight) == ("Robe", ("zwxr",), 0.8)
    assert found.created_at is None and found.base is None and found.description == "A robe."


def test_sidecars_follow_the_digest_before_the_stem(tmp_path):
    blue = weights(tmp_path / "blue.safetensors", LORA, {"n": "1"})
    weights(tmp_path / "red.safetensors", LORA, {"n": "2"})
    sidecar = {"file_name": "x", "model_name": "Blue one", "sha256": hashlib.sha256(blue.read_bytes()).hexdigest()}
    write(tmp_path / "red.metadata.json", sidecar)
    names = {item.id: item.name for item in scan(tmp_path).checkpoints}
    assert names == {"blue": "Blue one", "red": "red"}


def test_stability_matrix_sidecar(tmp_path):
    weights(tmp_path / "fox.safetensors")
    sidecar = {
        "ModelId": 7, "ModelName": "Frost", "ModelDescription": "<p>Fox.</p>", "Tags": ["fox"], "BaseModel": "SDXL 1.0",
        "TrainedWords": ["frstfx"], "VersionName": "v3", "ModelType": "LORA", "Hashes": {"SHA256": "ab" * 32},
    }  # fmt: skip
    write(tmp_path / "fox.cm-info.json", sidecar)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.version_ordinal, found.group_id) == ("Frost", ("frstfx",), 3, "civitai-7")


def test_invokeai_record(tmp_path):
    weights(tmp_path / "fox.safetensors")
    write(tmp_path / "fox.json", {"name": "Frost", "trigger_phrases": ["frstfx"], "base": "sdxl", "type": "lora"})
    assert (only(tmp_path).triggers, only(tmp_path).base) == (("frstfx",), "SDXL 1.0")


def test_draw_things_version_is_the_base(tmp_path):
    weights(tmp_path / "ink" / "ink_lora_f16.safetensors")
    record = {"version": "v1", "name": "Ink", "prefix": "zwxink style ", "file": "ink_lora_f16.safetensors"}
    write(tmp_path / "ink" / "metadata.json", record)
    found = only(tmp_path)
    assert (found.name, found.triggers, found.base, found.version) == ("Ink", ("zwxink style",), "SD 1.5", None)
    assert found.role == "style"


def test_lists_speak_of_files_by_name(tmp_path):
    weights(tmp_path / "ink.safetensors")
    weights(tmp_path / "fox.safetensors")
    spaces = [{"title": "Ink", "repo": "a/b", "weights": "ink.safetensors", "trigger_word": "zwxink"}]
    horde = {"Fox": {"name": "Fox", "baseline": "stable diffusion 1", "trigger": ["frstfx, fox"], "version": "3",
                     "config": {"files": [{"path": "fox.safetensors"}]}}}  # fmt: skip
    write(tmp_path / "loras.json", spaces)
    write(tmp_path / "reference.json", horde)
    found = {item.id: item for item in scan(tmp_path).checkpoints}
    assert found["ink"].triggers == ("zwxink",) and found["ink"].name == "Ink"
    assert found["fox"].triggers == ("frstfx, fox",) and found["fox"].base == "SD 1.5"


def test_peft_config_names_the_base(tmp_path):
    weights(tmp_path / "biscuit" / "adapter_model.safetensors", PEFT)
    write(tmp_path / "biscuit" / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "me/tiny-sd"})
    assert (only(tmp_path).id, only(tmp_path).base) == ("biscuit", "tiny-sd")


def test_embedding_keyed_by_its_token(tmp_path):
    weights(tmp_path / "plum" / "learned_embeds.safetensors", {"<plum-car>": (4, 128)})
    found = only(tmp_path)
    assert (found.id, found.kind, found.triggers, found.loadable) == ("plum", "ti", ("<plum-car>",), True)
    assert found.trigger_sources == ("embedding",)


def test_cloneofsimo_header_tokens(tmp_path):
    weights(tmp_path / "a.safetensors", {"<s1>": (768,), "<s2>": (768,), "unet:0:up": (4, 1), "unet:0:down": (1, 4)})
    found = only(tmp_path)
    assert (found.kind, found.triggers, found.loadable) == ("lora", ("<s1>", "<s2>"), False)


def torch_archive(path, value):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
    return path


def test_pickled_embedding_is_named_but_never_loaded(tmp_path):
    value = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": 1},
        "name": "smoke-1500",
        "sd_checkpoint_name": "SD1",
    }
    torch_archive(tmp_path / "smoke.pt", value)
    torch_archive(tmp_path / "calm.pt", {"emb_params": 1})
    torch_archive(tmp_path / "learned_embeds.bin", {"<zwx-toy>": 1})
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"string_to_param": {"*": 1}, "name": "plainword"}))
    torch_archive(tmp_path / "optimizer.bin", {"state": {}, "param_groups": []})
    found = {item.files[0].rpartition("/")[2]: item for item in scan(tmp_path).checkpoints}
    words = {name: item.triggers for name, item in found.items()}
    assert words == {
        "smoke.pt": ("smoke-1500",), "calm.pt": ("calm",), "learned_embeds.bin": ("<zwx-toy>",),
        "plain.pt": ("plainword",),
    }  # fmt: skip
    assert not any(item.loadable for item in found.values())
    assert found["smoke.pt"].base == "SD 1.5"


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_never_run(tmp_path):
    torch_archive(tmp_path / "bomb.pt", {"string_to_param": Bomb(), "name": "bomb"})
    (tmp_path / "bomb2.bin").write_bytes(pickle.dumps(Bomb()))
    assert [item.triggers for item in scan(tmp_path).checkpoints] == [("bomb",)]


def test_full_dreambooth_folder_with_card(tmp_path):
    folder = tmp_path / "pingo-penguin"
    weights(folder / "unet" / "diffusion_pytorch_model.safetensors", UNET)
    write(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel"})
    body = "# DreamBooth model for the pngo concept\n\nmodifying the `instance_prompt`: **a photo of pngo penguin**\n"
    write(folder / "README.md", card("license: mit\nbase_model: [tiny-sd]", body))
    (folder / "pingo-penguin.png").write_bytes(PNG)
    found = only(tmp_path)
    assert (found.id, found.kind, found.name) == ("pingo-penguin", "dreambooth", "pngo")
    assert (found.triggers, found.class_noun, found.base) == (("pngo penguin",), "penguin", "tiny-sd")
    assert found.files[0].endswith("unet/diffusion_pytorch_model.safetensors") and found.preview


def test_whole_pipeline_outside_bases_is_one_checkpoint(tmp_path):
    folder = tmp_path / "mine" / "pingo"
    write(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    weights(folder / "unet" / "diffusion_pytorch_model.safetensors", UNET)
    weights(folder / "vae" / "diffusion_pytorch_model.safetensors", UNET)
    weights(folder / "text_encoder" / "model.safetensors", {"embeddings.weight": (8, 64)})
    assert only(tmp_path).id == "pingo"
    assert scan(tmp_path).bases == ()


def test_the_embedding_trained_with_a_lora_is_its_companion(tmp_path):
    weights(tmp_path / "huggy.safetensors")
    weights(tmp_path / "huggy_emb.safetensors", {"clip_l": (2, 768), "clip_g": (2, 1280)})
    found = only(tmp_path)
    assert found.id == "huggy" and found.files[1].endswith("huggy_emb.safetensors")


def test_a_card_over_several_weights_lends_only_base_and_license(tmp_path):
    for name in ("one", "two"):
        weights(tmp_path / "set" / f"{name}.safetensors")
    write(tmp_path / "set" / "README.md", card("license: mit\nbase_model: tiny-sd\ninstance_prompt: zwx dog"))
    for found in scan(tmp_path).checkpoints:
        assert (found.base, found.license, found.triggers) == ("tiny-sd", "mit", ())
