"""A denoiser read layer by layer is the one that diffusers reads whole, and what does not fit is named."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch import nn

from personalq.diffusion import lazy
from personalq.diffusion.lazy import (
    denoiser_folder,
    empty_denoiser,
    file_hashes,
    fill,
    open_denoiser,
    read_config,
    weight_files,
)
from personalq.diffusion.load import load_denoiser
from personalq.errors import ModelError

FAMILIES = ["tiny_sd_folder", "tiny_sdxl_folder", "tiny_sd21_folder", "tiny_sd3_folder", "tiny_flux_folder"]
FILE = "diffusion_pytorch_model.safetensors"
INDEX = FILE + ".index.json"
CONV = "mid_block.resnets.0.conv1"
Tensors = dict[str, torch.Tensor]


def whole(source: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    model, materialize = open_denoiser(source, "cpu", dtype)
    fill(model, materialize)
    return model


def same(one: nn.Module, other: nn.Module) -> None:
    """Names, order, values, types, memory layouts and gradients of all tensors."""
    ours, theirs = ([*m.named_parameters(), *m.named_buffers()] for m in (one, other))
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, a), (_, b) in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype, name
        assert a.stride() == b.stride() and a.device == b.device and a.requires_grad == b.requires_grad, name


@pytest.fixture
def folder(tiny_sd_folder: Path, tmp_path: Path) -> Path:
    """A copy of a UNet's folder, to be damaged."""
    return Path(shutil.copytree(tiny_sd_folder / "unet", tmp_path / "copy"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_the_model_that_diffusers_reads(family: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(family)
    ours, theirs = whole(source, dtype), load_denoiser(source, "cpu", dtype)
    same(ours, theirs)
    assert type(ours) is type(theirs) and dict(ours.config) == dict(theirs.config)
    assert [m.training for m in ours.modules()] == [m.training for m in theirs.modules()]
    assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_the_same_bits(tiny_sd_folder: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 64, generator=generator)
    outputs = [
        model(latents.to(dtype), torch.tensor(500), text.to(dtype)).sample
        for model in (whole(tiny_sd_folder, dtype), load_denoiser(tiny_sd_folder, "cpu", dtype))
    ]
    assert torch.isfinite(outputs[0]).all() and torch.equal(*outputs)


def test_a_layer_has_values_only_once_it_is_filled(tiny_sd_folder: Path) -> None:
    model, materialize = open_denoiser(tiny_sd_folder, "cpu", torch.bfloat16)
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in model.parameters())
    materialize(CONV, model.get_submodule(CONV))
    real = [name for name, p in model.named_parameters() if not p.is_meta]
    assert real == [f"{CONV}.weight", f"{CONV}.bias"]
    expected = load_denoiser(tiny_sd_folder, "cpu", torch.bfloat16).get_submodule(CONV)
    same(model.get_submodule(CONV), expected)


@pytest.mark.parametrize("elements", [1, 100])
@pytest.mark.parametrize("family", ["tiny_sd_folder", "tiny_sd3_folder"])
def test_however_few_numbers_are_read_at_a_time(
    family: str, elements: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = request.getfixturevalue(family)
    model, materialize = open_denoiser(source, "cpu", torch.float32)
    expected = load_denoiser(source, "cpu", torch.float32)
    monkeypatch.setattr(lazy, "BLOCK_ELEMENTS", elements)
    for name in ("conv_in", "conv_out", "pos_embed", "pos_embed.proj", "time_embedding.linear_1", "norm_out.linear"):
        if name not in dict(model.named_modules()):
            continue
        module, wanted = model.get_submodule(name), expected.get_submodule(name)
        materialize(name, module)
        for key, tensor in [*wanted.named_parameters(recurse=False), *wanted.named_buffers(recurse=False)]:
            assert torch.equal(getattr(module, key), tensor), name  # a position table [1, 144, 64] among them


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shard", ["5GB", "200KB"])
def test_shards_and_half_precision_files(tiny_sd_folder: Path, tmp_path: Path, variant: str | None, shard: str) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_sd_folder, subfolder="unet").half()
    unet.save_pretrained(tmp_path, variant=variant, max_shard_size=shard)
    assert (len(weight_files(tmp_path)) > 2) == (shard == "200KB")
    opened = whole(tmp_path)
    assert opened.dtype == torch.float32
    for name, tensor in unet.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor.float()), name


def test_full_precision_goes_before_the_half_precision_variant(folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder)
    unet.half().save_pretrained(folder, variant="fp16")
    assert [path.name for path in weight_files(folder)] == [FILE]


def test_hashes_are_those_of_the_files(tiny_sd_folder: Path) -> None:
    data = (tiny_sd_folder / "unet" / FILE).read_bytes()
    assert file_hashes(tiny_sd_folder) == {FILE: hashlib.sha256(data).hexdigest()}


def drop(tensors: Tensors) -> None:
    del tensors[f"{CONV}.weight"]


def add(tensors: Tensors) -> None:
    tensors["conv_on_the_side.weight"] = torch.zeros(1)


def reshape(tensors: Tensors) -> None:
    tensors[f"{CONV}.bias"] = torch.zeros(3)


def to_integers(tensors: Tensors) -> None:
    tensors[f"{CONV}.bias"] = tensors[f"{CONV}.bias"].to(torch.int32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop, rf"lacks {CONV}.weight"),
        (add, "conv_on_the_side"),
        (reshape, rf"another shape.*{CONV}.bias"),
        (to_integers, rf"another shape or type.*{CONV}.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, damage: Callable[[Tensors], None], message: str) -> None:
    tensors = load_file(folder / FILE)
    damage(tensors)
    save_file(tensors, folder / FILE)
    with pytest.raises(ModelError, match=message):
        open_denoiser(folder, "cpu", torch.float32)


def test_an_error_lists_a_few_names_and_counts_the_others(folder: Path) -> None:
    save_file({"x": torch.zeros(1)}, folder / FILE)
    with pytest.raises(ModelError, match=r"lacks conv_in.bias, conv_in.weight, .* and \d+ more"):
        open_denoiser(folder, "cpu", torch.float32)


def test_files_that_are_no_safetensors(folder: Path) -> None:
    data = (folder / FILE).read_bytes()
    for broken in (data[:-1], data[:4], b"", b"\xff" * 64, data + b"1"):
        (folder / FILE).write_bytes(broken)
        with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.safetensors cannot be read"):
            open_denoiser(folder, "cpu", torch.float32)


def test_a_file_that_goes_away_while_it_is_read(folder: Path) -> None:
    model, materialize = open_denoiser(folder, "cpu", torch.float32)
    (folder / FILE).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        fill(model, materialize)


def test_weights_that_are_not_there(folder: Path) -> None:
    (folder / FILE).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match="No weights"):
        open_denoiser(folder, "cpu", torch.float32)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        '{"weight_map": {}}',
        '{"weight_map": ["a"]}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "gone.safetensors"}}',
        '{"weight_map": {"a": "../copy/diffusion_pytorch_model.safetensors"}}',
    ],
)
def test_an_index_that_is_none_or_leads_elsewhere(folder: Path, index: str) -> None:
    (folder / INDEX).write_text(index)
    with pytest.raises(ModelError, match="fetch the model again"):
        open_denoiser(folder, "cpu", torch.float32)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shutil.copy(folder / FILE, folder / "second.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": FILE, "b": "second.safetensors"}}))
    with pytest.raises(ModelError, match="is both in"):
        open_denoiser(folder, "cpu", torch.float32)


@pytest.mark.parametrize("text", ["{", "[]", '{"_class_name": "AutoencoderKL"}', '{"_class_name": ["x"]}', "{}"])
def test_configurations_that_are_none_of_ours(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError):
        open_denoiser(folder, "cpu", torch.float32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"down_block_types": ["NoBlock"]},
        {"block_out_channels": "wide"},
        {"norm_num_groups": 0},
        {"attention_head_dim": {}},
    ],
)
def test_configurations_that_make_no_model(folder: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="makes no UNet2DConditionModel"):
        empty_denoiser(read_config(folder) | wrong, "cpu", torch.float32)


def test_a_model_with_tensors_that_are_in_no_file(folder: Path) -> None:
    config = read_config(folder) | {
        "down_block_types": ["KDownBlock2D", "KCrossAttnDownBlock2D"],
        "up_block_types": ["KCrossAttnUpBlock2D", "KUpBlock2D"],
        "mid_block_type": None,
        "resnet_time_scale_shift": "scale_shift",
    }
    with pytest.raises(ModelError, match="is computed and in no file"):
        empty_denoiser(config, "cpu", torch.float32)


def test_from_the_hub_only_what_is_read_is_fetched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub is played by a list of files, filtered as its client does it."""
    there = ("config.json", FILE, INDEX, "diffusion_pytorch_model-00001-of-00002.safetensors")
    elsewhere = ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "../vae/" + FILE)
    asked: list[str] = []

    def fetch(source: str, allow_patterns: list[str]) -> str:
        names = [f"unet/{name}".replace("unet/../", "") for name in (*there, *elsewhere)]
        asked.extend(filter_repo_objects(names, allow_patterns=allow_patterns))
        folder.rename(tmp_path / "unet")
        return str(tmp_path)

    monkeypatch.setattr(lazy, "denoiser_part", lambda source: "unet")
    monkeypatch.setattr(lazy, "snapshot_download", fetch)
    assert denoiser_folder("owner/name") == tmp_path / "unet"
    assert asked == [f"unet/{name}" for name in there]


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(source: str, allow_patterns: list[str]) -> str:
        raise HTTPError("no route to host")

    monkeypatch.setattr(lazy, "denoiser_part", lambda source: "unet")
    monkeypatch.setattr(lazy, "snapshot_download", fetch)
    with pytest.raises(ModelError, match="cannot be fetched: no route to host"):
        denoiser_folder("owner/name")


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        open_denoiser(tmp_path, "cpu", torch.float32)
