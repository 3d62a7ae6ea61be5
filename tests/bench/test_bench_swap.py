"""Swaps are measured on every kind of denoiser, and what is measured is the same update as diffusers'."""

import pytest
import torch
from tiny_pipelines import WIDTH, flux_transformer, sd3_transformer, unet
from torch import nn

from personalq.bench.swap import as_text, swap
from personalq.errors import BenchError
from personalq.quant.apply import quantize_unet
from personalq.quant.recipe import recipe_named

MODELS = {"unet": lambda: unet(WIDTH), "sd3": sd3_transformer, "flux": flux_transformer}


def denoiser(name: str = "unet") -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().to(torch.bfloat16)


@pytest.mark.parametrize(("name", "recipe"), [("unet", "taq-w4a8"), ("unet", "nf4"), ("sd3", ""), ("flux", "")])
def test_swaps_of_one_denoiser(name: str, recipe: str) -> None:
    model = denoiser(name)
    if recipe:
        quantize_unet(model, recipe_named(recipe))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = [m for n, m in model.named_modules() if n.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    seen: list[tuple[int, int]] = []
    result = swap(model, n=3, rank=2, rounds=2, on_progress=lambda done, total, _: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
    assert result["layers"] == len(layers)
    assert result["bytes_per_checkpoint"] == sum(2 * 2 * (m.in_features + m.out_features) for m in layers)
    assert result["checkpoints_per_gb"] == pytest.approx(1e9 / result["bytes_per_checkpoint"], rel=1e-3)
    assert result["diffusers"] is None and 0 < result["difference"] < 0.02
    for key in ("slots_ms", "attach_ms", "read_ms", "hotswap_ms", "hotswap_file_ms", "reload_ms"):
        assert 0 < result[key]["p50"] <= result[key]["p95"]
    assert "hotswap" in as_text(result)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(
        torch.equal(after[key].view(-1), before[key].view(-1)) for key in after
    )
    assert not any(m._forward_hooks for m in model.modules())


class Strange(nn.Module):
    """A layer that PEFT does not know, which tells its sizes."""

    in_features = out_features = 64

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_a_base_that_diffusers_cannot_update_is_measured_alone() -> None:
    model = denoiser()
    model.mid_block.attentions[0].transformer_blocks[0].attn1.to_q = Strange()
    result = swap(model, n=2, rank=2, rounds=1)
    assert "not supported" in result["diffusers"] and result["hotswap_ms"]["p50"] is None
    assert result["slots_ms"]["p50"] > 0 and "cannot update" in as_text(result)


def test_what_cannot_be_measured() -> None:
    with pytest.raises(BenchError, match="two LoRAs"):
        swap(denoiser(), n=1)
    with pytest.raises(BenchError, match="No pipeline takes a Linear"):
        swap(nn.Linear(2, 2), n=2)
