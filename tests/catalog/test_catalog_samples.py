"""Real metadata, read from the shared data folder where there is one."""

import json
import shutil
from pathlib import Path

import pytest

from personalq.catalog.jsonl import read_jsonl
from personalq.catalog.scan import scan

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SAMPLES = DATA / "metadata_samples"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder is absent")
pytestmark = needs_data


@pytest.fixture
def folder(tmp_path):
    """The sidecars beside weights with their stems, as they lie in an artist's folder."""
    weights = SAMPLES / "safetensors" / "no_metadata.safetensors"
    for name in ("a1111_user_json", "civitai_info", "comfyui_lora_manager"):
        for file in (SAMPLES / name).iterdir():
            shutil.copy(file, tmp_path)
            stem = file.name.removesuffix(".civitai.info").removesuffix(".metadata.json").removesuffix(".json")
            if stem != "metadata.schema":
                shutil.copy(weights, tmp_path / f"{stem}.safetensors")
    for card in (SAMPLES / "hf_model_card").iterdir():
        shutil.copytree(card, tmp_path / card.name)
        shutil.copy(weights, tmp_path / card.name / "pytorch_lora_weights.safetensors")
    return tmp_path


def test_sidecars_and_cards_give_the_triggers_they_hold(folder):
    catalog = scan(folder)
    assert [problem.path.parent.name for problem in catalog.problems] == ["huggy_v11"]  # Its embedding is not there.
    found = {item.id: item for item in catalog.checkpoints}
    triggers = {
        "azulejoai": "AzulejoAI", "daoist-robe-v1": "Daoist_Robe", "tusun": "tusun", "lihuacat": "lihuacat",
        "tusuncat": "tusuncat",
        "my-own-lora-no-civitai": "my_trigger_word", "ccorgi-dog": "ccorgi dog", "jacob-dog": "jacob dog",
        "horror-spooky": "<horror-spooky>", "huggy-v11": "<s0><s1>", "simplevectorflux": "v3ct0r",
        "yarn-art-flux-1-700-custom": "yarn art style", "trained-z-image-lora-prodigy": "sks dog",
        "modelo-cartoes-pedagogicos": "estilo_pedagogico", "drip-glasses": "reflective lens sunglasses",
    }  # fmt: skip
    assert {id_: found[id_].triggers[0] for id_ in triggers} == triggers
    assert found["pyramid-lora-ghibli-n3"].triggers == ()
    assert found["lihuacat"].weight == 0.7
    assert found["tusun"].group_id == found["tusuncat"].group_id == "civitai-33194"
    assert found["tusun"].version_ordinal == 4 and found["tusun"].created_at == "2023-06-16"
    assert found["daoist-robe-v2-000003"].created_at == "2023-06-11" and found["daoist-robe-v2-000003"].base is None
    assert {found[id_].class_noun for id_ in ("ccorgi-dog", "jacob-dog")} == {"dog"}
    assert "Buy-Me-a-Coffee" not in found["azulejoai"].description


def test_real_weights_are_read_without_loading_them():
    found = {item.files[0].rpartition("/")[2]: item for item in scan(SAMPLES).checkpoints}
    assert found["Pepper__Carrot.safetensors"].triggers == ()
    assert found["Pepper__Carrot.safetensors"].created_at == "2024-09-11"
    assert found["lora_disney.safetensors"].triggers == ("<s1>", "<s2>")
    assert found["modelspec_trigger_phrase.safetensors"].triggers == ("mypetcat",)
    assert found["HyperSmoke.ti.pt"].triggers == ("HyperSmokev3-1500",) and not found["HyperSmoke.ti.pt"].loadable
    assert found["EasyNegative.ti.pt"].triggers == ("EasyNegative",)
    assert found["EasyNegative.ti.pt"].role == "utility"


def test_every_real_record_is_read():
    path = DATA / "real_checkpoints.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    catalog = read_jsonl(path)
    assert len(catalog.checkpoints) == len(records) == 988 and not catalog.problems
    assert sum(item.created_at is None for item in catalog.checkpoints) == 365
    for record, found in zip(records, catalog.checkpoints, strict=True):
        assert (found.id, found.name, found.kind) == (record["id"], record["name"].strip(), record["kind"])
        assert all(any(trigger in stored for stored in record["triggers"]) for trigger in found.triggers)


def beside(root, names):
    """Weights of these names, which say nothing themselves."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES / "safetensors" / "no_metadata.safetensors", path)


@pytest.mark.parametrize("name", ["loras.json", "sdxl_loras.json"])
def test_lists_of_spaces_speak_of_weights_in_folders_below(tmp_path, name):
    entries = json.loads((SAMPLES / "hf_space_loras_json" / name).read_text())
    homes = [entry["repo"].rpartition("/")[2] for entry in entries]
    files = [entry.get("weights") or "pytorch_lora_weights.safetensors" for entry in entries]
    files = [file.rpartition("/")[2] for file in files]
    beside(tmp_path, [f"{home}/{file}" for home, file in zip(homes, files, strict=True)])
    shutil.copy(SAMPLES / "hf_space_loras_json" / name, tmp_path)
    catalog = scan(tmp_path)
    assert all("embedding" in problem.reason for problem in catalog.problems)
    found = {item.files[0]: item for item in catalog.checkpoints}
    root = tmp_path.resolve()
    for entry, home, file in zip(entries, homes, files, strict=True):
        item = found[str(root / home / file)]
        assert item.name == " ".join(entry["title"].split()) or entry["title"] in item.aliases
        word = entry.get("trigger_word") or ""
        assert all(trigger in word for trigger in item.triggers)
        assert bool(item.triggers) == bool(word.strip())


def test_references_of_the_horde_name_their_files(tmp_path):
    models = json.loads((SAMPLES / "ai_horde_reference" / "stable_diffusion.json").read_text())
    files = {name: entry["config"]["files"][0]["path"] for name, entry in models.items()}
    for file in files.values():
        (tmp_path / file).write_bytes(b"\x80")
    for embedding in (SAMPLES / "textual_inversion_pt").iterdir():
        shutil.copy(embedding, tmp_path)
    for list_ in (SAMPLES / "ai_horde_reference").iterdir():
        shutil.copy(list_, tmp_path)
    found = {Path(item.files[0]).name: item for item in scan(tmp_path).checkpoints}
    for name, file in files.items():
        assert found[file].name == name and not found[file].loadable
        stored = models[name].get("trigger") or []
        assert all(any(trigger in item for item in stored) for trigger in found[file].triggers)
        assert bool(stored) == bool(found[file].triggers)
    assert (found["bad_prompt.ti.pt"].name, found["bad_prompt.ti.pt"].kind) == ("Bad Prompt", "ti")
    assert found["bad_prompt.ti.pt"].role == "utility"


def test_draw_things_records_give_prefix_keyword_and_family(tmp_path):
    for record in (SAMPLES / "drawthings").iterdir():
        folder = tmp_path / record.name.removesuffix(".metadata.json")
        beside(folder, ["weights_of_it.safetensors"])
        shutil.copy(record, folder / "metadata.json")
    catalog = scan(tmp_path)
    assert not catalog.problems
    found = {Path(item.files[0]).parent.name: item for item in catalog.checkpoints}
    words = {"arcane-style": "arcane style", "ccxl-mucha-art-style": "ccxl-mucha", "classipeint": "classipeint",
             "moxin-shukezouma-v1.1": "shukezouma"}  # fmt: skip
    assert {name: found[name].triggers[0] for name in words} == words
    assert found["pixel-art-xl-v1.1"].triggers == () and found["pixel-art-xl-v1.1"].base == "SDXL 1.0"
    assert (found["arcane-style"].base, found["arcane-style"].version) == ("SD 1.5", None)
    assert found["sdxl-lightning-4-step"].role == "utility"


def test_a_pipeline_folder_takes_its_name_from_the_folder(tmp_path):
    sample = SAMPLES / "diffusers_pipeline" / "tiny-stable-diffusion-torch"
    shutil.copytree(sample, tmp_path / "my-concept")
    header = {"down_blocks.0.resnets.0.conv1.weight": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}
    data = json.dumps(header).encode()
    weights = tmp_path / "my-concept" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(len(data).to_bytes(8, "little") + data + bytes(8))
    found = scan(tmp_path).checkpoints[0]
    assert (found.name, found.kind, found.triggers, found.created_at) == ("my-concept", "dreambooth", (), None)


def test_civitai_models_give_every_version_its_own_words(tmp_path):
    for sample in (SAMPLES / "civitai_api_model_json").iterdir():
        model = json.loads(sample.read_text())
        folder = tmp_path / sample.stem
        names = {}
        for version in model["modelVersions"]:
            for file in version.get("files", ()):
                if file["name"].endswith((".safetensors", ".pt")) and file.get("type") in ("Model", "Pruned Model"):
                    names.setdefault(Path(file["name"]).stem + ".safetensors", version)
        renamed = json.dumps(model).replace('.pt"', '.safetensors"')
        beside(folder, names)
        (folder / "model.json").write_text(renamed)
        found = {Path(item.files[0]).name: item for item in scan(folder).checkpoints}
        assert set(found) == set(names)
        for name, version in names.items():
            stored = version.get("trainedWords") or []
            assert all(any(word in text for text in stored) for word in found[name].triggers) or not stored
            assert found[name].created_at == version["createdAt"][:10]
            assert found[name].group_id == f"civitai-{model['id']}"
