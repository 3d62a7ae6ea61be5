from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from tiny_pipelines import WIDE, WIDTH, flux_transformer, sd3_transformer, unet
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.activation import DualScale
from personalq.quant.apply import quantize_unet
from personalq.quant.formats import INT8
from personalq.quant.layers import PackedWeight
from personalq.quant.segment import Segments, find_segments
from personalq.records import Recipe, Rule

Model = tuple[nn.Module, dict[str, Any]]
GEGLU = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net"


def sd() -> Model:
    text = torch.zeros(2, 7, WIDTH)
    return unet(WIDTH), {"sample": torch.zeros(2, 4, 8, 8), "timestep": torch.tensor(5), "encoder_hidden_states": text}


def sd_scaled() -> Model:
    """Residual blocks that scale and shift by the time."""
    return unet(WIDTH, resnet_time_scale_shift="scale_shift"), sd()[1]


def sdxl() -> Model:
    model = unet(
        2 * WIDTH, use_linear_projection=True, transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=6 * 32 + WIDTH,
    )  # fmt: skip
    pooled = {"text_embeds": torch.zeros(2, WIDTH), "time_ids": torch.zeros(2, 6)}
    text = torch.zeros(2, 7, 2 * WIDTH)
    return model, sd()[1] | {"encoder_hidden_states": text, "added_cond_kwargs": pooled}


def sd3() -> Model:
    return sd3_transformer(), {
        "hidden_states": torch.zeros(2, 16, 8, 8), "encoder_hidden_states": torch.zeros(2, 7, WIDE),
        "pooled_projections": torch.zeros(2, 2 * WIDTH), "timestep": torch.tensor([5.0, 5.0]),
    }  # fmt: skip


def flux() -> Model:
    return flux_transformer(), {
        "hidden_states": torch.zeros(2, 16, 64), "encoder_hidden_states": torch.zeros(2, 7, WIDE),
        "pooled_projections": torch.zeros(2, WIDTH), "timestep": torch.tensor([0.5, 0.5]),
        "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(7, 3), "guidance": torch.tensor([3.5, 3.5]),
    }  # fmt: skip


EXPECTED = {
    sd: {
        "time_embedding.linear_1": Segments((32, 32)),
        "mid_block.resnets.0.time_emb_proj": Segments(after="silu"),
        "mid_block.resnets.0.conv2": Segments(after="silu"),
        "up_blocks.1.resnets.1.conv1": Segments((64, 64), after="silu"),
        "up_blocks.1.resnets.1.conv_shortcut": Segments((64, 64)),
        GEGLU + ".0.proj": Segments(outputs=(256, 256)),
        GEGLU + ".2": Segments(after="geglu"),
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0": Segments((16,) * 4),
        "conv_out": Segments(after="silu"),
    },
    sd_scaled: {"mid_block.resnets.0.time_emb_proj": Segments((), (64, 64), "silu")},
    sdxl: {"add_embedding.linear_1": Segments((WIDTH, 6 * 32))},
    sd3: {
        "transformer_blocks.0.norm1.linear": Segments((), (64,) * 9, "silu"),
        "transformer_blocks.1.norm1_context.linear": Segments((), (64,) * 6, "silu"),
        "transformer_blocks.2.norm1_context.linear": Segments((), (64,) * 2, "silu"),
        "transformer_blocks.1.attn.to_add_out": Segments((32, 32)),
        "transformer_blocks.1.ff_context.net.2": Segments(after="gelu"),
    },
    flux: {
        "single_transformer_blocks.1.proj_out": Segments((64, 256), after="gelu"),
        "single_transformer_blocks.1.norm.linear": Segments((), (64,) * 3, "silu"),
        "time_text_embed.guidance_embedder.linear_1": Segments((128, 128)),
        "norm_out.linear": Segments((), (64, 64), "silu"),
    },
}


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
def test_classes_and_graph_agree(build: Callable[[], Model]) -> None:
    model, example = build()
    by_class = find_segments(model)
    assert by_class == find_segments(model, example)
    assert {name: by_class[name] for name in EXPECTED[build]} == EXPECTED[build]
    assert all(isinstance(model.get_submodule(name), nn.Linear | nn.Conv2d) for name in by_class)


def test_a_real_shape_without_data() -> None:
    """Stable Diffusion 1.5: unequal skips."""
    with torch.device("meta"):
        model = UNet2DConditionModel(cross_attention_dim=768)
        found = find_segments(model)
    skips = {name[10:]: found[name].inputs for name in found if name.endswith("conv_shortcut") and found[name].inputs}
    assert [skips[f"{i}.resnets.{j}.conv_shortcut"] for i in range(4) for j in range(3)] == [
        (1280, 1280), (1280, 1280), (1280, 1280),
        (1280, 1280), (1280, 1280), (1280, 640),
        (1280, 640), (640, 640), (640, 320),
        (640, 320), (320, 320), (320, 320),
    ]  # fmt: skip
    for name, segments in found.items():
        weight = model.get_submodule(name).weight
        assert sum(segments.inputs) in (0, weight.shape[1]) and sum(segments.outputs) in (0, weight.shape[0])


class Odd(nn.Module):
    """No class of diffusers: stacked parts, unequal splits, a layer that is called twice, one behind another ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(12, 12) for _ in range(4))
        self.stacked, self.shared, self.normed = nn.Linear(24, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.norm = nn.LayerNorm(12)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        left, right = self.a(x).split([5, 7], dim=-1)
        x = self.b(torch.cat([right, left], -1)) + self.c(F.dropout(F.silu(x), 0.5, self.training))
        x = self.stacked(torch.stack([x, y], -2).flatten(-2)) + self.d(F.relu(x))
        return self.shared(F.gelu(x)) + self.shared(x) + self.normed(self.norm(F.gelu(x)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_any_model_is_traced(device: str) -> None:
    model, x = Odd().eval().to(device), torch.zeros(2, 3, 12, device=device)
    assert find_segments(model) == {}
    assert find_segments(model, {"x": x, "y": x}) == {
        "a": Segments(outputs=(5, 7)),
        "b": Segments((7, 5)),
        "c": Segments(after="silu"),
        "stacked": Segments((12, 12)),
    }


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_a_model_that_cannot_be_traced_is_an_error() -> None:
    with pytest.raises(QuantizationError, match="cannot be traced"):
        find_segments(Untraceable(), {"x": torch.ones(3)})


@torch.no_grad()
def test_a_recipe_with_segments_finds_them() -> None:
    everything = Rule(".*", INT8, INT8, segments=True, dual=True)
    model, example = sd()
    wanted = find_segments(model)
    quantize_unet(model, Recipe("both", (everything,)))
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, PackedWeight)}
    assert {name: layer.segments for name, layer in layers.items() if layer.segments != Segments()} == wanted
    assert layers["up_blocks.1.resnets.1.conv1"].parts == (64, 64)
    assert layers["up_blocks.1.resnets.1.conv1"].activation == DualScale()
    assert torch.isfinite(model(**example).sample).all()
