"""Merging gives what the branch gives; what quantising leaves of an update is measured as it is."""

from pathlib import Path

import pytest
import torch
from tiny_pipelines import lora, lora_state
from torch import Tensor, nn

from personalq.diffusion.branch import Branch
from personalq.diffusion.lazy import open_denoiser
from personalq.diffusion.load import Pipeline, load_base
from personalq.diffusion.lora import read_lora
from personalq.diffusion.merge import NOTHING, Merge, Survival, merge, survival
from personalq.diffusion.slots import Slots
from personalq.errors import IncompatibleCheckpointError
from personalq.quant.layers import QLinear
from personalq.quant.pack import pack_int8
from personalq.quant.recipe import recipe_named


@pytest.fixture
def pipe(tiny_sd_folder: Path) -> Pipeline:
    return load_base(tiny_sd_folder, "cpu", torch.float32)


@torch.no_grad()
def predict(model: nn.Module) -> Tensor:
    drawn = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 4, 8, 8, generator=drawn), torch.randn(2, 7, 64, generator=drawn)
    return model(latents, torch.tensor(500), text).sample


def test_merged_is_what_the_branches_give(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    loras = [
        (read_lora(pipe, lora(tmp_path / f"{seed}.safetensors", lora_state(tiny_sd_folder, rank, seed, text=True))), w)
        for seed, rank, w in ((3, 4, 0.5), (4, 7, -0.3))
    ]
    slots, plain = Slots(), predict(pipe.unet)
    slots.bind({"unet": pipe.unet, "text_encoder": pipe.text_encoder})
    for key, (branches, _) in enumerate(loras):
        slots.add(key, branches)
    slots.select([(key, weight) for key, (_, weight) in enumerate(loras)])
    wanted = predict(pipe.unet)
    slots.release()
    merge(pipe.unet, loras)
    torch.testing.assert_close(predict(pipe.unet), wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(wanted, plain, atol=1e-2)


def test_layer_by_layer_gives_the_same_weights(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    branches = read_lora(pipe, lora(tmp_path / "l.safetensors", lora_state(tiny_sd_folder)))
    merge(pipe.unet, [(branches, 0.5)])
    model, materialize = open_denoiser(tiny_sd_folder, "cpu", torch.float32)
    folding = Merge([(branches, 0.5)])
    for name, module in model.named_modules():
        materialize(name, module)
        folding.fold(name, module)
    folding.check_complete()
    wanted = pipe.unet.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_deltas_by_name_and_shape() -> None:
    down, up = torch.randn(2, 3, 3, 3), torch.randn(5, 2, 1, 1)
    folding = Merge([({"unet.a.conv": Branch(down, up), "text_encoder.b": Branch(down, up)}, 2.0)])
    expected = 2 * torch.einsum("or,rihw->oihw", up[..., 0, 0], down)
    delta = folding.delta_for("a.conv.weight", (5, 3, 3, 3))
    assert delta is not None
    torch.testing.assert_close(delta, expected)
    assert folding.delta_for("a.other", (5, 3)) is None and folding.delta_for("a.conv.bias", (5,)) is None
    with pytest.raises(IncompatibleCheckpointError, match=r"a.conv is \[5, 4, 3, 3\]"):
        folding.delta_for("a.conv", (5, 4, 3, 3))


def test_updates_that_find_no_layer_are_told(pipe: Pipeline) -> None:
    with pytest.raises(IncompatibleCheckpointError, match=r"1 of 1 .*mid_block\.nowhere"):
        merge(pipe.unet, [({"unet.mid_block.nowhere": Branch(torch.ones(1, 2), torch.ones(2, 1))}, 1.0)])


def test_survival_of_known_updates() -> None:
    before, step = torch.zeros(2, 4), torch.tensor([1.0, 2.0])
    delta = torch.tensor([[0.6, -0.4, 3.0, 0.0], [0.9, 1.1, -2.0, 0.0]])
    after = torch.tensor([[1.0, 0.0, 3.0, 0.0], [0.0, 2.0, -2.0, 0.0]])
    found = survival(delta, step, before, after)
    assert (found.elements, found.above, found.share) == (8, 4, 0.5)
    assert found.norm_ratio == pytest.approx((after.norm() / delta.norm()).item())
    assert found.cosine == pytest.approx(torch.cosine_similarity(after.flatten(), delta.flatten(), dim=0).item())
    grouped = survival(delta[:, :3], torch.tensor([[1.0, 8.0], [1.0, 8.0]]), before[:, :3], after[:, :3])
    assert grouped.above == 3  # groups of two, the last one short: 0.6, 0.9 and 1.1 beat 0.5, nothing beats 4
    both = sum([found, grouped], NOTHING)
    assert both.elements == 14 and both.above == 7 and both.as_row()["share_above_half_step"] == 0.5


def test_nothing_left_and_everything_left() -> None:
    delta = torch.randn(3, 5)
    gone = survival(delta, torch.full((3,), 100.0), torch.zeros(3, 5), torch.zeros(3, 5))
    assert (gone.share, gone.norm_ratio, gone.cosine) == (0, 0, 0)
    whole = survival(delta, torch.full((3,), 1e-9), torch.zeros(3, 5), delta)
    assert whole.share == 1 and whole.norm_ratio == pytest.approx(1) and whole.cosine == pytest.approx(1)
    assert Survival(4, 0, 0.0, 0.0, 0.0).cosine == 1  # no update: nothing to lose


@pytest.mark.parametrize("size", [3.0, 0.01])
def test_int8_keeps_large_updates_and_loses_small_ones(size: float) -> None:
    """On the project's own layers: an update of three steps survives, one of a hundredth of a step does not."""
    drawn = torch.Generator().manual_seed(5)
    weight = torch.randn(32, 64, generator=drawn)
    step = pack_int8(weight).scale
    delta = torch.randn(32, 64, generator=drawn).sign() * size * step[:, None]
    delta[torch.arange(32), weight.abs().argmax(1)] = 0  # the largest of each row sets its scale: leave that
    rule = recipe_named("rtn-w8a8").rules[-1]

    def packed(values: Tensor) -> QLinear:
        layer = nn.Linear(64, 32, bias=False)
        layer.weight.data = values
        return QLinear.from_float(layer, rule)

    before, after = packed(weight), packed(weight + delta)
    found = survival(delta, after.scale, before.dequantized(), after.dequantized())
    if size > 1:
        assert found.share > 0.95 and found.cosine > 0.95 and found.norm_ratio == pytest.approx(1, abs=0.1)
    else:
        assert found.share == 0 and found.cosine < 0.5
