"""The footprint benchmark on tiny shapes: what is counted, who takes turns, what is said of what was not measured."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from personalq.bench import footprint as module
from personalq.bench import footprint_process, held
from personalq.bench.footprint import as_text, footprint, groups, in_fresh_process
from personalq.bench.footprint_process import OWN, STOCK, interleaved
from personalq.bench.held import KNOWN, Setting, hold, prefill, twin
from personalq.errors import BenchError, QuantizationError
from personalq.quant.apply import Report, quantize_unet, stored_bytes
from personalq.quant.recipe import recipe_named

KEYS = {
    "device", "architecture", "precision", "stored_bytes", "fp16_bytes", "peak_load_bytes", "step_seconds",
    "reference_step_seconds", "swap_ms", "full_precision_layers",
}  # fmt: skip
TINY = Setting("tiny", "cpu", 8, seed=0, rank=0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process: peaks then hold what came before, and everything else is as it is."""
    monkeypatch.setattr(module, "in_fresh_process", lambda work, *given: work(*given))


@pytest.mark.usefixtures("here")
def test_a_precision_has_every_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint_process, "SWAPS", 2)
    row = footprint("tiny", "taq-w8a8", "cpu", steps=2, rank=2)
    assert row.keys() >= KEYS
    assert row["device"].startswith("cpu")
    assert (row["architecture"], row["precision"], row["latent"], row["text_rows"]) == ("tiny", "taq-w8a8", 8, 77)
    assert row["fp16_bytes"] == 2 * 1_432_388
    assert row["stored_bytes"] == stored_bytes(hold(TINY, "taq-w8a8").model)
    assert 1.8 < row["compression"] == round(row["fp16_bytes"] / row["stored_bytes"], 3)
    assert row["step_seconds"]["p95"] >= row["step_seconds"]["p50"] > 0
    assert row["reference_step_seconds"]["p50"] > 0
    assert row["own_attention_step_seconds"]["p50"] > 0
    assert row["step_ratio"] > 0
    assert 0 < row["output_error"] < 0.2
    assert [phase["phase"] for phase in row["phases"]] == ["load", "load stored", "prefill", "step"]
    assert all("VmHWM" in phase["how_measured"] or "began" in phase["how_measured"] for phase in row["phases"])
    assert row["swap_ms"] > 0
    assert row["checkpoints_per_gb"] > 0
    kept = {layer["name"]: layer["reason"] for layer in row["full_precision_layers"]}
    assert {"conv_in", "conv_out", "conv_norm_out"} <= kept.keys()
    assert all(kept.values())
    assert sum(row["layer_kernels"].values()) > 50
    assert row["operations"]
    assert row["notes"] == []


@pytest.mark.usefixtures("here")
def test_several_precisions_take_turns_with_one_reference() -> None:
    told: list[tuple[int, int, str]] = []
    result = footprint("tiny", "reference, rtn-w4a8", "cpu", 2, rank=0, on_progress=lambda *step: told.append(step))
    reference, packed = result["rows"]
    assert packed["reference_step_seconds"] == reference["reference_step_seconds"] == reference["step_seconds"]
    assert (reference["compression"], reference["step_ratio"], reference["output_error"]) == (1, 1, 0)
    assert packed["compression"] > 3
    assert packed["swap_ms"] is None
    assert [(done, total) for done, total, _ in told] == [(0, 3), (1, 3), (2, 3)]
    text = as_text(result)
    assert "rtn-w4a8: 2 layers stay at 16 bits, 9,352 bytes: first and last layer" in text
    assert "rtn-w4a8: packed layers multiplied " in text
    assert "reference: most of a step is aten::" in text
    assert "latents 8 x 8, batch 2, 77 text tokens" in text


@pytest.mark.usefixtures("here")
def test_without_steps_there_are_no_times_and_the_reason_is_given() -> None:
    row = footprint("tiny-flux", "rtn-w8a8", "cpu", steps=0, rank=0)
    assert row["step_seconds"] == row["reference_step_seconds"] == {"p50": None, "p95": None}
    assert row["step_ratio"] is row["operations"] is None
    assert [phase["phase"] for phase in row["phases"]] == ["load", "load stored"]
    assert "no steps were asked for" in row["notes"][0]
    assert "–" in as_text(row)


@pytest.mark.usefixtures("here")
def test_a_reference_that_does_not_fit_beside_it_is_null_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "groups", lambda rows, whole: [(list(rows), False)])
    row = footprint("tiny-sd3", "rtn-w8a8", "cpu", steps=1, rank=0)
    assert row["step_seconds"]["p50"] > 0
    assert row["reference_step_seconds"] == {"p50": None, "p95": None}
    assert row["step_ratio"] is row["output_error"] is None
    assert "no reference: 0.0 GB at 16 bits do not fit" in row["notes"][0]


@pytest.mark.usefixtures("here")
def test_a_simulated_precision_is_said_to_be() -> None:
    row = footprint("tiny", "taq-w8a4", "cpu", steps=1, rank=0)
    assert "int8 products" in row["simulated"]
    assert "its time means nothing" in row["notes"][-1]
    assert "taq-w8a4 (simulated)" in as_text(row)


# --- who runs with whom ------------------------------------------------------------------------


def measured(stored: int, free: int, step: int = 0) -> dict[str, Any]:
    return {"stored_bytes": stored, "available_bytes": free, "phases": [{"phase": "step", "peak_bytes": step}]}


@pytest.mark.parametrize(
    ("free", "found"),
    [
        (2000, [(["reference", "a", "b"], True)]),
        (1900, [(["a"], True), (["b"], True), (["reference"], True)]),
        (1600, [(["a"], False), (["b"], True), (["reference"], True)]),
        (1000, [(["a"], False), (["b"], False), (["reference"], True)]),
    ],
)
def test_as_many_are_held_together_as_fit(free: int, found: list[tuple[list[str], bool]]) -> None:
    rows = {"reference": measured(1000, free), "a": measured(500, free, step=550), "b": measured(250, free, step=100)}
    assert groups(rows, 1000) == found


def test_turns_rotate_and_every_contestant_has_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[nn.Module] = []

    def timed(step: partial[Any], device: torch.device) -> tuple[float, float]:
        order.append(step.func)
        return 1.0, 2.0

    monkeypatch.setattr(footprint_process, "_timed", timed)
    found = interleaved(TINY._replace(latent=16), ["rtn-w8a8"], True, 3)  # as many tokens as are attended to in blocks
    assert list(found["wall"]) == [STOCK, OWN, "rtn-w8a8"]
    assert found["wall"]["rtn-w8a8"] == [1.0] * 3
    assert found["processor"][OWN] == [2.0] * 3
    stock, own, packed = order[:3]
    assert order == [stock, own, packed, own, packed, stock, packed, stock, own]
    assert found["errors"][STOCK] == 0 < found["errors"][OWN] < 0.02 < found["errors"]["rtn-w8a8"] < 0.2


def test_an_output_that_is_not_finite_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    right = held.filling

    def wrong(device: torch.device, seed: int) -> Any:
        fill = right(device, seed)

        def materialize(name: str, layer: nn.Module) -> None:
            fill(name, layer)
            if name == "conv_out":
                layer.bias.fill_(torch.inf)

        return materialize

    monkeypatch.setattr(held, "filling", wrong)
    with pytest.raises(BenchError, match=r"reference, reference with our attention: .* not finite"):
        interleaved(TINY, [], True, 1)


# --- one denoiser ------------------------------------------------------------------------------


def test_layers_are_packed_one_by_one_into_what_packing_the_whole_model_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    by_layer, floats = hold(TINY, "taq-w4a8"), list[int]()

    def whole(model: nn.Module) -> Report:
        floats.append(sum(not parameter.is_meta for parameter in model.parameters()))
        return quantize_unet(model, recipe_named("taq-w4a8"))

    monkeypatch.setitem(KNOWN, "taq-w4a8", replace(KNOWN["taq-w4a8"], quantize=whole))
    at_once = hold(TINY, "taq-w4a8")
    assert floats[0] > 100
    assert by_layer.report == at_once.report
    given = TINY.inputs()
    with torch.no_grad():
        outputs = []
        for each in (by_layer, at_once):
            with each.attention():
                outputs.append(each.model(**given, return_dict=False)[0])
    assert torch.equal(*outputs)


def test_a_model_that_must_be_whole_first_needs_the_memory_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "free_bytes", lambda device: 2_000_000)
    assert hold(TINY, "rtn-w8a8").report
    with pytest.raises(BenchError, match=r"reference needs all 0\.0 GB of tiny"):
        hold(TINY, "reference")


def test_prefill_leaves_no_text_to_project_in_a_step() -> None:
    at, given, projected = hold(TINY, "taq-w8a8"), TINY.inputs(), list[nn.Module]()
    for name, layer in at.model.named_modules():
        if name.endswith("attn2.to_k"):
            layer.register_forward_hook(lambda layer, *_: projected.append(layer))
    with torch.no_grad(), at.attention() as cache:
        assert cache.protected.tolist() == [[False] * 77, [False] * 5 + [True] * 3 + [False] * 69]
        prefill(at.model, cache, given["encoder_hidden_states"])
        layers = len(projected)
        assert layers == len(cache.kept) == len(set(projected)) > 0
        at.model(**given, return_dict=False)
    assert len(projected) == layers


def test_a_twin_shares_tensors_and_attends_on_its_own() -> None:
    model = hold(TINY, "reference").model
    other = twin(model)
    assert [p.data_ptr() for p in model.parameters()] == [p.data_ptr() for p in other.parameters()]
    before = dict(model.attn_processors)
    other.set_attn_processor(object())
    assert model.attn_processors == before


def test_every_kind_of_denoiser_runs_at_our_precisions_with_its_own_attention() -> None:
    for name in ("tiny-sd3", "tiny-flux"):
        setting = TINY._replace(architecture=name)
        found = interleaved(setting, ["taq-w8a8"], True, 1)
        assert found["errors"][OWN] < 0.01 < found["errors"]["taq-w8a8"] < 0.3


# --- fresh processes and bad input -------------------------------------------------------------


def test_a_fresh_process_gives_back_results_and_typed_errors_and_its_death_is_told() -> None:
    assert in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(BenchError, match="want of memory"):
        in_fresh_process(os._exit, 9)
    with pytest.raises(QuantizationError, match="Unknown precision 'w3a8'"):
        in_fresh_process(hold, TINY, "w3a8")


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        (("sd4", "nf4"), BenchError, "No architecture"),
        (("tiny", "w3a8"), QuantizationError, "Unknown precision"),
        (("tiny", " , "), BenchError, "one or more different precisions"),
        (("tiny", "nf4,nf4"), BenchError, "one or more different precisions"),
        (("tiny", "nf4", "cpu", -1), BenchError, "zero or more"),
        (("tiny", "nf4", "tpu"), BenchError, "no device 'tpu'"),
        (("sdxl", "nf4", "cpu", 1, 30), BenchError, "multiple of 4"),
    ],
)
def test_bad_input_is_refused_before_anything_is_built(asked: tuple[Any, ...], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        footprint(*asked)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_cuda_peaks_are_the_allocators() -> None:
    row = footprint("tiny", "taq-w8a8", "cuda", steps=2, rank=0)
    assert row["stored_bytes"] <= row["peak_load_bytes"]
    assert "CUDA allocator" in row["phases"][0]["how_measured"]
    assert row["reference_step_seconds"]["p50"] > 0
