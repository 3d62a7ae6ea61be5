"""Whole models rounded to what they see: better than uncalibrated, resumed pass by pass, and packed as decided."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import unfinished
from personalq.quant.apply import quantize_unet
from personalq.quant.calibrate import calibrate, columns, integer_rules, plan, rounded_state
from personalq.quant.formats import INT4, INT8
from personalq.quant.layers import PackedWeight, QConv2d, QLinear
from personalq.quant.observe import Observer, gram_bytes
from personalq.quant.recipe import recipe_named
from personalq.quant.segment import Segments
from personalq.records import Recipe, Rule

Inputs = tuple[Tensor, Tensor, Tensor]
MakeUnet = Callable[..., UNet2DConditionModel]
W4A8 = recipe_named("taq-w4a8")
KEPT = Rule(".*", None, reason="not looked at here")
MIDDLE = Recipe("middle", (Rule("mid_block", INT4, INT8, group=32), KEPT))


def seen_by(layer: nn.Module, x: Tensor, parts: tuple[int, ...] = ()) -> Observer:
    observer = Observer({"layer": layer}, {"layer": parts})
    with observer.watching(), torch.no_grad():
        layer(x)
    return observer


class Runs:
    """Runs a UNet on a few inputs, and counts how often it was asked to."""

    def __init__(self, unet: nn.Module, inputs: Inputs, stop_at: int = -1) -> None:
        self.unet, self.inputs, self.count, self.stop_at = unet, inputs, 0, stop_at

    @torch.no_grad()
    def __call__(self, observer: Observer) -> None:
        if self.count == self.stop_at:
            raise KeyboardInterrupt
        self.count += 1
        latents, _, text = self.inputs
        for step in (100, 500, 900):
            self.unet(latents, torch.tensor(step), text)


def error(unet: nn.Module, reference: nn.Module, inputs: Inputs) -> float:
    latents, step, text = inputs
    with torch.no_grad():
        out, wanted = (model(latents, step, text).sample for model in (unet, reference))
    return float((out - wanted).norm() / wanted.norm())


def test_a_calibrated_unet_is_closer_than_one_rounded_to_nearest(
    make_unet: MakeUnet, inputs: Inputs, tmp_path: Path
) -> None:
    reference, plain, fitted = make_unet(), make_unet(), make_unet()
    before = {name: tensor.clone() for name, tensor in fitted.state_dict().items()}
    rounded = calibrate(fitted, W4A8, Runs(fitted, inputs), tmp_path, "these")
    assert all(torch.equal(tensor, before[name]) for name, tensor in fitted.state_dict().items())
    assert not any(module._forward_pre_hooks for module in fitted.modules())
    quantize_unet(plain, W4A8)
    report = quantize_unet(fitted, W4A8, calibrated=rounded)
    assert set(rounded) == {layer.name for layer in report.layers if layer.format}
    assert error(fitted, reference, inputs) < 0.9 * error(plain, reference, inputs)
    assert report.stored_bytes == quantize_unet(make_unet(), W4A8).stored_bytes


def test_a_stopped_run_goes_on_after_its_last_pass(make_unet: MakeUnet, inputs: Inputs, tmp_path: Path) -> None:
    unet = make_unet()
    budget = max(gram_bytes(unet.get_submodule(name)) for name in integer_rules(unet, MIDDLE))
    groups = plan(unet, MIDDLE, budget)
    assert len(groups) > 3 and sum(len(names) for names in groups) == len(integer_rules(unet, MIDDLE))
    with pytest.raises(KeyboardInterrupt):
        calibrate(unet, MIDDLE, Runs(unet, inputs, stop_at=3), tmp_path, "these", budget=budget)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"rounded-000{i}.safetensors" for i in range(3)]
    runs, names = Runs(unet, inputs), []
    rounded = calibrate(
        unet, MIDDLE, runs, tmp_path, "these", budget=budget, on_progress=lambda done, total, name: names.append(name)
    )
    assert runs.count == len(groups) - 3 and names == [name for group in groups[3:] for name in group]
    whole = calibrate(unet, MIDDLE, Runs(unet, inputs), tmp_path / "whole", "these")
    for name in whole:
        assert all(torch.equal(rounded[name][key], tensor) for key, tensor in whole[name].items()), name


def test_statistics_that_were_not_rounded_are_not_collected_again(
    make_unet: MakeUnet, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = make_unet()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("personalq.quant.calibrate.rounded_state", stop)
        calibrate(unet, MIDDLE, Runs(unet, inputs), tmp_path, "these")
    assert [path.name for path in tmp_path.iterdir()] == ["statistics-0000.safetensors"]
    runs = Runs(unet, inputs)
    calibrate(unet, MIDDLE, runs, tmp_path, "these")
    assert runs.count == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rounded-0000.safetensors"]


def test_what_was_made_from_something_else_is_made_again(
    make_unet: MakeUnet, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personalq.quant.adaround.STEPS", 4)
    unet = make_unet()
    small = Recipe("small", (Rule("mid_block.*to_q", INT8, INT8), KEPT))
    for made_from, recipe, method, again in (
        ("these", small, "gptq", 1),
        ("these", small, "gptq", 0),
        ("others", small, "gptq", 1),
        ("others", small, "adaround", 1),
        ("others", replace(small, rules=(Rule("mid_block.*to_q", INT4, INT8, 32), KEPT)), "adaround", 1),
    ):
        runs = Runs(unet, inputs)
        calibrate(unet, recipe, runs, tmp_path, made_from, method=method)
        assert runs.count == again


@pytest.mark.parametrize(
    ("layer", "x", "segments"),
    [
        (nn.Linear(96, 8), torch.randn(300, 96), Segments((32, 64), after="gelu")),
        (nn.Conv2d(12, 8, 3, padding=1), torch.randn(4, 12, 9, 9), Segments((4, 8), after="silu")),
        (nn.Conv2d(12, 8, 1), torch.randn(8, 12, 9, 9), Segments((4, 8), outputs=(3, 5))),
    ],
    ids=["linear", "convolution", "outputs"],
)
@torch.no_grad()
def test_segments_smoothing_and_dual_scales_are_rounded_to_what_they_multiply(
    layer: QLinear | QConv2d, x: Tensor, segments: Segments
) -> None:
    torch.manual_seed(0)
    channel = 1 if isinstance(layer, nn.Conv2d) else -1
    mix = torch.randn(x.shape[channel], x.shape[channel]) / x.shape[channel] ** 0.5
    x = (x.movedim(channel, -1) @ mix + 0.5).movedim(-1, channel)
    rule = Rule(".*", INT4, INT8, group=32, segments=True, dual=True)
    smoothing = torch.rand(len(segments.outputs) or 1, x.shape[channel]) * 3 + 0.2
    kind = QConv2d if isinstance(layer, nn.Conv2d) else QLinear
    seen = seen_by(layer, x, segments.inputs).statistics["layer"]
    state = rounded_state(layer, rule, seen, segments, smoothing)
    fitted, plain = kind.from_packed(layer, rule, state, segments), kind.from_float(layer, rule, segments, smoothing)
    assert torch.equal(fitted.smoothing, smoothing)
    wanted = layer(x)
    assert (fitted(x) - wanted).norm() < 0.85 * (plain(x) - wanted).norm()


def test_factors_follow_the_columns_of_the_packed_rows() -> None:
    factors = torch.tensor([1.0, 2.0, 3.0])
    conv = nn.Conv2d(3, 1, (1, 2))
    assert columns(factors, conv, ()).tolist() == [1, 2, 3, 1, 2, 3]
    assert columns(factors, conv, (1, 2)).tolist() == [1, 1, 2, 3, 2, 3]
    assert columns(factors, nn.Linear(3, 1), ()).tolist() == [1, 2, 3]


def test_packed_layers_are_what_the_files_hold(make_unet: MakeUnet, inputs: Inputs, tmp_path: Path) -> None:
    unet = make_unet()
    rounded = calibrate(unet, MIDDLE, Runs(unet, inputs), tmp_path, "these")
    quantize_unet(unet, MIDDLE, calibrated=rounded)
    for name, module in unet.named_modules():
        if isinstance(module, PackedWeight):
            assert all(torch.equal(getattr(module, key), tensor) for key, tensor in rounded[name].items()), name


def test_what_cannot_be_calibrated_raises(make_unet: MakeUnet, inputs: Inputs, tmp_path: Path) -> None:
    unet = make_unet()
    with pytest.raises(QuantizationError, match="gptq, adaround"):
        calibrate(unet, MIDDLE, Runs(unet, inputs), tmp_path, "these", method="brecq")
    with pytest.raises(QuantizationError, match="was never run"):
        calibrate(unet, MIDDLE, lambda observer: None, tmp_path, "these")
    assert not list(tmp_path.iterdir())
    calibrate(unet, MIDDLE, Runs(unet, inputs), tmp_path, "these")
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(QuantizationError, match="damaged"):
        calibrate(unet, MIDDLE, Runs(unet, inputs), tmp_path, "these")


def test_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    unfinished.write(path, {"x/codes": torch.ones(2), "xy/codes": torch.zeros(2)}, "these", {"note": "1"})
    assert unfinished.is_from(path, "these") and not unfinished.is_from(path, "others")
    tensors, notes = unfinished.read(path, "x/")
    assert tensors.keys() == {"codes"} and torch.equal(tensors["codes"], torch.ones(2)) and notes["note"] == "1"

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(unfinished, "save_file", fail)
    with pytest.raises(QuantizationError, match="no space"):
        unfinished.write(path, {"x/codes": torch.zeros(2)}, "others")
    assert unfinished.is_from(path, "these")
