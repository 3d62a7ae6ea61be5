"""Adapters of the diffusers format, loaded by diffusers and peft, on a quantised UNet."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from torch import Tensor

from personalq.errors import QuantizationError
from personalq.quant.apply import quantize_unet, stored_bytes
from personalq.quant.layers import QConv2d, QLinear
from personalq.quant.recipe import RECIPES, recipe_named

Inputs = tuple[Tensor, Tensor, Tensor]
MakeUnet = Callable[..., UNet2DConditionModel]
BLOCK = "mid_block.attentions.0.transformer_blocks.0."
LINEARS = (BLOCK + "attn1.to_q", BLOCK + "attn2.to_k", BLOCK + "ff.net.2")
CONV = "mid_block.resnets.0.conv1"
RANK, ALPHA = 4, 2.0


def adapter(unet: torch.nn.Module) -> dict[str, Tensor]:
    generator, state = torch.Generator().manual_seed(3), {}
    for name in (*LINEARS, CONV):
        shape = unet.get_submodule(name).weight.shape
        state[f"unet.{name}.lora_A.weight"] = torch.randn(RANK, *shape[1:], generator=generator) * 0.2
        state[f"unet.{name}.lora_B.weight"] = torch.randn(shape[0], RANK, *(1 for _ in shape[2:]), generator=generator)
        state[f"unet.{name}.alpha"] = torch.tensor(ALPHA)
    return state


def load(unet: torch.nn.Module, state: dict[str, Tensor]) -> None:
    alphas = {key: value.item() for key, value in state.items() if key.endswith(".alpha")}
    weights = {key: value for key, value in state.items() if key not in alphas}
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(weights, alphas, unet, adapter_name="dog")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_adapters_are_a_float_branch_on_the_packed_base(
    make_unet: MakeUnet, inputs: Inputs, name: str, dtype: torch.dtype
) -> None:
    unet = make_unet(dtype)
    state = adapter(unet)
    quantize_unet(unet, recipe_named(name))
    latents, step, text = inputs[0].to(dtype), inputs[1], inputs[2].to(dtype)
    before, held = unet(latents, step, text).sample, stored_bytes(unet)
    load(unet, state)
    assert unet.dtype == dtype
    grown = sum(t.numel() for key, t in state.items() if not key.endswith("alpha")) * dtype.itemsize
    assert stored_bytes(unet) == held + grown

    for layer in (*LINEARS, CONV):
        wrapped = unet.get_submodule(layer)
        down, up = wrapped.lora_A["dog"], wrapped.lora_B["dog"]
        assert down.weight.dtype == dtype
        assert torch.equal(down.weight, state[f"unet.{layer}.lora_A.weight"].to(dtype))
        x = torch.randn(2, wrapped.base_layer.weight.shape[1] if layer == CONV else down.in_features, 5, 5, dtype=dtype)
        x = x if layer == CONV else x[:, :, 0].mT
        expected = wrapped.base_layer(x) + ALPHA / RANK * up(down(x))
        torch.testing.assert_close(wrapped(x), expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-4)
    if name != "nf4":
        assert isinstance(unet.get_submodule(LINEARS[0]).base_layer, QLinear)
        assert isinstance(unet.get_submodule(CONV).base_layer, QConv2d)

    assert not torch.allclose(unet(latents, step, text).sample, before, rtol=1e-2, atol=1e-2)
    unet.disable_lora()
    assert torch.equal(unet(latents, step, text).sample, before)
    unet.unload_lora()
    assert torch.equal(unet(latents, step, text).sample, before)
    assert stored_bytes(unet) == held


@torch.no_grad()
def test_the_branch_does_what_it_does_on_the_float_base(make_unet: MakeUnet, inputs: Inputs) -> None:
    plain, packed = make_unet(), make_unet()
    state = adapter(plain)
    quantize_unet(packed, recipe_named("taq-w8a8"))
    base = plain(*inputs).sample
    for unet in (plain, packed):
        load(unet, state)
    adapted = plain(*inputs).sample
    assert (adapted - base).norm() / base.norm() > 0.1
    assert (packed(*inputs).sample - adapted).norm() / adapted.norm() < 0.08


@pytest.mark.parametrize("safe", [True, False])
def test_merging_into_packed_weights_fails_aloud(make_unet: MakeUnet, safe: bool) -> None:
    unet = make_unet()
    state = adapter(unet)
    quantize_unet(unet, recipe_named("taq-w8a8"))
    load(unet, state)
    with pytest.raises((RuntimeError, ValueError)):
        unet.fuse_lora(safe_fusing=safe)


def test_adapters_come_after_quantisation(make_unet: MakeUnet) -> None:
    unet = make_unet()
    load(unet, adapter(unet))
    with pytest.raises(QuantizationError, match="Unload it, quantise"):
        quantize_unet(unet, recipe_named("taq-w8a8"))
