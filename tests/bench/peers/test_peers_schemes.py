"""The layers that the peers' schemes are made of, against the float layers that they stand for."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor, nn

from personalq.bench.peers.dgq import Grouped, cuts
from personalq.bench.peers.levels import recipe_at
from personalq.bench.peers.qdiffusion import Split, quantize
from personalq.bench.peers.smoothquant import divisors
from personalq.bench.peers.svdquant import LowRank
from personalq.quant.apply import stored_bytes
from personalq.quant.formats import INT4, INT4_ACT, INT8
from personalq.quant.layers import QConv2d, QLinear
from personalq.records import Rule

W8A8, W4A8 = Rule(r".*", INT8, INT8), Rule(r".*", INT4, INT8, group=64)
W8A4, W8 = Rule(r".*", INT8, INT4_ACT, segments=True), Rule(r".*", INT8)


@pytest.fixture
def linear() -> tuple[nn.Linear, Tensor]:
    """A layer with a few loud input channels, and inputs for it."""
    torch.manual_seed(0)
    x = torch.randn(64, 128)
    x[:, [3, 40, 90]] *= 30
    return nn.Linear(128, 96).requires_grad_(False), x


@pytest.fixture
def conv() -> tuple[nn.Conv2d, Tensor]:
    """A convolution whose second half of channels is quiet and read with small weights, and inputs for it."""
    torch.manual_seed(1)
    layer, x = nn.Conv2d(48, 32, 3, padding=1).requires_grad_(False), torch.randn(2, 48, 8, 8)
    x[:, 16:] *= 0.02
    return layer, x


def lost(packed: nn.Module, layer: nn.Module, x: Tensor) -> float:
    exact = layer(x)
    return float((packed(x) - exact).norm() / exact.norm())


# --- SmoothQuant ---------------------------------------------------------------------------------


def test_divisors_follow_the_papers_formula() -> None:
    largest, weight = torch.tensor([4.0, 9.0, 0.0, 1.0]), torch.tensor([[1.0, -0.25, 2.0, 0.0], [-0.5, 0.0, 1.0, 0.0]])
    s = divisors(largest, weight, 0.5)
    assert s[2:].tolist() == [1.0, 1.0]
    torch.testing.assert_close(s[1] / s[0], torch.tensor((9 / 0.25) ** 0.5 / (4 / 1) ** 0.5))
    torch.testing.assert_close(s[0] * s[1], torch.tensor(1.0))
    torch.testing.assert_close(
        divisors(largest, weight, 1.0)[1] / divisors(largest, weight, 1.0)[0], torch.tensor(9 / 4)
    )


def test_smoothing_helps_where_channels_are_loud(linear: tuple[nn.Linear, Tensor]) -> None:
    layer, x = linear
    s = divisors(x.abs().amax(0), layer.weight)
    smooth = QLinear.from_float(layer, W8A8, smoothing=1 / s[None])
    assert lost(smooth, layer, x) < 0.7 * lost(QLinear.from_float(layer, W8A8), layer, x)


def test_smoothed_layers_answer_in_the_type_they_are_asked_in(
    linear: tuple[nn.Linear, Tensor], conv: tuple[nn.Conv2d, Tensor]
) -> None:
    for (layer, x), packed in ((linear, QLinear), (conv, QConv2d)):
        s = torch.rand(1, x.shape[1]) + 0.5
        smooth = packed.from_float(layer.bfloat16(), W8A8, smoothing=s)
        assert smooth(x.bfloat16()).dtype == torch.bfloat16


# --- SVDQuant ------------------------------------------------------------------------------------


def test_a_branch_takes_what_four_bits_lose(linear: tuple[nn.Linear, Tensor]) -> None:
    layer, x = linear
    loud = torch.randn(96, 4) @ torch.randn(4, 128)
    layer.weight += 0.3 * loud
    s, plain = torch.ones(128), QLinear.from_float(layer, W4A8)
    branched = LowRank.from_float(layer, W4A8, s, 8)
    assert lost(branched, layer, x) < 0.5 * lost(plain, layer, x)
    assert stored_bytes(branched) - stored_bytes(plain) == 4 * (8 * (128 + 96) + 128)  # both matrices and s
    assert (branched.in_features, branched.out_features, branched.weight.shape) == (128, 96, (96, 128))


def test_the_split_is_exact_before_rounding(linear: tuple[nn.Linear, Tensor]) -> None:
    layer, x = linear
    s = divisors(x.abs().amax(0), layer.weight)
    branched = LowRank.from_float(layer, W8, s, 8)
    whole = branched.packed.dequantized() + branched.up @ branched.down
    assert float((whole - layer.weight).norm() / layer.weight.norm()) < 0.02
    full = LowRank.from_float(layer, W4A8, s, 96)
    assert lost(full, layer, x) < 1e-4


# --- Q-Diffusion ---------------------------------------------------------------------------------


def test_halves_with_their_own_scales_lose_less(conv: tuple[nn.Conv2d, Tensor]) -> None:
    layer, x = conv
    layer.weight[:, 16:] *= 50  # quiet channels that matter as much as the loud ones
    whole, split = QConv2d.from_float(layer, W8A8), Split.from_float(layer, W8A8, (16, 32))
    assert lost(split, layer, x) < 0.5 * lost(whole, layer, x)
    assert split.others[0].bias is None and torch.equal(split.bias, layer.bias)
    assert split.kernel_size == layer.kernel_size and split.in_channels == 48
    assert layer.in_channels == 48 and layer.weight.shape[1] == 48


def test_all_convolutions_over_a_skip_are_split_and_no_others() -> None:
    from tiny_pipelines import unet

    model = unet(32)
    skips = [f"up_blocks.{i}.resnets.{j}" for i in range(2) for j in range(2)]
    quantize(model, recipe_at("w8a8", name="x"))
    split = {name for name, module in model.named_modules() if isinstance(module, Split)}
    assert split == {f"{name}.{layer}" for name in skips for layer in ("conv1", "conv_shortcut")}
    assert all(sum(model.get_submodule(name).widths) == model.get_submodule(name).in_channels for name in split)


# --- DGQ -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 3, 7, 20])
def test_cuts_are_the_best_there_are(groups: int) -> None:
    ordered = torch.rand(9, generator=torch.Generator().manual_seed(groups)).mul(9).sort(descending=True).values

    def cost(edges: tuple[int, ...]) -> float:
        return sum((b - a) * float(ordered[a]) ** 2 for a, b in pairwise(edges))

    widths = cuts(ordered, groups)
    assert sum(widths) == 9 and len(widths) <= groups and min(widths) > 0
    found = [0]
    for width in widths:
        found.append(found[-1] + width)
    tried = [(0, *inner, 9) for n in range(min(groups, 9)) for inner in combinations(range(1, 9), n)]
    assert cost(tuple(found)) == pytest.approx(min(map(cost, tried)))


def test_groups_of_like_channels_lose_less(linear: tuple[nn.Linear, Tensor], conv: tuple[nn.Conv2d, Tensor]) -> None:
    for (layer, x), largest, plain in (
        (linear, linear[1].abs().amax(0), QLinear),
        (conv, conv[1].abs().amax((0, 2, 3)), QConv2d),
    ):
        grouped = Grouped.from_float(layer, W8A4, largest, 8)
        assert lost(grouped, layer, x) < 0.9 * lost(plain.from_float(layer, W8A4), layer, x)
        assert sorted(grouped.order.tolist()) == list(range(len(largest)))
        exact = Grouped.from_float(layer, W8, largest, 8)
        torch.testing.assert_close(exact(x), plain.from_float(layer, W8)(x), rtol=1e-4, atol=1e-4)


def test_very_many_channels_and_silent_ones_are_cut_too() -> None:
    assert sum(cuts(torch.tensor([5.0, 0.0, 0.0]), 8)) == 3 and sum(cuts(torch.zeros(4), 8)) == 4
    many = torch.cat([torch.full((40,), 50.0), torch.full((9960,), 1.0)])
    widths = cuts(many, 2)
    assert sum(widths) == 10_000 and 40 <= widths[0] < 80
