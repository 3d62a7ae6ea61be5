"""A precision is held as its variant says, from the base's own weights or from a stored denoiser."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_pipelines import save_sd

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.backend.variants import VARIANTS, Variant, stored_variant, variant_from, variant_named
from personalq.diffusion.lazy import file_hashes, open_denoiser
from personalq.errors import QuantizationError
from personalq.quant.apply import quantize_unet
from personalq.quant.recipe import recipe_named
from personalq.quant.sidecar import Provenance
from personalq.quant.store import save_quantized
from personalq.records import Job

JOB = Job("a photo of a dog", seed=3, steps=2)


def store(base: Path, folder: Path, hashes: dict[str, str]) -> Path:
    """The base's denoiser at W4A8 in `folder`."""
    recipe = recipe_named("taq-w4a8")
    model, materialize = open_denoiser(base, "cpu", torch.float32)
    report = quantize_unet(model, recipe, materialize)
    return save_quantized(model, report, recipe, folder, Provenance(str(base), hashes))


def picture(engine: Engine, name: str) -> bytes:
    image = list(generate(engine, JOB, name))[-1].image
    assert image is not None
    return image.tobytes()


def test_a_stored_denoiser_makes_the_same_picture(tiny_sd_folder: Path, tmp_path: Path) -> None:
    store(tiny_sd_folder, tmp_path / "q", file_hashes(tiny_sd_folder))
    stored = stored_variant(tmp_path / "q")
    assert stored.name == "taq-w4a8" and stored.stored == tmp_path / "q"
    engine = Engine(tiny_sd_folder, "cpu", torch.float32, VARIANTS | {"stored": replace(stored, name="stored")})
    assert picture(engine, "stored") == picture(engine, "taq-w4a8") != picture(engine, "reference")


def test_a_denoiser_stored_from_other_weights_is_refused(tiny_sd_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_sd(other)
    store(tiny_sd_folder, tmp_path / "q", {"diffusion_pytorch_model.safetensors": "0" * 64})
    engine = Engine(other, "cpu", torch.float32, {"taq-w4a8": stored_variant(tmp_path / "q")})
    with pytest.raises(QuantizationError, match="other weights"):
        picture(engine, "taq-w4a8")


def test_a_folder_that_holds_nothing_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError):
        stored_variant(tmp_path)


def test_a_function_that_packs_goes_before_the_recipe(tiny_sd_folder: Path) -> None:
    recipe, seen = recipe_named("taq-w8a8"), []

    def pack(model: torch.nn.Module) -> object:
        seen.append(model.conv_in.weight.device.type)
        return quantize_unet(model, recipe)

    engine = Engine(
        tiny_sd_folder, "cpu", torch.float32, VARIANTS | {"own": replace(variant_from(recipe), quantize=pack)}
    )
    assert picture(engine, "own") == picture(engine, "taq-w8a8")
    assert seen == ["cpu"]  # the whole 16-bit model was there


def test_the_reference_packs_nothing() -> None:
    assert not VARIANTS["reference"].packs and all(v.packs for n, v in VARIANTS.items() if n != "reference")
    with pytest.raises(QuantizationError, match="choose one of"):
        variant_named("fp7")
    assert isinstance(variant_named("nf4"), Variant)
