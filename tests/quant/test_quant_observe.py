"""Statistics of layer inputs: what they must be for the weight rows that are packed, whatever the layer."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import observe
from personalq.quant.formats import INT8
from personalq.quant.observe import Observer, Statistics, gram_bytes, load_statistics, passes, save_statistics, spans
from personalq.quant.segment import Segments
from personalq.quant.state import Layer, weight_rows
from personalq.records import Rule

CONVOLUTIONS = [
    nn.Conv2d(6, 5, 3, padding=1),
    nn.Conv2d(6, 5, 3, stride=2, padding=1, dilation=2),
    nn.Conv2d(6, 5, (1, 3), padding=(0, 2)),
    nn.Conv2d(6, 5, 1, stride=2),
]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def watched(layer: Layer, *inputs: Tensor, **options: object) -> Statistics:
    observer = Observer({"layer": layer}, **options)
    with observer.watching():
        for x in inputs:
            layer(x)
    return observer.statistics["layer"]


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=["same", "dilated", "wide", "pointwise"])
def test_a_convolutions_gram_is_that_of_its_packed_rows(layer: nn.Conv2d) -> None:
    """Its outputs are X W^T, so the sum of their squares without bias must be tr(W H W^T)."""
    x, other = torch.randn(2, 6, 9, 8), torch.randn(1, 6, 9, 8)
    seen = watched(layer, x, other)
    rows = weight_rows(layer, Rule(".*", INT8, INT8))
    outputs = [F.conv2d(t, layer.weight, None, layer.stride, layer.padding, layer.dilation) for t in (x, other)]
    expected = sum(out.square().sum((0, 2, 3)) for out in outputs)
    torch.testing.assert_close((rows @ seen.gram[0] * rows).sum(1), expected)
    assert seen.count == sum(out[:, 0].numel() for out in outputs)


def test_segments_order_the_columns_as_the_rows_are_packed() -> None:
    layer, x = nn.Conv2d(6, 5, 3, padding=1), torch.randn(2, 6, 7, 7)
    rule, segments = Rule(".*", INT8, INT8, segments=True), Segments((2, 4))
    seen = watched(layer, x, parts={"layer": (2, 4)})
    rows = weight_rows(layer, rule, segments)
    assert not torch.equal(rows, weight_rows(layer, rule))
    expected = F.conv2d(x, layer.weight, None, padding=1).square().sum((0, 2, 3))
    torch.testing.assert_close((rows @ seen.gram[0] * rows).sum(1), expected)


def test_a_linear_layer_sees_tokens_of_any_shape_and_type() -> None:
    layer, x = nn.Linear(8, 3).bfloat16(), torch.randn(2, 5, 8).bfloat16()
    seen = watched(layer, x, x[0])
    flat = torch.cat([x.flatten(0, 1), x[0]]).float()
    torch.testing.assert_close(seen.gram[0], flat.T @ flat)
    assert torch.equal(seen.low, flat.amin(0)) and torch.equal(seen.high, flat.amax(0))
    assert torch.equal(seen.largest, flat.abs().amax(0))
    torch.testing.assert_close(seen.importance, flat.square().sum(0))
    assert seen.gram[0].dtype == torch.float32 and seen.count == 15


def test_rows_can_be_weighted() -> None:
    layer, x = nn.Linear(8, 3), torch.randn(2, 5, 8)
    weights = torch.rand(2, 5)
    seen = watched(layer, x, row_weights={"layer": weights})
    flat = x.flatten(0, 1)
    torch.testing.assert_close(seen.gram[0], flat.T @ (flat * weights.reshape(-1, 1)))


def test_many_rows_are_drawn_from_and_the_draw_repeats() -> None:
    layer, x = nn.Conv2d(4, 3, 3, padding=1), torch.randn(2, 4, 20, 20)
    whole, drawn, again = (watched(layer, x, x, rows=rows).gram[0] for rows in (800, 200, 200))
    assert torch.equal(drawn, again)
    scaled = drawn * 800 / 200
    assert 0 < float((scaled - whole).norm() / whole.norm()) < 0.3
    assert watched(layer, x, x, rows=200).count == 400


def test_wide_inputs_keep_the_blocks_on_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Linear(20, 3), torch.randn(50, 20)
    whole = watched(layer, x).gram[0]
    monkeypatch.setattr(observe, "LARGEST", 8)
    assert spans(20) == [(0, 8), (8, 16), (16, 20)]
    seen = watched(layer, x)
    for block, (start, stop) in zip(seen.gram, spans(20), strict=True):
        torch.testing.assert_close(block, whole[start:stop, start:stop])
    assert gram_bytes(layer) == sum(block.nbytes for block in seen.gram)


def test_passes_fit_their_budget_and_keep_the_order() -> None:
    layers = {name: nn.Linear(inputs, 1) for name, inputs in zip("abcde", (10, 10, 30, 5, 10), strict=True)}
    assert passes(layers, 4 * 300) == [("a", "b"), ("c",), ("d", "e")]
    assert passes(layers, 1) == [("a",), ("b",), ("c",), ("d",), ("e",)]
    assert passes({}, 100) == []


def test_the_hooks_go_with_the_observer() -> None:
    layer = nn.Linear(4, 2)
    watched(layer, torch.randn(3, 4))
    assert not layer._forward_pre_hooks


def test_overflowing_inputs_name_their_layer() -> None:
    layer = nn.Linear(4, 2)
    with pytest.raises(QuantizationError, match="layer: its inputs"):
        watched(layer, torch.tensor([[1.0, torch.inf, 0.0, 0.0]]))
    assert not layer._forward_pre_hooks


def test_statistics_come_back_from_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "LARGEST", 3)
    seen = watched(nn.Linear(8, 2), torch.randn(5, 8))
    path = tmp_path / "statistics.safetensors"
    save_statistics(path, {"mid.0": seen}, "these captions")
    (back,) = load_statistics(path).values()
    assert len(back.gram) == 3 and all(torch.equal(a, b) for a, b in zip(back.gram, seen.gram, strict=True))
    assert torch.equal(back.low, seen.low) and torch.equal(back.high, seen.high) and back.count == 5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(QuantizationError, match="damaged"):
        load_statistics(path)
