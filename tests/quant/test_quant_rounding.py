"""Rounding to what a layer sees: less output error than to nearest, in the same formats."""

import math

import pytest
import torch
from torch import Tensor

from personalq.errors import QuantizationError
from personalq.quant.adaround import adaround
from personalq.quant.pack import pack_int4, pack_int8, unpack_int4
from personalq.quant.rounding import Assign, feedback, gptq, output_error, round_int4, round_int8

METHODS = {"gptq": gptq, "adaround": adaround}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(24, 192) * 0.05


@pytest.fixture
def inputs() -> Tensor:
    """Correlated, of uneven loudness: what is drawn for fitting and for testing comes from one distribution."""
    mix = torch.randn(192, 192) / 192**0.5 + torch.eye(192) * 0.3
    return (torch.randn(4000, 192) @ mix) * torch.rand(192).add(0.1)


def halves(inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    fitted, held_out = inputs.chunk(2)
    return [fitted.T @ fitted], [held_out.T @ held_out]


def int4_values(packed: tuple[Tensor, ...]) -> Tensor:
    return unpack_int4(packed, 192).float() * packed.scale[:, None]


def int8_values(packed: tuple[Tensor, ...]) -> Tensor:
    return packed.codes.float() * packed.scale[:, None]


@pytest.mark.parametrize(("method", "gain"), [("gptq", 0.8), ("adaround", 0.85)])
def test_held_out_outputs_are_closer_than_by_rounding_to_nearest(
    weight: Tensor, inputs: Tensor, method: str, gain: float
) -> None:
    gram, held_out = halves(inputs)
    nearest = output_error(weight, int4_values(pack_int4(weight, 64)), held_out)
    assert output_error(weight, int4_values(round_int4(weight, 64, gram, METHODS[method])), held_out) < gain * nearest
    nearest = output_error(weight, int8_values(pack_int8(weight)), held_out)
    assert output_error(weight, int8_values(round_int8(weight, gram, METHODS[method])), held_out) < gain * nearest


@pytest.mark.parametrize("method", METHODS)
def test_the_formats_are_those_of_packing(weight: Tensor, inputs: Tensor, method: str) -> None:
    gram, _ = halves(inputs)
    plain8, plain4 = pack_int8(weight), pack_int4(weight, 64)
    packed8, packed4 = round_int8(weight, gram, METHODS[method]), round_int4(weight, 64, gram, METHODS[method])
    assert torch.equal(packed8.scale, plain8.scale) and packed8.codes.dtype == torch.int8
    assert packed8.codes.abs().max() <= 127 and not torch.equal(packed8.codes, plain8.codes)
    for name in ("gamma", "offset", "scale"):
        assert torch.equal(getattr(packed4, name), getattr(plain4, name))
    assert packed4.codes.shape == plain4.codes.shape and not torch.equal(packed4.codes, plain4.codes)
    assert (unpack_int4(packed4, 192).short() - unpack_int4(plain4, 192).short()).abs().max() < 255


@pytest.mark.parametrize("assign", [gptq, adaround])
def test_inputs_that_do_not_correlate_are_rounded_to_nearest(weight: Tensor, assign: Assign) -> None:
    """Without correlation there is nothing to make good, so the nearest code is the best one."""
    gram = [torch.diag(torch.rand(192) + 0.5)]
    nearest = (weight / pack_int8(weight).scale[:, None]).round().clamp(-127, 127)
    assert (round_int8(weight, gram, assign).codes == nearest).float().mean() > 0.999


@pytest.mark.parametrize("assign", [gptq, adaround])
def test_inputs_never_seen_are_rounded_to_nearest(weight: Tensor, inputs: Tensor, assign: Assign) -> None:
    silent = inputs.clone()
    silent[:, 10:20] = 0
    packed = round_int8(weight, [silent.T @ silent], assign)
    nearest = (weight / packed.scale[:, None]).round().clamp(-127, 127)
    assert (packed.codes[:, 10:20] - nearest[:, 10:20]).abs().max() <= (0 if assign is gptq else 1)
    assert torch.equal(round_int8(weight, [torch.zeros(192, 192)], gptq).codes.float(), nearest)


def test_gptq_minds_the_whole_block_and_not_one_column(weight: Tensor) -> None:
    """Two equal inputs: what rounding one of their weights costs, the other's makes good."""
    base = torch.randn(500, 96)
    x = torch.cat([base, base], 1)
    packed = int8_values(round_int8(weight, [x.T @ x]))
    nearest = int8_values(pack_int8(weight))
    sums = [values[:, :96] + values[:, 96:] for values in (packed, nearest, weight)]
    assert float((sums[0] - sums[2]).norm()) < 0.8 * float((sums[1] - sums[2]).norm())


def test_feedback_is_the_factor_of_the_damped_inverse(inputs: Tensor) -> None:
    gram = (inputs.T @ inputs).double()
    factor = feedback(gram.float()).double()
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(192)
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(192).double(), atol=1e-3, rtol=0)
    assert torch.equal(factor, factor.triu())


def test_blocks_of_the_gram_matrix_are_rounded_by_themselves(weight: Tensor, inputs: Tensor) -> None:
    gram, held_out = halves(inputs)
    blocks = [gram[0][:100, :100], gram[0][100:, 100:]]
    packed = round_int4(weight, 64, blocks)
    assert torch.equal(packed.gamma, pack_int4(weight, 64).gamma)
    whole, nearest = round_int4(weight, 64, gram), pack_int4(weight, 64)
    errors = [output_error(weight, int4_values(each), held_out) for each in (whole, packed, nearest)]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("inputs_", [27, 100])
def test_sizes_that_the_group_does_not_divide(inputs_: int) -> None:
    weight, x = torch.randn(5, inputs_), torch.randn(200, inputs_)
    packed = round_int4(weight, 64, [x.T @ x])
    assert [t.shape for t in packed] == [t.shape for t in pack_int4(weight, 64)]
    restored = unpack_int4(packed, inputs_).float() * packed.scale[:, None]
    assert float((restored - weight).norm() / weight.norm()) < 0.2


def test_output_error_is_that_of_the_outputs(weight: Tensor, inputs: Tensor) -> None:
    rounded = weight + torch.randn_like(weight) * 0.01
    expected = float((inputs @ (rounded - weight).T).norm() / (inputs @ weight.T).norm())
    assert math.isclose(output_error(weight, rounded, [inputs.T @ inputs]), expected, rel_tol=1e-4)
    assert output_error(weight, weight, [inputs.T @ inputs]) == 0


def test_what_cannot_be_rounded_raises(weight: Tensor, inputs: Tensor) -> None:
    gram, _ = halves(inputs)
    with pytest.raises(QuantizationError, match="another layer"):
        round_int8(weight[:, :100], gram)
    with pytest.raises(QuantizationError, match="damaged"):
        round_int8(weight, [-torch.ones(192, 192) + 1.5 * torch.eye(192)])
    weight[3, 4] = torch.nan
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        round_int8(weight, gram)
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        round_int4(weight, 64, gram)
