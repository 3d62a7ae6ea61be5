import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.apply import stored_bytes
from personalq.quant.formats import ASYM8, INT4, INT8, LOG4
from personalq.quant.layers import QConv2d, QLinear, nf4_linear
from personalq.records import Rule

W8, W4 = Rule(".*", INT8, INT8), Rule(".*", INT4, INT8, group=64)
LIMIT = {"int8": 0.02, "int4": 0.13}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("rule", [W8, W4], ids=["w8", "w4"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_linear_is_close_to_the_float_layer(rule: Rule, bias: bool, dtype: torch.dtype) -> None:
    layer = nn.Linear(320, 96, bias=bias).to(dtype)
    packed, x = QLinear.from_float(layer, rule), torch.randn(2, 5, 320).to(dtype)
    out = packed(x)
    assert out.dtype == dtype and out.shape == (2, 5, 96)
    assert 0 < relative(out, layer(x)) < LIMIT[rule.weight.name]
    exact = F.linear(x.double(), packed.dequantized().double(), None if layer.bias is None else layer.bias.double())
    assert relative(out, exact) < 0.015  # what is left is the activations' rounding


@pytest.mark.parametrize("rule", [W8, W4], ids=["w8", "w4"])
@pytest.mark.parametrize("channels", [32, 21])
@torch.no_grad()
def test_convolution_is_close_to_the_float_layer(rule: Rule, channels: int) -> None:
    layer, x = nn.Conv2d(channels, 24, 3, stride=2, padding=1), torch.randn(2, channels, 9, 9)
    packed = QConv2d.from_float(layer, rule)
    assert 0 < relative(packed(x), layer(x)) < LIMIT[rule.weight.name] * 1.3
    weight = packed.dequantized().view(24, 3, 3, channels).permute(0, 3, 1, 2)
    assert relative(packed(x), F.conv2d(x, weight, layer.bias, 2, 1)) < 0.02


@pytest.mark.parametrize(
    ("rule", "linear", "conv"),
    [
        (W8, 96 * 320 + 4 * 96, 24 * 189 + 4 * 24),
        (W4, 96 * (160 + 2 * 5) + 4 * 96, 24 * 3 * (32 + 2) + 4 * 24),  # 189 inputs are padded to three groups
    ],
    ids=["w8", "w4"],
)
def test_no_float_weight_is_held(rule: Rule, linear: int, conv: int) -> None:
    for layer, claimed in (
        (QLinear.from_float(nn.Linear(320, 96), rule), linear + 4 * 96),
        (QConv2d.from_float(nn.Conv2d(21, 24, 3), rule), conv + 4 * 24),
    ):
        assert [name for name, _ in layer.named_parameters()] == ["bias"]
        assert stored_bytes(layer) == claimed + 4  # the stand-in's NaN
        floats = [t for t in layer.buffers() if t.is_floating_point()]
        assert max(t.numel() for t in floats) == layer.codes.shape[0]


def test_the_stand_in_answers_what_adapters_ask() -> None:
    packed = QConv2d.from_float(nn.Conv2d(21, 24, 3).to(torch.bfloat16), W4)
    assert isinstance(packed, nn.Conv2d) and (packed.in_channels, packed.out_channels) == (21, 24)
    assert packed.weight.shape == (24, 21, 3, 3) and packed.weight.dtype == torch.bfloat16
    assert packed.weight.untyped_storage().nbytes() == 2
    linear = QLinear.from_float(nn.Linear(64, 8), W8)
    assert isinstance(linear, nn.Linear) and (linear.in_features, linear.out_features) == (64, 8)
    with pytest.raises(RuntimeError):
        linear.weight.data += 1  # merging into it cannot pass unnoticed
    assert linear.weight.isnan().all()  # nor can reading it


def test_casting_keeps_scales_and_codes() -> None:
    packed = QLinear.from_float(nn.Linear(64, 8), W8)
    scale, codes = packed.scale.clone(), packed.codes.clone()
    packed.to(torch.bfloat16)
    assert torch.equal(packed.scale, scale) and packed.scale.dtype == torch.float32
    assert torch.equal(packed.codes, codes) and packed.codes.dtype == torch.int8
    assert packed.weight.dtype == packed.bias.dtype == torch.bfloat16
    assert packed.to("meta").weight.device.type == "meta"


@pytest.mark.parametrize("rule", [W8, W4], ids=["w8", "w4"])
@torch.no_grad()
def test_state_and_copies_round_trip(rule: Rule) -> None:
    packed, other = (QLinear.from_float(nn.Linear(100, 8), rule) for _ in range(2))
    x = torch.randn(3, 100)
    assert not torch.equal(packed(x), other(x))
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(x), packed(x))


def test_layers_that_cannot_be_packed_raise() -> None:
    linear = nn.Linear(8, 8)
    for rule in (
        Rule(".*", LOG4, INT8),
        Rule(".*", INT4, INT8),
        Rule(".*", INT8, INT4),
        Rule(".*", INT8, ASYM8, dual=True),
    ):
        with pytest.raises(QuantizationError):
            QLinear.from_float(linear, rule)
    for conv in (
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding_mode="circular"),
    ):
        with pytest.raises(QuantizationError, match="keep this layer in 16 bits"):
            QConv2d.from_float(conv, W8)


def test_gradients_are_refused_not_faked() -> None:
    packed = QLinear.from_float(nn.Linear(8, 8), W8)
    with pytest.raises(QuantizationError, match="no_grad"):
        packed(torch.randn(2, 8, requires_grad=True))
    assert torch.isfinite(packed(torch.randn(2, 8))).all()


@torch.no_grad()
def test_nf4_is_really_quantised() -> None:
    layer, x = nn.Linear(320, 96), torch.randn(7, 320)
    packed = nf4_linear(layer)
    assert packed.weight.dtype == torch.uint8 and packed.weight.numel() == 96 * 320 // 2
    assert isinstance(packed, nn.Linear) and (packed.in_features, packed.out_features) == (320, 96)
    assert 0.05 < relative(packed(x), layer(x)) < 0.13
    codes, absmax, table, bias = 96 * 160, 96 * 5 * 4, 16 * 4, 96 * 4
    assert stored_bytes(packed) == codes + absmax + table + bias
    layer.weight[0, 0] = torch.nan
    with pytest.raises(QuantizationError):
        nf4_linear(layer)
