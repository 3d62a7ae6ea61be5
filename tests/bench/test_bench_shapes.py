"""The real architectures: as many parameters as published, and layers that are the same in whatever order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from personalq.bench.shapes import SHAPES, Shape, filling, inputs, shape_named, skeleton
from personalq.diffusion.lazy import fill
from personalq.errors import BenchError

CPU = torch.device("cpu")
TINY = [name for name in SHAPES if name.startswith("tiny")]


def filled(shape: Shape, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    model = skeleton(shape, CPU, dtype)
    fill(model, filling(CPU, seed))
    return model


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sd15", 859_520_964),
        ("sdxl", 2_567_463_684),
        ("sd3", 2_028_328_000),
        ("sd3.5", 2_243_171_520),
        ("flux", 11_901_408_320),
    ],
)
def test_parameters_are_those_of_the_published_models_and_take_no_memory(name: str, parameters: int) -> None:
    model = skeleton(shape_named(name), CPU, torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", TINY)
def test_a_step_keeps_the_size_of_its_input(name: str) -> None:
    shape = shape_named(name)
    model = filled(shape, torch.float32)
    given = inputs(shape, shape.latent, CPU, torch.float32)
    assert given["encoder_hidden_states"].shape[:2] == (shape.batch, shape.rows)
    with torch.no_grad():
        (out,) = model(**given, return_dict=False)
    assert out.shape == given["sample" if "sample" in given else "hidden_states"].shape
    assert 0.05 < float(out.std()) < 5


def test_pooled_text_and_sizes_of_sdxl_fill_the_projection_they_go_through() -> None:
    shape = shape_named("sdxl")
    given = inputs(shape, 16, CPU, torch.float32)
    assert given["added_cond_kwargs"]["text_embeds"].shape == (2, 1280)
    assert given["added_cond_kwargs"]["time_ids"][0].tolist() == [128, 128, 0, 0, 128, 128]


def test_layers_are_the_same_in_any_order_and_differ_from_each_other_and_by_seed() -> None:
    shape = shape_named("tiny")
    whole = filled(shape, torch.bfloat16)
    alone = skeleton(shape, CPU, torch.bfloat16)
    name = "up_blocks.0.resnets.0.conv1"
    filling(CPU)(name, alone.get_submodule(name))
    assert torch.equal(alone.get_submodule(name).weight, whole.get_submodule(name).weight)
    assert [n for n, p in alone.named_parameters() if not p.is_meta] == [f"{name}.weight", f"{name}.bias"]
    first, second = (whole.get_submodule(f"up_blocks.1.attentions.{i}.proj_in").weight for i in (0, 1))
    assert not torch.equal(first, second)
    other = filled(shape, torch.bfloat16, seed=1)
    assert not torch.equal(other.get_submodule(name).weight, whole.get_submodule(name).weight)


def test_values_have_the_scale_that_keeps_activations() -> None:
    model = filled(shape_named("tiny"), torch.float32)
    conv, norm = model.get_submodule("mid_block.resnets.0.conv1"), model.get_submodule("conv_norm_out")
    assert float(conv.weight.std()) == pytest.approx((64 * 9) ** -0.5, rel=0.05)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert float(norm.weight.min()) == float(norm.weight.max()) == 1


def test_an_unknown_architecture_or_a_side_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(BenchError, match="sd15, sdxl, sd3"):
        shape_named("sd4")
    with pytest.raises(BenchError, match="multiple of 8"):
        inputs(shape_named("sd15"), 20, CPU, torch.float32)
