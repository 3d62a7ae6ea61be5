import pytest
import torch
import torch.nn.functional as F

from personalq.quant import ops
from personalq.quant.ops import ConvShape, conv2d_int8, im2col, int_mm, int_mm_reference, linear_int8, quantize_rows
from personalq.quant.pack import pack_int8

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIZES = [(1, 1, 1), (1, 64, 32), (2, 100, 7), (16, 8, 8), (17, 33, 65), (40, 576, 96)]


def codes(*shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_integer_product_is_exact(device: str, m: int, k: int, n: int) -> None:
    a, b = codes(m, k).to(device), codes(n, k).to(device)
    product = int_mm(a, b)
    assert product.dtype == torch.int32
    assert torch.equal(product.cpu(), (a.cpu().double() @ b.cpu().double().t()).int())
    assert torch.equal(product, int_mm_reference(a, b))


@pytest.mark.parametrize("sign", [1, -1])
def test_integer_product_does_not_saturate(sign: int) -> None:
    a, b = torch.full((32, 11520), 127, dtype=torch.int8), torch.full((8, 11520), sign * 127, dtype=torch.int8)
    assert torch.equal(int_mm(a, b), torch.full((32, 8), sign * 127 * 127 * 11520, dtype=torch.int32))


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_padding_for_cuda_meets_its_limits_and_is_exact(
    monkeypatch: pytest.MonkeyPatch, m: int, k: int, n: int
) -> None:
    plain = torch._int_mm

    def strict(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.shape[0] > 16 and a.shape[1] % 8 == 0 and b.shape[1] % 8 == 0
        return plain(a, b)

    monkeypatch.setattr(torch, "_int_mm", strict)
    a, b = codes(m, k), codes(n, k)
    assert torch.equal(ops._int_mm_cuda(a, b), int_mm_reference(a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_activations_are_rounded_to_the_nearest_of_255(dtype: torch.dtype) -> None:
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[2] = 0
    x[3] *= 100
    got, scale = quantize_rows(x)
    assert got.dtype == torch.int8 and scale.dtype == torch.float32
    assert got.abs().amax(1).tolist() == [127, 127, 0, 127, 127, 127]
    assert ((got * scale - x.float()).abs() <= scale * 0.5001).all()


def test_linear_equals_float64_on_the_same_integers() -> None:
    generator = torch.Generator().manual_seed(5)
    x, weight, bias = (torch.randn(*s, generator=generator) for s in ((2, 9, 100), (48, 100), (48,)))
    packed = pack_int8(weight)
    got, scale = quantize_rows(x)
    expected = F.linear((got * scale.double()), packed.codes * packed.scale.double()[:, None], bias.double())
    out = linear_int8(x, *packed, bias)
    assert out.shape == (2, 9, 48)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert ((out - F.linear(x, weight, bias)).norm() / out.norm()) < 0.02


SHAPES = [
    ConvShape((3, 3), (1, 1), (1, 1), (1, 1)),
    ConvShape((3, 3), (2, 2), (1, 1), (1, 1)),
    ConvShape((1, 1), (1, 1), (0, 0), (1, 1)),
    ConvShape((3, 5), (2, 1), (2, 3), (2, 1)),
    ConvShape((3, 3), (2, 2), (0, 0), (1, 1)),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolution_equals_float64_on_the_same_integers(shape: ConvShape, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(3, 5, 9, 8, generator=generator).contiguous(memory_format=layout)
    x[1] *= 40
    weight, bias = torch.randn(7, 5, *shape.kernel, generator=generator), torch.randn(7, generator=generator)
    packed = pack_int8(weight.permute(0, 2, 3, 1).flatten(1))
    restored = (packed.codes * packed.scale.double()[:, None]).view(7, *shape.kernel, 5).permute(0, 3, 1, 2)
    got, scale = quantize_rows(x, (1, 2, 3))
    expected = F.conv2d(got * scale.double(), restored, bias.double(), *shape[1:])
    out = conv2d_int8(x, *packed, bias, shape)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-4)
    plain = F.conv2d(x, weight, bias, *shape[1:])
    assert (out - plain).norm() / plain.norm() < 0.03
    assert (out[0] - plain[0]).norm() / plain[0].norm() < 0.03  # the loud sample does not cost the quiet one


def test_im2col_is_what_unfold_lays_out() -> None:
    image, shape = codes(2, 3, 6, 7), SHAPES[3]
    unfolded = F.unfold(image.double(), *(shape[i] for i in (0, 3, 2, 1)))
    columns = im2col(image, shape)
    expected = unfolded.view(2, 3, 15, *columns.shape[1:3]).permute(0, 3, 4, 2, 1).flatten(3)
    assert torch.equal(columns.double(), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_not_hidden(bad: float) -> None:
    packed = pack_int8(torch.randn(8, 16))
    x = torch.randn(2, 16)
    x[1, 3] = bad
    out = linear_int8(x, *packed, None)
    assert torch.isfinite(out[0]).all()
    assert not torch.isfinite(out[1]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", DEVICES)
def test_results_have_the_type_and_device_of_the_input(dtype: torch.dtype, device: str) -> None:
    packed = [t.to(device) for t in pack_int8(torch.randn(8, 45))]
    bias = torch.randn(8, device=device, dtype=dtype)
    out = linear_int8(torch.randn(3, 45, device=device, dtype=dtype), *packed, bias)
    picture = torch.randn(2, 5, 4, 4, device=device, dtype=dtype)
    conv = conv2d_int8(picture, *packed, bias, SHAPES[0])
    for tensor in (out, conv):
        assert tensor.dtype == dtype and tensor.device.type == device
