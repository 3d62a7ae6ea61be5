import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.apply import stored_bytes
from personalq.quant.formats import ASYM4, ASYM8, INT4, INT4_ACT, INT8, LOG4
from personalq.quant.layers import QConv2d, QLinear, nf4_linear
from personalq.quant.segment import Segments
from personalq.quant.state import expected_tensors
from personalq.records import Rule

SPLIT = Segments((128, 192), (32, 64), "silu")
WAYS = [
    {"activation": INT8, "segments": True},
    {"activation": INT8, "dual": True},
    {"activation": INT8, "segments": True, "dual": True},
    {"activation": INT4_ACT, "segments": True, "dual": True},
    {"activation": ASYM8, "segments": True},
    {"activation": ASYM4},
    {"activation": None},
]
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


def way_id(way: dict[str, object]) -> str:
    name = way["activation"].name if way["activation"] else "weights"
    return "-".join([name, *(key for key in ("segments", "dual") if way.get(key))])


def lopsided(*shape: int) -> Tensor:
    """What SiLU made of a quiet part and a loud one, along the first dimension after the batch."""
    x = torch.randn(*shape)
    x[:, shape[1] * 2 // 5 :] *= 4
    return F.silu(x)


@pytest.mark.parametrize("weight", [W8, W4], ids=["w8", "w4"])
@pytest.mark.parametrize("way", WAYS, ids=way_id)
@torch.no_grad()
def test_every_way_multiplies_with_the_weight_it_says(weight: Rule, way: dict[str, object]) -> None:
    rule = replace(weight, **way)
    linear, conv = nn.Linear(320, 96), nn.Conv2d(40, 24, 3, stride=2, padding=1)
    packed = QLinear.from_float(linear, rule, SPLIT)
    limit = {None: 1e-5, INT8: 0.02, ASYM8: 0.02, INT4_ACT: 0.2, ASYM4: 0.2}[rule.activation]
    x = lopsided(7, 320)
    assert relative(packed(x), F.linear(x, packed.dequantized(), linear.bias)) < limit
    assert relative(packed.dequantized(), linear.weight) < LIMIT[weight.weight.name]
    filters = QConv2d.from_float(conv, rule, Segments((16, 24), (), "silu"))
    x = lopsided(2, 40, 9, 9)
    kernel = filters.dequantized().view(24, 3, 3, 40).permute(0, 3, 1, 2)
    assert relative(filters(x), F.conv2d(x, kernel, conv.bias, 2, 1)) < limit * 1.5
    assert relative(kernel, conv.weight) < LIMIT[weight.weight.name]


@torch.no_grad()
def test_segments_and_two_scales_are_used_where_the_rule_says_so() -> None:
    layer, x = nn.Linear(320, 96), lopsided(64, 320)
    plain, cut, dual, both = (replace(W8, segments=s, dual=d) for s, d in ((0, 0), (1, 0), (0, 1), (1, 1)))
    wanted = layer(x)
    error = {rule: relative(QLinear.from_float(layer, rule, SPLIT)(x), wanted) for rule in (plain, cut, dual, both)}
    assert error[both] < min(error[cut], error[dual]) < max(error[cut], error[dual]) < error[plain]
    whole = QLinear.from_float(layer, both)
    assert whole.widths is None and torch.equal(whole(x), QLinear.from_float(layer, plain, SPLIT)(x))


@torch.no_grad()
def test_pointwise_convolutions_have_a_scale_per_pixel() -> None:
    layer, x = nn.Conv2d(40, 24, 1, stride=2), torch.randn(2, 40, 6, 6)
    x[:, :, 0, 0] *= 100
    for rule in (W8, replace(W8, segments=True, dual=True)):
        packed = QConv2d.from_float(layer, rule, Segments((16, 24), (), "silu"))
        flat = nn.Linear(40, 24)
        flat.weight.copy_(layer.weight.flatten(1))
        flat.bias.copy_(layer.bias)
        pixels = QLinear.from_float(flat, rule, Segments((16, 24), (), "silu"))(x[:, :, ::2, ::2].permute(0, 2, 3, 1))
        assert torch.equal(packed(x), pixels.permute(0, 3, 1, 2))
        quiet = (packed(x) - layer(x))[:, :, 1:]
        assert quiet.norm() / layer(x)[:, :, 1:].norm() < 0.02


@pytest.mark.parametrize("weight", [W8, W4], ids=["w8", "w4"])
@pytest.mark.parametrize("way", WAYS, ids=way_id)
@pytest.mark.parametrize("smooth", [False, True], ids=["plain", "smooth"])
@torch.no_grad()
def test_layers_are_made_from_their_state_alone(weight: Rule, way: dict[str, object], smooth: bool) -> None:
    rule = replace(weight, **way)
    for layer, x, kind, segments in (
        (nn.Linear(320, 96), lopsided(7, 320), QLinear, SPLIT),
        (nn.Conv2d(40, 24, 3, bias=False), lopsided(2, 40, 6, 6), QConv2d, Segments((16, 24), (12, 12), "silu")),
    ):
        factors = torch.rand(2, layer.weight.shape[1]) + 0.5 if smooth else None
        packed = kind.from_float(layer, rule, segments, factors)
        state = packed.state_dict()
        shapes = {name: (tuple(t.shape), t.dtype) for name, t in state.items() if name != "smoothing"}
        assert shapes == expected_tensors(layer, rule, segments)
        empty = copy.deepcopy(layer).to("meta")
        again = kind.from_packed(empty, rule, state, segments)
        assert torch.equal(again(x), packed(x)) and torch.equal(again.dequantized(), packed.dequantized())
        planned = kind.from_packed(empty, rule, {name: t.to("meta") for name, t in state.items()}, segments)
        assert planned.weight.device.type == "meta" and planned(x.to("meta")).shape == packed(x).shape


def test_states_that_do_not_fit_are_refused() -> None:
    layer, rule = nn.Linear(320, 96), replace(W8, segments=True)
    state = QLinear.from_float(layer, rule, SPLIT).state_dict()
    QLinear.from_packed(layer, rule, state, SPLIT)
    for wrong, named in (
        ({name: t for name, t in state.items() if name != "scale"}, "scale"),
        ({**state, "gamma": torch.zeros(3)}, "gamma"),
        ({**state, "codes": state["codes"][:, 1:]}, "codes"),
        ({**state, "codes": state["codes"].float()}, "codes"),
        ({**state, "smoothing": torch.ones(2, 319)}, "smoothing"),
        ({**state, "widths": torch.tensor([192, 128], dtype=torch.int32)}, "other segments"),
    ):
        with pytest.raises(QuantizationError, match=named):
            QLinear.from_packed(layer, rule, wrong, SPLIT)
    for segments in (Segments((128, 191)), Segments(outputs=(95,)), Segments((320, 0))):
        with pytest.raises(QuantizationError, match="find the segments again"):
            QLinear.from_float(layer, rule, segments)


@pytest.mark.parametrize("weight", [W8, W4], ids=["w8", "w4"])
@torch.no_grad()
def test_smoothing_is_taken_back(weight: Rule) -> None:
    linear, conv = nn.Linear(320, 96), nn.Conv2d(40, 24, 3)
    for layer, x, kind, segments in (
        (linear, torch.randn(16, 320), QLinear, SPLIT),
        (conv, torch.randn(2, 40, 6, 6), QConv2d, Segments((16, 24), (12, 12))),
    ):
        wide = layer.weight.shape[1]
        for rows in (1, 2):
            factors = torch.rand(rows, wide) + 0.5
            packed = kind.from_float(layer, weight, segments, factors)
            assert relative(packed(x), layer(x)) < 1.4 * LIMIT[weight.weight.name]
            flat = layer.weight if layer is linear else layer.weight.permute(0, 2, 3, 1).flatten(1)
            assert relative(packed.dequantized(), flat) < 1.2 * LIMIT[weight.weight.name]
            half = packed.to(torch.bfloat16)
            assert torch.equal(half.smoothing, factors) and half(x.to(torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(QuantizationError, match="one per output segment"):
        QLinear.from_float(linear, weight, SPLIT, torch.ones(3, 320))
