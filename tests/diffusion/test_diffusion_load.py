"""What opens, what does not, and why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from personalq.diffusion.load import check_denoiser_fits, dreambooth_folder, load_base, load_denoiser, pipeline_class
from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.records import Checkpoint


def test_both_families_open_with_and_without_their_denoiser(tiny_sd_folder: Path, tiny_sdxl_folder: Path) -> None:
    for folder, name in ((tiny_sd_folder, "StableDiffusionPipeline"), (tiny_sdxl_folder, "StableDiffusionXLPipeline")):
        assert pipeline_class(folder) == name
        pipe = load_base(folder, "cpu", torch.bfloat16)
        assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}
        bare = load_base(folder, "cpu", torch.float32, with_denoiser=False)
        assert bare.unet is None and getattr(bare, "safety_checker", None) is None
        alone = load_denoiser(folder, "cpu", torch.float32)
        again = load_denoiser(folder / "unet", "cpu", torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", ["HunyuanDiTPipeline", ["my_pipeline", "Evil"], None])
def test_other_pipelines_are_refused_before_anything_is_loaded(tmp_path: Path, name: object) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "_diffusers_version": "0.42.0"}))
    with pytest.raises(ModelError, match="only StableDiffusionPipeline"):
        load_base(tmp_path, "cpu", torch.float32)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json"):
        load_base(tmp_path, "cpu", torch.float32)
    (tmp_path / "model_index.json").write_text("{broken")
    with pytest.raises(ModelError):
        load_base(tmp_path, "cpu", torch.float32)


def test_pickled_weights_are_refused(tiny_sd_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_sd_folder, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({}, weights.with_suffix(".bin"))
    for load in (load_base, load_denoiser):
        with pytest.raises(ModelError):
            load(folder, "cpu", torch.float32)


def test_fp16_variants_open_by_themselves(tiny_sd_folder: Path, tmp_path: Path) -> None:
    UNet2DConditionModel.from_pretrained(tiny_sd_folder, subfolder="unet").half().save_pretrained(
        tmp_path / "unet", variant="fp16"
    )
    assert load_denoiser(tmp_path, "cpu", torch.float32).dtype == torch.float32


def test_where_a_dreambooth_unet_lies(tiny_sd_folder: Path, tmp_path: Path) -> None:
    weights = str(tiny_sd_folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert dreambooth_folder(Checkpoint("a", kind="dreambooth", files=(weights,))) == tiny_sd_folder
    assert dreambooth_folder(Checkpoint("a", kind="dreambooth", files=(str(tiny_sd_folder),))) == tiny_sd_folder
    shutil.copytree(tiny_sd_folder / "unet", tmp_path / "unet")
    inside = str(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert dreambooth_folder(Checkpoint("a", kind="dreambooth", files=(inside,))) == tmp_path / "unet"
    assert dreambooth_folder(Checkpoint("a", kind="dreambooth", files=(str(tmp_path),))) == tmp_path
    for record in (
        Checkpoint("a", kind="dreambooth", files=(str(tmp_path / "whole.safetensors"),)),
        Checkpoint("a", kind="dreambooth", files=(inside,), loadable=False),
        Checkpoint("a", kind="dreambooth"),
    ):
        with pytest.raises(ModelError):
            dreambooth_folder(record)


def test_a_unet_of_another_architecture_does_not_fit(tiny_sd_folder: Path, tiny_sdxl_folder: Path) -> None:
    unet = load_denoiser(tiny_sdxl_folder, "cpu", torch.float32)
    check_denoiser_fits(unet, tiny_sdxl_folder, Checkpoint("c"))
    with pytest.raises(IncompatibleCheckpointError, match=r"my bear.*tiny-random-sd"):
        check_denoiser_fits(unet, tiny_sd_folder, Checkpoint("c", name="my bear"))
