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
    assert not catalog.problems
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
