import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.errors import QuantizationError
from personalq.quant.formats import INT4, INT8, LINEAR4, LINEAR8, LOG4
from personalq.quant.recipe import recipe_named
from personalq.quant.trigger import TriggerAware, quantize_probabilities
from personalq.records import Recipe

TAQ, RTN = recipe_named("taq-w8a8"), recipe_named("rtn-w8a8")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
B, H, N, L, D = 3, 4, 9, 77, 16


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def qkv(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(B, H, n, D, generator=generator) for n in (N, L, L))
    key[:, :, 0] *= 20  # the start token's outlier
    return tuple(t.to(request.param) for t in (query * 2, key, value))


def mask(*rows: tuple[int, ...]) -> Tensor:
    protected = torch.zeros(len(rows), L, dtype=torch.bool)
    for sample, tokens in enumerate(rows):
        protected[sample, list(tokens)] = True
    return protected


def run(recipe: Recipe, qkv: tuple[Tensor, Tensor, Tensor], protected: Tensor) -> Tensor:
    aware = TriggerAware(recipe)
    return aware.attend(qkv[0], aware.project(qkv[1], qkv[2], protected))


def error(out: Tensor, qkv: tuple[Tensor, Tensor, Tensor]) -> float:
    plain = F.scaled_dot_product_attention(*(t.float() for t in qkv))
    return float((out.float() - plain).norm() / plain.norm())


def test_no_protected_rows_are_plain_quantisation(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    assert 0 < error(run(TAQ, qkv, mask((), (), ())), qkv) < 0.05


def test_all_protected_rows_equal_full_precision(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    everything = torch.ones(B, L, dtype=torch.bool)
    aware = TriggerAware(TAQ)
    kv = aware.project(qkv[1], qkv[2], everything)
    assert torch.equal(kv.key, qkv[1]) and torch.equal(kv.value, qkv[2])
    assert kv.key_codes.numel() == kv.value_codes.numel() == 0
    assert torch.equal(aware.attend(qkv[0], kv), F.scaled_dot_product_attention(*qkv))


def test_protection_separates_the_two(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    aware = TriggerAware(TAQ)
    kv = aware.project(qkv[1], qkv[2], mask((5, 9), (2, 3), (0, 76)))
    assert torch.equal(kv.key[0], qkv[1][0, :, [5, 9]]) and torch.equal(kv.value[2], qkv[2][2, :, [0, 76]])
    assert kv.key.dtype == qkv[1].dtype and kv.key_codes.dtype == kv.value_codes.dtype == torch.int8
    assert kv.padding is None
    rest = torch.cat([torch.arange(5), torch.arange(6, 9), torch.arange(10, L)])
    key = (kv.key_codes * kv.key_scale)[0]
    assert ((key - qkv[1][0, :, rest].float()).abs() <= 0.501 * kv.key_scale[0]).all()
    expected = qkv[2][0, :, rest].float().abs().amax(1, keepdim=True) / 127
    torch.testing.assert_close(kv.value_scale[0], expected)


def test_a_loud_protected_value_costs_the_others_nothing(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    _, key, value = qkv
    value[:, :, 4] = 1000
    quiet = value.clone()
    quiet[:, :, 4] = 0
    aware, protected = TriggerAware(TAQ), mask((4,), (4,), (4,))
    loud = aware.project(key, value, protected)
    assert torch.equal(loud.value_codes, aware.project(key, quiet, protected).value_codes)
    plain = aware.project(key, value, mask((), (), ()))
    assert (plain.value_scale > 100 * loud.value_scale).all()


def test_samples_with_different_counts_do_not_touch_each_other(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    rows = ((), (3, 7, 8), tuple(range(40)))
    together = run(TAQ, qkv, mask(*rows))
    for sample in range(B):
        alone = run(TAQ, tuple(t[sample : sample + 1] for t in qkv), mask(rows[sample]))
        torch.testing.assert_close(together[sample : sample + 1], alone, rtol=1e-2, atol=1e-5)
    with_all = run(TAQ, qkv, mask((), (2,), tuple(range(L))))
    torch.testing.assert_close(with_all[2], F.scaled_dot_product_attention(*qkv)[2], rtol=2e-2, atol=2e-2)


def test_padded_rows_hold_nothing(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    kv = TriggerAware(TAQ).project(qkv[1], qkv[2], mask((), (3, 7), (1,)))
    assert kv.padding is not None and kv.padding.shape == (B, 1, 1, 2 + L)
    assert not kv.key[0].any() and not kv.value[0].any() and not kv.key[2, :, 1].any()
    assert not kv.key_codes[1, :, :2].any() and kv.key_codes[0].any(-1).all()
    assert torch.isinf(kv.padding).sum().item() == (2 + 0 + 1) + (0 + 2 + 1)


def test_bytes_are_those_held() -> None:
    key = torch.randn(2, H, L, D, dtype=torch.bfloat16)
    kv = TriggerAware(TAQ).project(key, key, mask((1, 2), (5, 6)))
    rows = 2 * H * (L - 2)
    assert kv.nbytes == 2 * (2 * H * 2 * D * 2) + 2 * rows * D + 4 * rows + 4 * 2 * H * D
    full = TriggerAware(recipe_named("nf4")).project(key, key, mask((), ()))
    assert full.nbytes - 4 - 4 == 2 * key.nbytes
    ragged = TriggerAware(TAQ).project(key, key, mask((), (5, 6)))
    assert ragged.padding is not None and ragged.nbytes > kv.nbytes


def test_the_mask_must_fit() -> None:
    key = torch.randn(2, H, L, D)
    for wrong in (mask(()), mask((), ())[:, :5]):
        with pytest.raises(QuantizationError, match="one flag per sample"):
            TriggerAware(TAQ).project(key, key, wrong)


def test_formats_not_built_raise() -> None:
    with pytest.raises(QuantizationError, match="text rows"):
        TriggerAware(dataclasses.replace(TAQ, text_rows=INT4))
    with pytest.raises(QuantizationError, match="probabilities"):
        TriggerAware(dataclasses.replace(TAQ, probabilities=INT8))


def test_the_source_type_survives_and_the_inputs_are_untouched(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    before = [t.clone() for t in qkv]
    out = run(TAQ, qkv, mask((1,), (), (2, 3)))
    assert out.dtype == qkv[0].dtype and out.shape == (B, H, N, D)
    assert all(torch.equal(a, b) for a, b in zip(before, qkv, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_protecting_the_rows_that_matter_helps(device: str, qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    qkv = tuple(t.float().to(device) for t in qkv)
    four = dataclasses.replace(TAQ, probabilities=LINEAR4)
    top = (qkv[0] @ qkv[1].mT).softmax(-1).sum((1, 2)).topk(8).indices
    protected = torch.zeros(B, L, dtype=torch.bool, device=device).scatter_(1, top, True)
    assert error(run(four, qkv, protected), qkv) < 0.7 * error(run(four, qkv, mask((), (), ())), qkv)


# --- probabilities -----------------------------------------------------------------------------


def maps() -> tuple[Tensor, Tensor]:
    """Maps as cross-attention has them: the start token takes most, a few tokens the rest, a long tail."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(8, 64, L, generator=generator) * 1.5
    logits[..., 0] += 7
    logits[..., 4:7] += 3
    return logits.softmax(-1), torch.randn(8, L, 32, generator=generator)


def test_half_octaves_beat_sixteen_even_steps() -> None:
    weights, values = maps()
    exact = weights @ values
    errors = {
        format.name: float((quantize_probabilities(weights, format) @ values - exact).norm() / exact.norm())
        for format in (LINEAR8, LOG4, LINEAR4)
    }
    assert 0 < errors["linear8"] < errors["linear4"]
    assert 0 < errors["log4"] < 0.6 * errors["linear4"]


def test_linear_steps_are_even_and_scaled_by_each_row() -> None:
    weights, _ = maps()
    step = weights.amax(-1, keepdim=True) / 255
    codes = quantize_probabilities(weights, LINEAR8) / step
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    assert codes.max() <= 255.01
    assert ((codes * step - weights).abs() <= 0.501 * step).all()


def test_log_steps_are_half_octaves_and_the_top_code_is_zero() -> None:
    row = torch.tensor([0.8, 0.8 * 2**-0.5, 0.3, 0.8 * 2**-7.0, 0.8 * 2**-7.5, 0.0])
    got = quantize_probabilities(row, LOG4)
    torch.testing.assert_close(got, torch.tensor([0.8, 0.8 * 2**-0.5, 0.8 * 2**-1.5, 0.8 * 2**-7.0, 0.0, 0.0]))


@pytest.mark.parametrize("format", [LINEAR8, LINEAR4, LOG4])
def test_rows_without_mass_stay_zero_and_nan_stays_visible(format: object) -> None:
    assert not quantize_probabilities(torch.zeros(2, 5), format).any()
    assert quantize_probabilities(torch.full((2, 5), torch.nan), format).isnan().all()
