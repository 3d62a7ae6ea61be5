import pytest
import torch
from torch import Tensor, nn

from personalq.quant.formats import INT4, INT4_ACT, INT8
from personalq.quant.layers import QConv2d, QLinear
from personalq.quant.segment import WHOLE, Segments
from personalq.quant.smooth import candidates, search_smoothing
from personalq.records import Rule

W8, W4 = Rule(".*", INT8, INT8), Rule(".*", INT4, INT4_ACT, group=64)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize(("rule", "gain"), [(W8, 0.5), (W4, 0.95)], ids=["w8a8", "w4a4"])
@torch.no_grad()
def test_outlying_channels_are_moved_into_the_weight(rule: Rule, gain: float) -> None:
    linear, conv = nn.Linear(128, 48), nn.Conv2d(24, 16, 3, padding=1)
    tokens, picture = torch.randn(40, 128), torch.randn(2, 24, 6, 6)
    tokens[:, 5] *= 60
    picture[:, 5] *= 60
    for layer, x, kind in ((linear, tokens, QLinear), (conv, picture, QConv2d)):
        factors = search_smoothing(layer, rule, x)
        assert factors is not None and factors.shape == (1, layer.weight.shape[1])
        assert factors[0, 5] < factors[0].median()
        wanted = layer(x)
        smooth = kind.from_float(layer, rule, WHOLE, factors)(x)
        assert relative(smooth, wanted) < gain * relative(kind.from_float(layer, rule)(x), wanted)


@torch.no_grad()
def test_even_inputs_are_left_alone() -> None:
    layer = nn.Linear(64, 8)
    layer.weight.copy_(torch.randint(0, 2, (8, 64)) * 2.0 - 1)
    x = torch.randint(-127, 128, (16, 64)).float()
    x[:, 0] = 127
    assert search_smoothing(layer, W8, x) is None


@torch.no_grad()
def test_each_segment_is_searched_alone() -> None:
    layer, x = nn.Linear(128, 48), torch.randn(40, 128)
    x[:, 5] *= 60
    layer.weight[32:, 5] *= 0.01  # one output segment would hardly see the outlier
    segments, rule = Segments((64, 64), (32, 16)), Rule(".*", INT8, INT8, segments=True)
    factors = search_smoothing(layer, rule, x, segments)
    assert factors is not None and factors.shape == (2, 128)
    parts = [search_smoothing(_rows(layer, rows), rule, x, Segments((64, 64))) for rows in (slice(32), slice(32, 48))]
    for row, part in zip(factors, parts, strict=True):
        assert torch.equal(row, torch.ones(128) if part is None else part[0])
    wanted = layer(x)
    smooth = QLinear.from_float(layer, rule, segments, factors)(x)
    assert relative(smooth, wanted) < relative(QLinear.from_float(layer, rule, segments)(x), wanted)


def _rows(layer: nn.Linear, rows: slice) -> nn.Linear:
    part = nn.Linear(128, layer.weight[rows].shape[0])
    part.weight.data.copy_(layer.weight[rows])
    return part


def test_the_candidates_run_from_an_even_weight_to_an_even_input() -> None:
    weight, samples = torch.randn(16, 24), torch.randn(24, 50)
    samples[3] *= 40
    ones, *factors = candidates(weight, samples)
    assert torch.equal(ones, torch.ones(24)) and len(factors) == 11
    for factor in factors:
        torch.testing.assert_close((weight / factor).abs().amax(), weight.abs().amax())
    level = (weight / factors[0]).abs().amax(0)
    torch.testing.assert_close(level, level[:1].expand(24))
    loud = (samples * factors[-1][:, None]).abs().amax(1)
    torch.testing.assert_close(loud, loud[:1].expand(24))
