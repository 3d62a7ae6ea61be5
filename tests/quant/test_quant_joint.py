"""Trigger-aware joint attention: what is protected stays exact, what is not is rounded, and the rest is left alone."""

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from tiny_pipelines import flux_transformer, sd3_transformer, unet
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.apply import quantize_unet
from personalq.quant.formats import INT4, INT4_ACT, INT4_ROWS, INT8, LINEAR8, LOG4
from personalq.quant.joint import TriggerAwareJoint, fused_attention, fused_attention_reference, rounded
from personalq.quant.layers import PackedWeight, QLinear
from personalq.quant.recipe import recipe_named, rules_for
from personalq.quant.rules_joint import joint_rules
from personalq.quant.trigger import quantize_probabilities
from personalq.records import QType, Recipe, Rule

TAQ = recipe_named("taq-w8a8")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
B, H, N, L, D, M = 2, 3, 30, 20, 16, 64

Inputs = tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def inputs(request: pytest.FixtureRequest) -> Inputs:
    return made(request.param)


def made(dtype: torch.dtype, device: str = "cpu") -> Inputs:
    generator = torch.Generator().manual_seed(0)
    query, *others = (torch.randn(B, H, n, D, generator=generator) for n in (L + N, N, N, L, L))
    key, value, text_key, text_value = (t.to(device, dtype) for t in others)
    text_key[:, :, 0] *= 20
    return (query * 2).to(device, dtype), (key, value), (text_key, text_value)


def mask(*rows: tuple[int, ...]) -> Tensor:
    protected = torch.zeros(len(rows), L, dtype=torch.bool)
    for sample, tokens in enumerate(rows):
        protected[sample, list(tokens)] = True
    return protected


def run(recipe: Recipe, inputs: Inputs, protected: Tensor) -> Tensor:
    aware = TriggerAwareJoint(recipe)
    return aware.attend(*inputs, aware.rows(protected))


def plain(inputs: Inputs) -> Tensor:
    query, picture, text = inputs
    key, value = (torch.cat(pair, 2) for pair in zip(text, picture, strict=True))
    return F.scaled_dot_product_attention(query, key, value)


def error(out: Tensor, inputs: Inputs) -> float:
    exact = plain((inputs[0].float(), *(tuple(t.float() for t in pair) for pair in inputs[1:])))
    return float((out.float() - exact).norm() / exact.norm())


# --- attention ---------------------------------------------------------------------------------


def test_all_protected_rows_equal_full_precision(inputs: Inputs) -> None:
    everything = torch.ones(B, L, dtype=torch.bool)
    assert torch.equal(run(TAQ, inputs, everything), plain(inputs))
    bare = dataclasses.replace(TAQ, text_rows=None)
    assert torch.equal(run(bare, inputs, mask((), ())), plain(inputs))


def test_unprotected_rows_are_rounded_but_little(inputs: Inputs) -> None:
    nothing = error(run(TAQ, inputs, mask((), ())), inputs)
    assert 0 < nothing < 0.03
    four = dataclasses.replace(TAQ, text_rows=INT4_ROWS, probabilities=LOG4)
    coarse = error(run(four, inputs, mask((), ())), inputs)
    assert 2 * nothing < coarse < 0.4
    some = error(run(four, inputs, mask(tuple(range(10)), tuple(range(10)))), inputs)
    assert some < 0.9 * coarse


def test_the_attention_is_that_of_the_rounded_rows_and_probabilities() -> None:
    query, picture, text = made(torch.float32)
    kept = mask((2, 5), ())[:, None, :, None]
    for format in (LINEAR8, LOG4):
        out = run(dataclasses.replace(TAQ, probabilities=format), (query, picture, text), mask((2, 5), ()))
        key, value = rounded(text[0], kept, -1, INT8), rounded(text[1], kept, -2, INT8)
        weights = (query * D**-0.5 @ torch.cat([key, picture[0]], 2).mT).softmax(-1)
        of_text, of_picture = weights[..., :L], weights[..., L:]
        columns = kept.mT.expand_as(of_text)
        rest = quantize_probabilities(torch.where(columns, 0, of_text), format)
        expected = torch.where(columns, of_text, rest) @ value + of_picture @ picture[1]
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_rows_may_be_rounded_and_probabilities_not(inputs: Inputs) -> None:
    rows_only = dataclasses.replace(TAQ, probabilities=None)
    query, picture, text = inputs
    kept = mask((1,), (0, 3))[:, None, :, None]
    key, value = rounded(text[0], kept, -1, INT8), rounded(text[1], kept, -2, INT8)
    expected = plain((query, picture, (key.to(query.dtype), value.to(query.dtype))))
    assert torch.equal(run(rows_only, inputs, mask((1,), (0, 3))), expected)


@pytest.mark.parametrize("format", [INT8, INT4_ROWS])
def test_protected_rows_stay_as_they_are_and_set_no_scale(format: QType) -> None:
    x = torch.randn(B, H, L, D)
    kept = mask((4,), ())[:, None, :, None]
    x[0, :, 4] = 1000
    for dim in (-1, -2):
        got = rounded(x, kept, dim, format)
        assert torch.equal(got[0, :, 4], x[0, :, 4])
        others = torch.cat([got[:, :, :4], got[:, :, 5:]], 2)
        exact = torch.cat([x[:, :, :4], x[:, :, 5:]], 2)
        assert 0 < (others - exact).abs().max() < 4 / format.qmax


def test_the_pictures_columns_are_left_alone() -> None:
    """With the text far away all attention is the picture's, and exact."""
    query, picture, text = made(torch.float32)
    far = (text[0] * 0, text[1])
    inputs = (query * 100, picture, far)
    coarse = dataclasses.replace(TAQ, text_rows=INT4_ROWS, probabilities=LOG4)
    torch.testing.assert_close(run(coarse, inputs, mask((), ())), plain(inputs), rtol=1e-4, atol=1e-4)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = made(torch.float32)
    whole = run(TAQ, inputs, mask((3,), ()))
    monkeypatch.setattr("personalq.quant.joint.QUERY_BLOCK", 7)
    torch.testing.assert_close(run(TAQ, inputs, mask((3,), ())), whole)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_fused_attention_is_the_one_that_is_written(device: str, dtype: torch.dtype) -> None:
    if device == "cpu" and dtype == torch.float16:
        pytest.skip("fp16 is not computed with on the CPU")
    query, (key, value), _ = made(dtype, device)
    out, lse = fused_attention(query, key[:, :, 2:], value[:, :, 2:])
    expected, expected_lse = fused_attention_reference(query, key[:, :, 2:], value[:, :, 2:])
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    assert lse.shape == query.shape[:3] and lse.dtype == torch.float32 and out.dtype == dtype
    torch.testing.assert_close(out, expected, **tolerance)
    torch.testing.assert_close(lse, expected_lse, **tolerance)


def test_the_mask_must_fit_and_formats_must_be_built() -> None:
    inputs = made(torch.float32)
    for wrong in (mask(()), mask((), ())[:, :5]):
        with pytest.raises(QuantizationError, match="one flag per sample"):
            run(TAQ, inputs, wrong)
    for option in ({"text_rows": INT4}, {"probabilities": INT8}):
        with pytest.raises(QuantizationError, match=r"built|choose"):
            TriggerAwareJoint(dataclasses.replace(TAQ, **option))


# --- rows through layers -----------------------------------------------------------------------


def packed(activation: QType | None = INT8, weight: QType = INT8) -> tuple[QLinear, Tensor]:
    torch.manual_seed(3)
    rule = Rule(r".*", weight, activation=activation, group=16 if weight == INT4 else None)
    x = torch.randn(B, L + N, M)
    x[..., 0] *= 30  # one loud channel costs a token its other ones
    return QLinear.from_float(nn.Linear(M, 48), rule), x


@pytest.mark.parametrize("weight", [INT8, INT4])
@torch.no_grad()
def test_protected_rows_go_through_a_layer_exactly_and_no_other_row_changes(weight: QType) -> None:
    layer, x = packed(weight=weight)
    aware = TriggerAwareJoint(TAQ)
    protected = mask((2, 5), (0,))
    out, quantised = aware.project(layer, x, aware.rows(protected)), layer(x)
    exact = F.linear(x, layer.dequantized(), layer.bias)
    full = F.pad(protected, (0, N))
    torch.testing.assert_close(out[full], exact[full])
    assert torch.equal(out[~full], quantised[~full])
    assert (quantised[full] - exact[full]).norm() > 0.01 * exact[full].norm()
    assert torch.equal(layer(x), quantised)  # nothing of it stays on the layer


@torch.no_grad()
def test_float_layers_weight_only_layers_and_no_protection_are_the_layer_itself() -> None:
    aware, calls = TriggerAwareJoint(TAQ), []
    some, none = aware.rows(mask((2,), ())), aware.rows(mask((), ()))
    layer, x = packed(activation=None)
    plain_layer, eight = nn.Linear(M, 48), packed()[0]
    eight.register_forward_hook(lambda *_: calls.append(len(eight._forward_hooks)))
    assert torch.equal(aware.project(layer, x, some), layer(x))
    assert torch.equal(aware.project(plain_layer, x, some), plain_layer(x))
    assert torch.equal(aware.project(eight, x, none), eight(x))
    assert calls == [1, 1]


@torch.no_grad()
def test_adapters_add_to_the_exact_rows() -> None:
    """As a hook on the layer, and as a module that wraps it."""
    layer, x = packed()
    aware, protected = TriggerAwareJoint(TAQ), mask((2, 5), ())
    rows = aware.rows(protected)
    expected = aware.project(layer, x, rows) + 1
    hook = layer.register_forward_hook(lambda module, args, out: out + 1)
    torch.testing.assert_close(aware.project(layer, x, rows), expected)
    hook.remove()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + 1

    torch.testing.assert_close(aware.project(Wrapped(), x, rows), expected)


# --- rules -------------------------------------------------------------------------------------


def recipe(weight: QType, activation: QType) -> Recipe:
    rest = Rule(r".*", weight, activation=activation, group=32 if weight == INT4 else None)
    return Recipe("r", rules_for(rest), text_rows=INT8, probabilities=LINEAR8)


@pytest.mark.parametrize("make", [sd3_transformer, flux_transformer])
@pytest.mark.parametrize("activation", [INT8, INT4_ACT])
def test_transformers_are_packed_with_conditions_at_eight_bits(make: object, activation: QType) -> None:
    model = make()
    report = quantize_unet(model, recipe(INT4, activation))
    formats = {layer.name: layer.format for layer in report.layers}
    kept = {name for name, format in formats.items() if format is None and "norm" not in name}
    edges = {"pos_embed", "pos_embed.proj"} if "pos_embed.proj" in formats else {"x_embedder"}
    assert kept == edges | {"context_embedder", "proj_out"}
    conditions = [n for n in formats if re.search(r"time_text_embed|norm(1|1_context|_out)?\.linear$", n)]
    assert len(conditions) > 6 and all(formats[name] == INT8 for name in conditions)
    for name, module in model.named_modules():
        if isinstance(module, PackedWeight):
            assert module.rule.activation == (INT8 if name in conditions else activation)
            assert (module.gamma is None) == (name in conditions)
    assert report.coverage > 0.9


def test_the_second_attention_of_sd35_sees_no_text_and_that_of_a_unet_nothing_else() -> None:
    for model, expected in ((sd3_transformer(), INT8), (unet(64), None)):
        quantize_unet(model, recipe(INT8, INT8))
        found = {m.rule.activation for n, m in model.named_modules() if re.search(r"attn2\.to_[kv]$", n)}
        assert found == {expected}


def test_the_rules_touch_no_layer_of_a_unet() -> None:
    rules = joint_rules(Rule(r".*", INT4))
    names = [name for name, _ in unet(64).named_modules()]
    assert not [(rule, name) for rule in rules for name in names if re.search(rule.pattern, name)]
