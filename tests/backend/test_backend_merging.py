"""LoRAs folded into a base: the pictures of the branch, what survives rounding, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_pipelines import lora, lora_state

from personalq.backend.compare import generate, psnr
from personalq.backend.engine import Engine
from personalq.backend.merging import as_text, merge_base
from personalq.backend.variants import VARIANTS, stored_variant
from personalq.errors import IncompatibleCheckpointError, QuantizationError
from personalq.quant.recipe import recipe_named
from personalq.records import Checkpoint, Job

JOB = Job("a photo of a dog", seed=3, steps=2)


@pytest.fixture
def adapter(tiny_sd_folder: Path, tmp_path: Path) -> Checkpoint:
    return lora(tmp_path / "loud.safetensors", lora_state(tiny_sd_folder))


@pytest.fixture
def engine(tiny_sd_folder: Path) -> Engine:
    return Engine(tiny_sd_folder, "cpu", torch.float32)


def test_a_folded_lora_makes_about_the_picture_of_its_branch(
    engine: Engine, adapter: Checkpoint, tmp_path: Path
) -> None:
    result = merge_base(engine, recipe_named("taq-w8a8"), tmp_path / "m", [(adapter, 0.5)])
    stored = stored_variant(tmp_path / "m")
    assert stored.merged == ("loud",) == tuple(result["merged"])
    both = Engine(engine.base, "cpu", torch.float32, VARIANTS | {"merged": replace(stored, name="merged")})
    job = replace(JOB, checkpoints=((adapter, 0.5),))
    images = {name: list(generate(both, job, name))[-1].image for name in ("reference", "merged")}
    plain = list(generate(both, JOB, "reference"))[-1].image
    assert psnr(images["reference"], images["merged"]) > psnr(images["reference"], plain) + 6
    with pytest.raises(QuantizationError, match="folded"):
        list(generate(both, JOB, "merged"))


def test_what_survives_is_counted(engine: Engine, tiny_sd_folder: Path, tmp_path: Path) -> None:
    state = lora_state(tiny_sd_folder)
    found = {}
    for name, factor in (("loud", 1.0), ("quiet", 1e-4)):
        scaled = {key: value * factor if ".lora_B." in key else value for key, value in state.items()}
        adapter = lora(tmp_path / f"{name}.safetensors", scaled)
        for precision in ("taq-w8a8", "taq-w4a8"):
            result = merge_base(engine, recipe_named(precision), tmp_path / name / precision, [(adapter, 1.0)])
            found[name, precision] = result["survival"]
            assert set(result["layers"]) == {key.split(".lora_")[0].removeprefix("unet.") for key in state}
            assert "cosine" in as_text(result)
    assert found["loud", "taq-w8a8"]["share_above_half_step"] > 0.9 and found["loud", "taq-w8a8"]["cosine"] > 0.99
    assert found["quiet", "taq-w8a8"]["share_above_half_step"] < 0.1
    assert found["quiet", "taq-w4a8"]["share_above_half_step"] <= found["quiet", "taq-w8a8"]["share_above_half_step"]


def test_only_loras_that_fit_are_folded(engine: Engine, adapter: Checkpoint, tmp_path: Path) -> None:
    recipe = recipe_named("taq-w8a8")
    with pytest.raises(QuantizationError, match="no LoRA"):
        merge_base(engine, recipe, tmp_path / "m", [(replace(adapter, kind="ti"), 1.0)])
    with pytest.raises(QuantizationError, match="nothing"):
        merge_base(engine, recipe, tmp_path / "m", [])
    strange = lora(
        tmp_path / "s.safetensors",
        {"unet.mid.nowhere.lora_A.weight": torch.ones(2, 8), "unet.mid.nowhere.lora_B.weight": torch.ones(8, 2)},
    )
    with pytest.raises(IncompatibleCheckpointError):
        merge_base(engine, recipe, tmp_path / "m", [(strange, 1.0)])
    assert not (tmp_path / "m").exists()
