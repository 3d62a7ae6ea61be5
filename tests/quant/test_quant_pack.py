import pytest
import torch

from personalq.errors import QuantizationError
from personalq.quant.pack import SHRINK, Int4Weight, fitting_group, pack_int4, pack_int8, unpack_int4


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(48, 320, generator=torch.Generator().manual_seed(0)) * 0.05


def test_int8_is_close_and_per_channel(weight: torch.Tensor) -> None:
    weight[3] *= 1000  # a large channel must not cost the others
    packed = pack_int8(weight)
    assert packed.codes.dtype == torch.int8 and packed.scale.shape == (48,)
    assert packed.codes.min() >= -127
    restored = packed.codes.float() * packed.scale[:, None]
    assert relative(restored, weight) < 0.012
    assert relative(restored[:3], weight[:3]) < 0.012


def full_search(row: torch.Tensor) -> float:
    errors = []
    for shrink in SHRINK:
        scale = row.abs().max() * shrink / 127
        errors.append(((row / scale).round().clamp(-127, 127) * scale - row).square().sum().item())
    return min(errors)


def test_int8_search_stops_early_without_missing_the_best(weight: torch.Tensor) -> None:
    assert len(SHRINK) == 80
    weight[0, 0] = 1.0  # an outlier: the best clip is far below the maximum's
    weight[1] = torch.randn(320).sign() * 0.1  # two levels: the best clip is none
    packed = pack_int8(weight)
    errors = (packed.codes.float() * packed.scale[:, None] - weight).square().sum(1)
    for row in range(0, 48, 5):
        assert errors[row].item() == pytest.approx(full_search(weight[row]), rel=1e-4, abs=1e-12)
    assert packed.scale[1] * 127 == pytest.approx(0.1)


def test_int8_search_beats_plain_rounding_on_heavy_tails() -> None:
    weight = torch.distributions.StudentT(3.0).sample((32, 512))
    plain_scale = weight.abs().amax(1, keepdim=True) / 127
    plain = (weight / plain_scale).round() * plain_scale
    packed = pack_int8(weight)
    assert relative(packed.codes * packed.scale[:, None], weight) < relative(plain, weight)


def test_int4_round_trip_is_exact() -> None:
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 16, (5, 3, 8), dtype=torch.uint8, generator=generator)
    gamma = torch.randint(1, 18, (5, 3), dtype=torch.uint8, generator=generator)
    offset = (127 - 15 * gamma.int()).clamp_max(-4).clamp_min(-128).to(torch.int8)
    gamma[0], offset[0] = 17, -128  # the widest group: -128 to 127
    packed = Int4Weight(codes[..., :4] | codes[..., 4:] << 4, gamma, offset, torch.ones(5))
    expected = codes.int() * gamma.int()[..., None] + offset.int()[..., None]
    assert expected.min() >= -128 and expected.max() <= 127
    assert torch.equal(unpack_int4(packed, 24).int(), expected.flatten(1))


def test_int4_finds_weights_that_it_can_hold() -> None:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 16, (6, 4, 64), generator=generator)
    codes[..., 0], codes[..., 1] = 0, 15
    gamma = torch.randint(6, 16, (6, 4, 1), generator=generator)
    values = (codes * gamma - 7 * gamma).flatten(1)
    values[:, 0] = -127  # fixes the first stage's scale at one
    packed = pack_int4(values.float(), 64)
    assert torch.equal(packed.scale, torch.ones(6))
    assert torch.equal(unpack_int4(packed, 256)[:, 64:].int(), values[:, 64:].int())


def test_int4_is_close_and_costs_four_and_a_quarter_bits(weight: torch.Tensor) -> None:
    weight += 0.02  # asymmetric
    packed = pack_int4(weight, 64)
    restored = unpack_int4(packed, 320).float() * packed.scale[:, None]
    assert relative(restored, weight) < 0.10
    assert sum(t.nbytes for t in packed) == 48 * (320 // 2 + 2 * 320 // 64 + 4)


@pytest.mark.parametrize(
    ("inputs", "groups", "group"), [(100, 2, 64), (27, 1, 28), (64, 1, 64), (65, 2, 64), (1, 1, 2)]
)
def test_int4_pads_sizes_that_the_group_does_not_divide(inputs: int, groups: int, group: int) -> None:
    weight = torch.randn(4, inputs, generator=torch.Generator().manual_seed(4))
    assert fitting_group(inputs, 64) == group
    packed = pack_int4(weight, 64)
    assert packed.codes.shape == (4, groups, group // 2)
    assert sum(t.nbytes for t in packed) == 4 * (groups * (group // 2 + 2) + 4)
    restored = unpack_int4(packed, inputs).float() * packed.scale[:, None]
    assert restored.shape == weight.shape
    assert relative(restored, weight) < 0.12


def test_blocks_change_nothing(weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, whole4 = pack_int8(weight), pack_int4(weight, 64)
    monkeypatch.setattr("personalq.quant.pack.BLOCK_ELEMENTS", 1000)
    for one, many in zip([*whole, *whole4], [*pack_int8(weight), *pack_int4(weight, 64)], strict=True):
        assert torch.equal(one, many)


def test_zero_rows_stay_zero() -> None:
    weight = torch.zeros(3, 64)
    assert not pack_int8(weight).codes.any()
    packed = pack_int4(weight, 64)
    assert not (unpack_int4(packed, 64).float() * packed.scale[:, None]).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_weights_raise(weight: torch.Tensor, bad: float) -> None:
    weight[7, 9] = bad
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        pack_int8(weight)
    with pytest.raises(QuantizationError, match="NaN or infinite"):
        pack_int4(weight, 64)


def test_groups_and_shapes_that_cannot_be_packed_raise(weight: torch.Tensor) -> None:
    for group in (0, 1, 63):
        with pytest.raises(QuantizationError, match="even number"):
            pack_int4(weight, group)
    with pytest.raises(QuantizationError, match="no elements"):
        pack_int8(torch.empty(0, 4))
