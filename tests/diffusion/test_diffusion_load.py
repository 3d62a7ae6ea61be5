"""What opens, what does not, and why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from personalq.diffusion.load import (
    check_denoiser_fits,
    default_dtype,
    denoiser,
    denoiser_part,
    dreambooth_folder,
    load_base,
    load_denoiser,
    pipeline_class,
    set_denoiser,
)
from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.records import Checkpoint


@pytest.mark.parametrize(
    ("family", "name", "part"),
    [
        ("sd", "StableDiffusionPipeline", "unet"),
        ("sd21", "StableDiffusionPipeline", "unet"),
        ("sdxl", "StableDiffusionXLPipeline", "unet"),
        ("sd3", "StableDiffusion3Pipeline", "transformer"),
        ("flux", "FluxPipeline", "transformer"),
    ],
)
def test_every_family_opens_with_and_without_its_denoiser(
    request: pytest.FixtureRequest, family: str, name: str, part: str
) -> None:
    folder = request.getfixturevalue(f"tiny_{family}_folder")
    assert pipeline_class(folder) == name and denoiser_part(folder) == part and denoiser_part(folder / part) is None
    pipe = load_base(folder, "cpu", torch.bfloat16)
    assert denoiser(pipe) is getattr(pipe, part)
    assert {denoiser(pipe).dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.bfloat16}
    bare = load_base(folder, "cpu", torch.float32, with_denoiser=False)
    assert denoiser(bare) is None and getattr(bare, "safety_checker", None) is None
    alone = load_denoiser(folder, "cpu", torch.float32)
    again = load_denoiser(folder / part, "cpu", torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), again.parameters(), strict=True))
    set_denoiser(bare, alone)
    assert denoiser(bare) is alone is getattr(bare, part)


def test_flux_is_computed_in_bfloat16_on_cuda_and_everything_on_the_cpu(
    tiny_sdxl_folder: Path, tiny_sd3_folder: Path, tiny_flux_folder: Path, tmp_path: Path
) -> None:
    folders = (tiny_sdxl_folder, tiny_sd3_folder, tiny_flux_folder)
    assert [default_dtype(f, "cuda") for f in folders] == [torch.float16, torch.float16, torch.bfloat16]
    assert {default_dtype(f, "cpu") for f in (*folders, tmp_path)} == {torch.bfloat16}
    with pytest.raises(ModelError, match=r"model_index\.json"):
        default_dtype(tmp_path, "cuda")


def test_a_denoiser_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "DiTTransformer2DModel"}))
    with pytest.raises(ModelError, match="DiTTransformer2DModel; only UNet2DConditionModel"):
        load_denoiser(tmp_path, "cpu", torch.float32)
    with pytest.raises(ModelError):
        load_denoiser(tmp_path / "nothing", "cpu", torch.float32)


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


def test_a_denoiser_of_another_architecture_does_not_fit(
    tiny_sd_folder: Path, tiny_sdxl_folder: Path, tiny_sd3_folder: Path, tiny_flux_folder: Path
) -> None:
    for ours, others in (
        (tiny_sdxl_folder, (tiny_sd_folder, tiny_sd3_folder)),
        (tiny_flux_folder, (tiny_sd3_folder, tiny_sd_folder)),
    ):
        model = load_denoiser(ours, "cpu", torch.float32)
        check_denoiser_fits(model, ours, Checkpoint("c"))
        for other in others:
            with pytest.raises(IncompatibleCheckpointError, match=r"my bear.*tiny-random-sd"):
                check_denoiser_fits(model, other, Checkpoint("c", name="my bear"))
