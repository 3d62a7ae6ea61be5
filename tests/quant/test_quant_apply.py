import copy
import dataclasses
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.apply import quantize_unet, stored_bytes
from personalq.quant.decide import NF4_REASON, NORM_REASON, TABLE_REASON
from personalq.quant.formats import INT4, INT8, LOG4
from personalq.quant.layers import PackedWeight, QConv2d, QLinear
from personalq.quant.recipe import RECIPES, recipe_named
from personalq.quant.segment import Segments
from personalq.quant.state import pack
from personalq.records import Recipe, Rule

Inputs = tuple[Tensor, Tensor, Tensor]
MakeUnet = Callable[..., UNet2DConditionModel]
INTEGER = ["taq-w8a8", "taq-w4a8", "rtn-w8a8", "rtn-w4a8"]
LIMIT = {"taq-w8a8": 0.08, "taq-w4a8": 0.4, "rtn-w8a8": 0.08, "rtn-w4a8": 0.4, "nf4": 0.4}
TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
TO_K = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "mid_block.resnets.0.conv1"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_whole_unet_runs_and_stays_close(make_unet: MakeUnet, inputs: Inputs, name: str, dtype: torch.dtype) -> None:
    unet, (latents, step, text) = make_unet(dtype), inputs
    reference = unet(latents.to(dtype), step, text.to(dtype)).sample.float()
    quantize_unet(unet, recipe_named(name))
    assert unet.dtype == dtype and unet.device == torch.device("cpu")
    out = unet(latents.to(dtype), step, text.to(dtype)).sample
    assert out.dtype == dtype
    assert 1e-3 < (out.float() - reference).norm() / reference.norm() < LIMIT[name]


@pytest.mark.parametrize("name", RECIPES)
def test_the_report_counts_what_is_held(make_unet: MakeUnet, name: str) -> None:
    unet = make_unet(torch.bfloat16)
    parameters = sum(p.numel() for p in unet.parameters())
    before = stored_bytes(unet)
    assert before == 2 * parameters
    report = quantize_unet(unet, recipe_named(name))
    assert report.fp16_bytes == before
    assert report.stored_bytes == stored_bytes(unet) == sum(layer.stored_bytes for layer in report.layers)
    held = {t.untyped_storage().data_ptr(): t.nbytes for t in (*unet.parameters(), *unet.buffers()) if t.dim()}
    scalars = sum(t.nbytes for t in unet.buffers() if not t.dim())
    if name != "nf4":
        assert report.stored_bytes == sum(held.values()) + scalars
    assert {layer.name for layer in report.layers} == {
        n for n, m in unet.named_modules() if [*m.parameters(recurse=False), *m.buffers(recurse=False)]
    }
    assert all(layer.reason for layer in report.full_precision)
    assert not any(layer.reason for layer in report.layers if layer.format)


@pytest.mark.parametrize(("name", "bits"), [("taq-w8a8", 8), ("taq-w4a8", 4)])
def test_bytes_are_those_of_the_arithmetic(make_unet: MakeUnet, name: str, bits: int) -> None:
    unet = make_unet(torch.bfloat16)
    weights = {n: m for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    packed = [n for n in weights if n not in ("conv_in", "conv_out")]
    expected = stored_bytes(unet)
    for layer in packed:
        out, width = weights[layer].weight.flatten(1).shape
        group = min(64, width)
        row = width if bits == 8 else -(-width // group) * (group // 2 + 2)
        expected += out * (row + 4 - 2 * width) + 2  # codes and scale for 16-bit weights, and the stand-in
    report = quantize_unet(unet, recipe_named(name))
    assert report.stored_bytes == expected
    assert report.fp16_bytes / report.stored_bytes > (1.7 if bits == 8 else 3)
    assert [layer.name for layer in report.layers if layer.format] == packed
    assert report.coverage > 0.9


def test_text_is_projected_with_inputs_in_16_bits(make_unet: MakeUnet) -> None:
    for name in INTEGER:
        unet = make_unet()
        quantize_unet(unet, recipe_named(name))
        text, image = unet.get_submodule(TO_K), unet.get_submodule(TO_Q)
        assert isinstance(text, QLinear) and isinstance(image, QLinear)
        assert text.rule.weight == image.rule.weight
        assert text.activation is None and image.activation is not None


@torch.no_grad()
def test_taq_and_rtn_store_the_same_weights(make_unet: MakeUnet) -> None:
    for taq, rtn in (("taq-w8a8", "rtn-w8a8"), ("taq-w4a8", "rtn-w4a8")):
        one, other = make_unet(), make_unet()
        quantize_unet(one, recipe_named(taq))
        quantize_unet(other, recipe_named(rtn))
        for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
            assert torch.equal(a, b), name


def test_nf4_takes_linears_only_and_says_so(make_unet: MakeUnet) -> None:
    unet = make_unet(torch.bfloat16)
    report = quantize_unet(unet, recipe_named("nf4"))
    assert unet.get_submodule(TO_K).weight.dtype == torch.uint8
    assert type(unet.get_submodule(CONV)) is nn.Conv2d
    assert NF4_REASON in {layer.reason for layer in report.full_precision if layer.name == CONV}
    assert 1.0 < report.fp16_bytes / report.stored_bytes < 2.0


def test_float_layers_are_freed(make_unet: MakeUnet) -> None:
    unet = make_unet()
    watched = [weakref.ref(unet.get_submodule(name)) for name in (TO_Q, CONV)]
    quantize_unet(unet, recipe_named("taq-w8a8"))
    gc.collect()
    assert [ref() for ref in watched] == [None, None]
    assert isinstance(unet.get_submodule(CONV), QConv2d)
    assert not any(p.requires_grad for p in unet.parameters())


def test_a_shared_layer_stays_shared() -> None:
    model = nn.ModuleDict({"a": nn.Linear(64, 64)})
    model["b"] = model["a"]
    report = quantize_unet(model, recipe_named("taq-w8a8"))
    assert model["a"] is model["b"] and isinstance(model["a"], QLinear)
    assert len(report.layers) == 1 and report.stored_bytes == stored_bytes(model)


def test_views_of_one_storage_are_counted_once() -> None:
    model = nn.Module()
    whole = torch.zeros(100)
    model.register_buffer("a", whole[:50])
    model.register_buffer("b", whole[50:])
    assert stored_bytes(model) == 400


def test_damaged_weights_name_their_layer(make_unet: MakeUnet) -> None:
    unet = make_unet()
    with torch.no_grad():
        unet.get_submodule(CONV).weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(QuantizationError, match=rf"{CONV}: .*NaN"):
        quantize_unet(unet, recipe_named("taq-w8a8"))


def test_what_is_not_built_raises(make_unet: MakeUnet) -> None:
    unet, recipe = make_unet(), recipe_named("taq-w8a8")
    with pytest.raises(QuantizationError, match="log4 are not built"):
        quantize_unet(unet, dataclasses.replace(recipe, rules=(Rule(".*", LOG4, INT8),)))
    assert not any(isinstance(m, QLinear) for m in unet.modules())
    with pytest.raises(QuantizationError, match="No rule"):
        quantize_unet(unet, dataclasses.replace(recipe, rules=recipe.rules[:2]))
    with pytest.raises(QuantizationError, match="Conv1d has no packed counterpart"):
        quantize_unet(nn.Sequential(nn.Conv1d(4, 4, 3)), recipe)
    with pytest.raises(QuantizationError, match="taq-w8a8"):
        recipe_named("w2a2")


@pytest.mark.parametrize("name", RECIPES)
def test_quantising_twice_raises(make_unet: MakeUnet, name: str) -> None:
    unet = make_unet()
    quantize_unet(unet, recipe_named(name))
    with pytest.raises(QuantizationError, match="already"):
        quantize_unet(unet, recipe_named(name))


# --- layer by layer ----------------------------------------------------------------------------


def reading(source: nn.Module) -> Callable[[str, nn.Module], None]:
    """Fills a layer with copies of the same layer's tensors in another model."""

    def materialize(name: str, module: nn.Module) -> None:
        for key, parameter in source.get_submodule(name).named_parameters(recurse=False):
            setattr(module, key, nn.Parameter(parameter.detach().clone(), requires_grad=False))

    return materialize


def same_state(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]) and tensor.dtype == theirs[name].dtype, name


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_packed_layer_by_layer_is_the_one_packed_whole(
    make_unet: MakeUnet, name: str, dtype: torch.dtype
) -> None:
    source, whole = make_unet(dtype), make_unet(dtype)
    empty = copy.deepcopy(source).to("meta")
    report = quantize_unet(empty, recipe_named(name), reading(source))
    assert report == quantize_unet(whole, recipe_named(name))
    same_state(empty, whole)
    assert not any(t.is_meta for t in (*empty.parameters(), *empty.buffers()))
    assert stored_bytes(empty) == report.stored_bytes


def test_each_float_layer_exists_only_while_it_is_packed(make_unet: MakeUnet) -> None:
    source = make_unet()
    empty = copy.deepcopy(source).to("meta")
    read, filled = reading(source), []

    def materialize(name: str, module: nn.Module) -> None:
        kept = ("conv_in", "conv_out", "attn2.to_k", "attn2.to_v")
        layers = {n: m for n, m in empty.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        real = [n for n, m in layers.items() if not isinstance(m, PackedWeight) and not m.weight.is_meta]
        assert not [n for n in real if not n.endswith(kept)]
        read(name, module)
        filled.append((name, sum(p.numel() for p in module.parameters(recurse=False))))

    report = quantize_unet(empty, recipe_named("taq-w8a8"), materialize)
    sizes = [size for _, size in filled]
    assert sizes == sorted(sizes, reverse=True)  # the float layer that needs most goes while least is packed
    assert sorted(name for name, _ in filled) == sorted(layer.name for layer in report.layers)
    assert [layer.name for layer in report.layers] == [n for n, m in source.named_modules() if [*m._parameters]]


def test_progress_names_every_layer_and_ends_full(make_unet: MakeUnet) -> None:
    seen: list[tuple[int, int, str]] = []
    report = quantize_unet(make_unet(), recipe_named("taq-w8a8"), on_progress=lambda *step: seen.append(step))
    total = len(report.layers)
    assert [done for done, _, _ in seen] == [*range(total), total]
    assert {of for _, of, _ in seen} == {total}
    assert {name for _, _, name in seen} == {layer.name for layer in report.layers} | {""}


def test_a_model_without_values_is_refused(make_unet: MakeUnet) -> None:
    for rules in ((Rule(".*", INT8, INT8),), (Rule(".*", None, reason="kept"),)):
        with pytest.raises(QuantizationError, match="weights are not there"):
            quantize_unet(make_unet().to("meta"), Recipe("r", rules))


def test_what_cannot_be_packed_is_known_before_anything_is(make_unet: MakeUnet) -> None:
    unet = make_unet()
    unet.conv_out = nn.Conv2d(32, 4, 3, padding=1, padding_mode="circular")  # the last layer of all
    everything = Recipe("r", (Rule(".*", INT8, INT8),))
    with pytest.raises(QuantizationError, match="conv_out: "):
        quantize_unet(unet, everything)
    assert not any(isinstance(module, PackedWeight) for module in unet.modules())


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1, 4, 4))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


def test_tables_and_norms_of_any_class_are_kept_and_counted() -> None:
    model = nn.ModuleDict({"table": Table(), "norm": Scale(), "layer": nn.Linear(4, 4)})
    report = quantize_unet(model, Recipe("r", (Rule(".*", INT8, INT8),)))
    assert [(layer.name, layer.reason) for layer in report.full_precision] == [
        ("table", TABLE_REASON),
        ("norm", NORM_REASON),
    ]
    assert report.stored_bytes == stored_bytes(model) == sum(layer.stored_bytes for layer in report.layers)


# --- packed elsewhere --------------------------------------------------------------------------

W4 = Recipe("w4", (Rule("^kept$", None, reason="kept"), Rule(".*", INT4, INT8, group=4)))


def two_layers() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"linear": nn.Linear(8, 4), "conv": nn.Conv2d(4, 8, 3), "kept": nn.Linear(8, 8)})


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_calibrated_layers_are_taken_and_the_others_searched(meta: bool, bias: bool) -> None:
    source, searched = two_layers(), two_layers()
    quantize_unet(searched, W4)
    calibrated = {name: pack(source[name], W4.rules[1]) for name in ("linear", "conv")}
    for state in calibrated.values():
        state["codes"] = state["codes"] ^ 1  # what no search would find
        if not bias:
            del state["bias"]
    del calibrated["conv"]
    model = copy.deepcopy(source).to("meta") if meta else copy.deepcopy(source)
    report = quantize_unet(model, W4, reading(source) if meta else None, calibrated)
    assert torch.equal(model["linear"].codes, searched["linear"].codes ^ 1)
    assert torch.equal(model["linear"].bias, source["linear"].bias)
    assert torch.equal(model["conv"].codes, searched["conv"].codes)
    assert [layer.format for layer in report.layers] == [INT4, INT4, None]


def test_states_that_do_not_fit_are_refused() -> None:
    state = pack(two_layers()["linear"], W4.rules[1])
    for wrong, message in (
        ({"linear": {**state, "scale": state["scale"][:2]}}, "linear: Stored scale do not fit"),
        ({"linear": {"codes": state["codes"]}}, "linear: Stored gamma, offset, scale do not fit"),
        ({"conv": state}, "conv: "),
        ({"nowhere": state}, "nowhere is no layer that w4 packs"),
        ({"kept": state}, "kept is no layer that w4 packs"),
    ):
        with pytest.raises(QuantizationError, match=message):
            quantize_unet(two_layers(), W4, calibrated=wrong)
    with pytest.raises(QuantizationError, match="linear is calibrated already"):
        quantize_unet(two_layers(), W4, calibrated={"linear": state}, smoothing={"linear": torch.ones(1, 8)})
    with pytest.raises(QuantizationError, match="nowhere is no layer"):
        quantize_unet(two_layers(), W4, segments={"nowhere": Segments((4, 4))})


@torch.no_grad()
def test_segments_and_smoothing_reach_their_layers() -> None:
    rule = Rule(".*", INT8, INT8, segments=True)
    model = two_layers()
    segments, factors = {"linear": Segments((2, 6))}, {"linear": torch.full((1, 8), 0.5)}
    quantize_unet(model, Recipe("r", (rule,)), segments=segments, smoothing=factors)
    assert model["linear"].parts == (2, 6) and model["conv"].parts == ()
    assert torch.equal(model["linear"].smoothing, factors["linear"]) and model["conv"].smoothing is None
    expected = QLinear.from_float(two_layers()["linear"], rule, Segments((2, 6)), factors["linear"])
    assert torch.equal(model["linear"].codes, expected.codes)
