import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.errors import QuantizationError
from personalq.quant import activation, ops
from personalq.quant.activation import Activation, Asymmetric, Codes, DualScale, Symmetric, activation_for
from personalq.quant.formats import ASYM4, ASYM8, INT4_ACT, INT8, LOG4
from personalq.quant.ops import ConvShape
from personalq.records import QType, Rule

WAYS = [
    Symmetric(),
    Symmetric(INT4_ACT),
    DualScale(),
    DualScale(INT4_ACT),
    Asymmetric(),
    Asymmetric(ASYM4),
]
NAMES = [f"{type(way).__name__.lower()}-{way.format.bits}" for way in WAYS]
SHAPES = [
    ConvShape((3, 3), (1, 1), (1, 1), (1, 1)),
    ConvShape((3, 5), (2, 1), (2, 3), (2, 1)),
    ConvShape((2, 2), (2, 2), (0, 0), (1, 1)),
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def restored(codes: Codes, halves: int) -> Tensor:
    """The input that the integers stand for, in float64."""
    shift = 0 if codes.shift is None else codes.shift.double()
    return sum((codes.scale.double() * (codes.codes.double() + shift)).chunk(halves))


def weight(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    return torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8), torch.rand(outputs) + 0.5


def sums(codes: Tensor, widths: tuple[int, ...]) -> Tensor:
    return torch.stack([part.sum(1, dtype=torch.int32) for part in codes.split(widths, 1)], 1)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_every_input_is_rounded_to_the_nearest_code(way: Activation) -> None:
    x = F.silu(torch.randn(5, 60) * 3)
    x[1], x[2], x[3] = 0, x[2].abs(), -x[3].abs()
    codes = way.quantize(x, (1,))
    assert codes.codes.dtype == torch.int8 and codes.scale.dtype == torch.float32
    steps = codes.scale.chunk(way.halves)
    step = torch.where(x < 0, steps[-1], steps[0])
    assert ((restored(codes, way.halves) - x).abs() <= step * 0.5001).all()
    assert (restored(codes, way.halves)[x == 0] == 0).all()


@pytest.mark.parametrize("format", [INT8, INT4_ACT])
def test_the_codes_of_a_format_fill_its_range(format: QType) -> None:
    x = F.gelu(torch.randn(6, 40) * 2)
    one = Symmetric(format).quantize(x, (1,)).codes
    assert one.abs().amax(1).tolist() == [format.qmax] * 6
    above, below = DualScale(format).quantize(x, (1,)).codes.chunk(2)
    assert above.amin() == 0 and above.amax(1).tolist() == [format.qmax] * 6
    assert below.amax() == 0 and below.amin(1).tolist() == [format.qmin] * 6
    assert not ((above != 0) & (below != 0)).any()


@pytest.mark.parametrize("format", [ASYM8, ASYM4])
def test_a_zero_point_uses_the_whole_range(format: QType) -> None:
    x = F.silu(torch.randn(6, 200) * 2)
    codes = Asymmetric(format).quantize(x, (1,)).codes.int()
    assert (codes.amax(1) - codes.amin(1)).min() >= format.qmax - 1


@pytest.mark.parametrize("widths", [(), (50, 40, 10)], ids=["whole", "segments"])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_linear_equals_float64_on_the_same_integers(way: Activation, widths: tuple[int, ...]) -> None:
    x, (codes, scale), bias = torch.randn(2, 9, 100), weight(48, 100), torch.randn(48)
    parts = widths or (100,)
    seen = [restored(way.quantize(part, (1,)), way.halves) for part in x.view(-1, 100).split(parts, 1)]
    expected = F.linear(torch.cat(seen, 1), codes * scale.double()[:, None], bias.double())
    out = activation.linear(x, codes, scale, bias, way, widths, sums(codes, parts))
    assert out.shape == (2, 9, 48)
    torch.testing.assert_close(out.double(), expected.view(2, 9, 48), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("widths", [(), (3, 5)], ids=["whole", "segments"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_convolution_equals_float64_on_the_same_integers(
    way: Activation, shape: ConvShape, widths: tuple[int, ...]
) -> None:
    x = torch.randn(3, 8, 9, 8) + 0.5
    x[1] *= 40
    parts, taps = widths or (8,), shape.kernel[0] * shape.kernel[1]
    (codes, scale), bias = weight(7, 8 * taps), torch.randn(7)
    seen = [restored(way.quantize(part, (1, 2, 3)), way.halves) for part in x.split(parts, 1)]
    blocks = [
        block.view(7, *shape.kernel, -1).permute(0, 3, 1, 2) for block in codes.split([taps * w for w in parts], 1)
    ]
    expected = F.conv2d(
        torch.cat(seen, 1), torch.cat(blocks, 1) * scale.double().view(-1, 1, 1, 1), bias.double(), *shape[1:]
    )
    each = sums(codes, tuple(taps * w for w in parts))
    out = activation.conv2d(x, codes, scale, bias, shape, way, widths, each)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-2)


def test_both_signs_take_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    heights, plain = [], ops.int_mm

    def counted(a: Tensor, b: Tensor) -> Tensor:
        heights.append(len(a))
        return plain(a, b)

    monkeypatch.setattr(ops, "int_mm", counted)
    codes, scale = weight(4, 10)
    activation.linear(torch.randn(6, 10), codes, scale, None, DualScale())
    assert heights == [12]
    activation.linear(torch.randn(6, 10), codes, scale, None, DualScale(), (4, 6))
    assert heights == [12, 12, 12]


@pytest.mark.parametrize("format", [INT8, INT4_ACT])
def test_two_scales_help_where_the_signs_differ(format: QType) -> None:
    x, (codes, scale) = F.silu(torch.randn(64, 256) * 2), weight(32, 256)
    exact = F.linear(x.double(), codes * scale.double()[:, None])
    errors = [
        relative(activation.linear(x, codes, scale, None, way), exact) for way in (DualScale(format), Symmetric(format))
    ]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("format", [INT8, INT4_ACT])
def test_segments_help_where_one_is_louder(format: QType) -> None:
    x, (codes, scale) = torch.randn(64, 256), weight(32, 256)
    x[:, 200:] *= 20
    codes[:, 200:] //= 20
    exact = F.linear(x.double(), codes * scale.double()[:, None])
    whole = activation.linear(x, codes, scale, None, Symmetric(format))
    parted = activation.linear(x, codes, scale, None, Symmetric(format), (200, 56))
    assert relative(parted, exact) < 0.4 * relative(whole, exact)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_numbers_that_are_not_finite_are_not_hidden(way: Activation, bad: float) -> None:
    (codes, scale), x = weight(8, 16), torch.randn(2, 16)
    x[1, 3] = bad
    out = activation.linear(x, codes, scale, None, way, (8, 8), sums(codes, (8, 8)))
    assert torch.isfinite(out[0]).all() and not torch.isfinite(out[1]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_results_have_the_type_of_the_input(way: Activation, dtype: torch.dtype) -> None:
    (codes, scale), bias = weight(8, 45), torch.randn(8, dtype=dtype)
    assert (
        activation.linear(torch.randn(3, 45, dtype=dtype), codes, scale, bias, way, (), sums(codes, (45,))).dtype
        == dtype
    )
    picture = torch.randn(2, 5, 4, 4, dtype=dtype)
    out = activation.conv2d(picture, codes, scale, bias, SHAPES[0], way, (), sums(codes, (45,)))
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)


def test_a_zero_point_without_row_sums_is_an_error() -> None:
    codes, scale = weight(4, 10)
    with pytest.raises(QuantizationError, match="row sums"):
        activation.linear(torch.randn(6, 10), codes, scale, None, Asymmetric())


@pytest.mark.parametrize(
    ("format", "dual", "lopsided", "way"),
    [
        (None, False, True, None),
        (INT8, False, True, Symmetric()),
        (INT8, True, False, Symmetric()),
        (INT8, True, True, DualScale()),
        (INT4_ACT, True, True, DualScale(INT4_ACT)),
        (INT4_ACT, False, True, Symmetric(INT4_ACT)),
        (ASYM8, False, False, Asymmetric()),
        (ASYM4, False, True, Asymmetric(ASYM4)),
    ],
)
def test_the_rule_picks_the_way(format: QType | None, dual: bool, lopsided: bool, way: Activation | None) -> None:
    assert activation_for(Rule(".*", INT8, format, dual=dual), lopsided) == way


@pytest.mark.parametrize(("format", "dual"), [(LOG4, False), (ASYM8, True)])
def test_ways_that_are_not_built_are_errors(format: QType, dual: bool) -> None:
    with pytest.raises(QuantizationError, match="choose int8"):
        activation_for(Rule(".*", INT8, format, dual=dual), True)
