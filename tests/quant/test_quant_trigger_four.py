"""Text rows at four bits, and the logarithmic quantisers beside half octaves."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.quant.formats import INT4_ROWS, LOG4, LOG8, OCTAVE4
from personalq.quant.recipe import recipe_named
from personalq.quant.trigger import TriggerAware, quantize_probabilities, quantize_rows4, unpacked

EIGHT = recipe_named("taq-w8a8")
FOUR = dataclasses.replace(EIGHT, text_rows=INT4_ROWS)
B, H, N, L, D = 2, 3, 8, 77, 20


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(B, H, n, D, generator=generator) for n in (N, L, L))
    return query, key, value


@pytest.mark.parametrize("width", [1, 2, 7, 40])
@pytest.mark.parametrize("dim", [-1, -2])
def test_codes_come_back_as_they_were_rounded(width: int, dim: int) -> None:
    x = torch.randn(2, 3, 5, width, generator=torch.Generator().manual_seed(width))
    codes, scale = quantize_rows4(x, (dim,))
    assert codes.dtype == torch.uint8 and codes.shape == (2, 3, 5, (width + 1) // 2)
    whole = unpacked(codes, width)
    assert whole.dtype == torch.int8
    assert torch.equal(whole, (x / scale).round().to(torch.int8))
    assert torch.equal(whole.abs().amax(dim), torch.full_like(whole.abs().amax(dim), 7))


def test_values_that_are_not_finite_stay_visible() -> None:
    x = torch.ones(1, 1, 2, 4)
    x[..., 0, 1] = torch.nan
    codes, scale = quantize_rows4(x, (-1,))
    back = unpacked(codes, 4) * scale
    assert back[..., 0, :].isnan().all() and torch.equal(back[..., 1, :], x[..., 1, :])


def test_rows_at_four_bits_take_half_the_bytes_and_lose_more(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value = qkv
    nothing, exact = torch.zeros(B, L, dtype=torch.bool), F.scaled_dot_product_attention(*qkv)
    errors, held = [], []
    for recipe in (EIGHT, FOUR):
        aware = TriggerAware(dataclasses.replace(recipe, probabilities=None))
        kv = aware.project(key, value, nothing)
        held.append(kv.key_codes.nbytes + kv.value_codes.nbytes)
        errors.append(float((aware.attend(query, kv) - exact).norm() / exact.norm()))
    assert held == [2 * B * H * L * D, B * H * L * D]
    assert 4 * errors[0] < errors[1] < 0.3


def test_protected_rows_are_exact_beside_four_bit_ones(qkv: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value = qkv
    protected = torch.zeros(B, L, dtype=torch.bool)
    protected[0, [3, 4]] = protected[1, 9] = True  # ragged: one sample is padded
    aware = TriggerAware(FOUR)
    kv = aware.project(key, value, protected)
    assert torch.equal(kv.key[0], key[0, :, [3, 4]]) and torch.equal(kv.value[1, :, 0], value[1, :, 9])
    alone = aware.project(key[1:], value[1:], protected[1:])
    torch.testing.assert_close(aware.attend(query, kv)[1:], aware.attend(query[1:], alone), rtol=1e-3, atol=1e-5)
    everything = aware.project(key, value, torch.ones_like(protected))
    assert torch.equal(aware.attend(query, everything), F.scaled_dot_product_attention(*qkv))


def test_the_steps_of_logarithmic_formats() -> None:
    row = torch.tensor([0.5, 0.5 * 2**-0.3, 0.5 * 2**-1.0, 0.5 * 2**-14.0, 0.5 * 2**-15.0])
    whole = quantize_probabilities(row, OCTAVE4)
    torch.testing.assert_close(whole, torch.tensor([0.5, 0.5, 0.25, 0.5 * 2**-14.0, 0.0]))
    fine = quantize_probabilities(row, LOG8)
    torch.testing.assert_close(fine[1], torch.tensor(0.5 * 2**-0.25))
    generator = torch.Generator().manual_seed(1)
    weights = (torch.randn(64, L, generator=generator) * 2).softmax(-1)
    lost = [float((quantize_probabilities(weights, f) - weights).norm()) for f in (LOG8, LOG4, OCTAVE4)]
    assert 0 < lost[0] < 0.4 * lost[1] < 0.4 * lost[2]
