"""The fast CPU path computes what plain torch does, holds the weight once, and gives it back."""

import copy

import pytest
import torch
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import onednn, ops
from personalq.quant.apply import stored_bytes
from personalq.quant.formats import INT4, INT4_ACT, INT8
from personalq.quant.kernels import use_kernels
from personalq.quant.layers import QConv2d, QLinear
from personalq.records import Rule

needs_onednn = pytest.mark.skipif(not onednn.available(), reason="the processor has no VNNI")
W8, W4 = Rule(".*", INT8, INT8), Rule(".*", INT4, INT8, group=64)
RULES = pytest.mark.parametrize("rule", [W8, W4], ids=["int8", "int4"])
LAYERS = {
    "linear": (lambda: nn.Linear(96, 130), (3, 7, 96)),
    "no bias": (lambda: nn.Linear(320, 64, bias=False), (5, 320)),
    "conv": (lambda: nn.Conv2d(32, 72, 3, padding=1), (2, 32, 9, 6)),
    "strided": (lambda: nn.Conv2d(16, 24, 3, stride=2, padding=1), (3, 16, 8, 8)),
    "dilated": (lambda: nn.Conv2d(16, 24, (3, 1), padding=(2, 0), dilation=2, bias=False), (1, 16, 7, 5)),
    "pointwise": (lambda: nn.Conv2d(64, 40, 1, stride=2), (2, 64, 6, 6)),
}


def pair(kind: str, rule: Rule, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, Tensor]:
    """A packed layer on plain torch, the same one with a kernel, and an input."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make().to(dtype).requires_grad_(False)
    plain = (QLinear if isinstance(layer, nn.Linear) else QConv2d).from_float(layer, rule)
    fast = copy.deepcopy(plain)
    assert use_kernels(fast) == {"onednn": 1}
    return plain, fast, torch.randn(shape).to(dtype)


def error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@needs_onednn
@RULES
@pytest.mark.parametrize("kind", LAYERS)
def test_the_kernel_computes_what_plain_torch_does(kind: str, rule: Rule) -> None:
    plain, fast, x = pair(kind, rule)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)


@needs_onednn
@RULES
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_only_rounding_differs(kind: str, rule: Rule, dtype: torch.dtype) -> None:
    plain, fast, x = pair(kind, rule, dtype)
    out = fast(x)
    assert out.dtype == dtype and out.shape == plain(x).shape
    assert error(out, plain(x)) < (0.01 if dtype == torch.bfloat16 else 0.001)


@needs_onednn
@RULES
@pytest.mark.parametrize("kind", LAYERS)
def test_the_weight_is_held_once_and_given_back(kind: str, rule: Rule) -> None:
    plain, fast, _ = pair(kind, rule)
    assert fast.codes is None
    assert torch.equal(fast.int8_codes(), plain.int8_codes())
    assert fast.tensors().keys() == plain.tensors().keys()
    assert all(torch.equal(fast.tensors()[name], tensor) for name, tensor in plain.tensors().items())
    assert torch.equal(fast.dequantized(), plain.dequantized())


@needs_onednn
@RULES
def test_its_layout_costs_four_bytes_a_row_at_most(rule: Rule) -> None:
    for plain in (QLinear.from_float(nn.Linear(320, 64), rule), QConv2d.from_float(nn.Conv2d(64, 128, 3), rule)):
        before = stored_bytes(plain)
        use_kernels(plain)
        assert stored_bytes(plain) - before == (4 * len(plain.scale) if rule == W8 else 0)


@needs_onednn
def test_long_inputs_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {kind: pair(kind, rule)[1] for kind in ("linear", "conv") for rule in (W4,)}
    expected = {kind: layer(pair(kind, W4)[2]) for kind, layer in whole.items()}
    for name, size in (("PIECE", 100), ("STRIP", 1500), ("BLOCK", 64 * 64)):
        monkeypatch.setattr(onednn, name, size)
    for kind, layer in whole.items():
        torch.testing.assert_close(layer(pair(kind, W4)[2]), expected[kind])


@needs_onednn
def test_bad_numbers_are_not_hidden() -> None:
    for kind in ("linear", "conv"):
        for dtype in (torch.float32, torch.bfloat16):
            for bad in (torch.nan, torch.inf):
                _, fast, x = pair(kind, W8, dtype)
                x.view(-1)[3] = bad
                assert not torch.isfinite(fast(x)[0]).all()
    _, fast, x = pair("linear", W8)
    torch.testing.assert_close(fast(torch.zeros_like(x)), fast.bias.expand(3, 7, -1))


@needs_onednn
def test_the_largest_magnitude_is_exact_in_bfloat16() -> None:
    x = torch.tensor([[1.0, -3.0], [0.0, -0.0], [torch.nan, 1.0], [-torch.inf, 2.0]]).bfloat16()
    found = onednn.largest(x).flatten()
    assert found[:2].tolist() == [3.0, 0.0] and found[2].isnan() and found[3].isinf()


@needs_onednn
def test_inputs_of_other_kinds_stay_with_plain_torch() -> None:
    layer = nn.Linear(64, 64)
    rules = (Rule(".*", INT8, INT4_ACT), Rule(".*", INT8, None))
    model = nn.Sequential(*(QLinear.from_float(layer, rule) for rule in (*rules, W8)))
    assert use_kernels(copy.deepcopy(model), "torch") == {"torch": 3}
    assert use_kernels(model, "onednn") == {"torch": 2, "onednn": 1}
    assert use_kernels(model) == {"torch": 2, "onednn": 1}  # asked again, nothing changes


def test_a_processor_without_vnni_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "available", lambda: False)
    model = QLinear.from_float(nn.Linear(64, 64), W8)
    assert use_kernels(model) == {"torch": 1}
    with pytest.raises(QuantizationError, match="VNNI"):
        use_kernels(model, "onednn")


@RULES
@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_passes_compute_the_same(kind: str, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = ops.compiled_passes("aot_eager")  # traced and taken apart as on a GPU, but no kernels are written
    monkeypatch.setattr(ops, "compiled_passes", lambda: passes)
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make().requires_grad_(False)
    plain = (QLinear if isinstance(layer, nn.Linear) else QConv2d).from_float(layer, rule)
    compiled, x = copy.deepcopy(plain), torch.randn(shape)
    assert use_kernels(compiled, "compiled") == {"compiled": 1}
    torch.testing.assert_close(compiled(x), plain(x))
    assert torch.equal(compiled.int8_codes(), plain.int8_codes()) and stored_bytes(compiled) == stored_bytes(plain)
