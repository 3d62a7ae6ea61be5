"""SD3 and FLUX from prompt to picture, at every precision: what is protected, what is packed, what is held."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_pipelines import flux_transformer, joint_lora_state, kohya_flux_state, lora, sd3_transformer
from torch import Tensor

from personalq.backend import compare as module
from personalq.backend.compare import compare, generate, psnr
from personalq.backend.engine import Engine
from personalq.backend.variants import VARIANTS, variant_named
from personalq.diffusion.load import denoiser
from personalq.errors import IncompatibleCheckpointError, QuantizationError
from personalq.quant.apply import stored_bytes
from personalq.records import Checkpoint, Frame, Job, Precision, Span

PROMPT = "photo of zwx dog"
JOB = Job(PROMPT, spans=(Span(9, 12, "trigger", "c"),), steps=4, width=16, height=16)
ALL: tuple[Precision, ...] = ("reference", "taq-w8a8", "rtn-w8a8", "taq-w4a8")


@pytest.fixture(scope="module", params=["sd3", "flux"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(request.getfixturevalue(f"tiny_{request.param}_folder"), "cpu", dtype=torch.float32)
    yield engine
    engine.close()


def final(frames: list[Frame]) -> Frame:
    assert frames[-1].step == frames[-1].total and frames[-1].image and frames[-1].memory
    return frames[-1]


def picture(engine: Engine, job: Job, precision: Precision) -> bytes:
    return final(list(generate(engine, job, precision))).image.tobytes()


def test_every_precision_makes_the_picture_from_the_same_noise(engine: Engine) -> None:
    frames = list(compare(engine, JOB, ALL))
    assert [(f.variant, f.step, f.total) for f in frames] == [(p, i, 4) for p in ALL for i in (1, 2, 3, 4)]
    reference, *others = (final(frames[i : i + 4]) for i in range(0, 16, 4))
    assert len({frame.image.tobytes() for frame in (reference, *others)}) == 4
    closeness = [psnr(reference.image, frame.image) for frame in others]
    assert closeness[0] > 30 and closeness[1] > 30 and closeness[2] > 20
    sizes = [frame.memory.weights_bytes for frame in (reference, *others)]
    assert sizes[0] > 2 * sizes[1] == 2 * sizes[2] > 2 * sizes[3]
    assert all(frame.memory.kv_bytes == 0 for frame in (reference, *others))


def test_the_same_seed_is_byte_identical_whatever_ran_between(engine: Engine) -> None:
    first = {precision: picture(engine, JOB, precision) for precision in ("reference", "taq-w8a8")}
    picture(engine, replace(JOB, prompt="bear on the beach", spans=(), seed=3), "taq-w4a8")
    assert first == {precision: picture(engine, JOB, precision) for precision in ("taq-w8a8", "reference")}


def test_protecting_nothing_is_plain_quantisation_and_protecting_all_text_is_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, trigger = picture(engine, JOB, "rtn-w8a8"), picture(engine, JOB, "taq-w8a8")
    assert plain != trigger
    own, shapes, fills = module.encode, [], iter((False, True))

    def encode(*args: object) -> object:
        text = own(*args)
        shapes.append(text.protected.shape)
        return replace(text, protected=torch.full_like(text.protected, next(fills)))

    monkeypatch.setattr(module, "encode", encode)
    pictures = [picture(engine, JOB, "taq-w8a8") for _ in range(2)]
    assert pictures[0] == plain and pictures[1] not in (plain, trigger)
    assert shapes[0] in ((2, 333), (1, 512))


@torch.no_grad()
def test_the_triggers_keys_and_values_are_those_of_the_dequantised_weights(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    aware, seen = variant_named("taq-w8a8").joint, []
    own = type(aware).project

    def watched(self: object, layer: object, x: Tensor, rows: object) -> Tensor:
        out = own(self, layer, x, rows)
        exact = torch.nn.functional.linear(x[rows.where], layer.dequantized(), layer.bias)
        seen.append((rows.count, float((out[rows.where] - exact).abs().max()), float((layer(x) - out).abs().max())))
        return out

    monkeypatch.setattr(type(aware), "project", watched)
    picture(engine, replace(JOB, steps=1), "taq-w8a8")
    with engine.hold(JOB, "taq-w8a8") as session:
        blocks = denoiser(session.pipe)
        layers = len(blocks.transformer_blocks) + len(getattr(blocks, "single_transformer_blocks", ()))
    assert len(seen) == 2 * layers and {count for count, _, _ in seen} == {7 if layers == 3 else 4}
    assert all(off < 1e-5 < changed for _, off, changed in seen)


def test_what_stays_in_full_precision_is_listed_with_its_reason(engine: Engine) -> None:
    with engine.hold(JOB, "taq-w4a8") as session:
        report = session.report
        assert report is not None and report.stored_bytes == stored_bytes(denoiser(session.pipe))
        assert report.coverage > 0.9 and all(layer.reason for layer in report.full_precision)
        names = {layer.name for layer in report.full_precision}
        assert {"context_embedder", "proj_out"} <= names and not any("attn" in n and "norm" not in n for n in names)


def test_a_variant_that_is_not_built_for_them_says_so(engine: Engine) -> None:
    variants = {**VARIANTS, "unets-only": replace(variant_named("taq-w8a8"), name="unets-only", joint=None)}
    other = Engine(engine.base, "cpu", torch.float32, variants)
    with pytest.raises(QuantizationError, match="unets-only is not built for SD3 and FLUX"):
        picture(other, JOB, "unets-only")
    other.close()


def test_a_whole_denoiser_replaces_the_bases_and_one_of_another_kind_does_not_fit(
    engine: Engine, tmp_path: Path
) -> None:
    torch.manual_seed(77)
    made = {"sd3": sd3_transformer(), "flux": flux_transformer()}
    ours = "sd3" if "sd3" in str(engine.base) else "flux"
    plain = picture(engine, JOB, "reference")
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
        file = str(tmp_path / name / "diffusion_pytorch_model.safetensors")
        job = replace(JOB, checkpoints=((Checkpoint("bear", kind="dreambooth", files=(file,)), 1.0),))
        if name == ours:
            assert picture(engine, job, "reference") != plain != picture(engine, job, "taq-w8a8")
        else:
            with pytest.raises(IncompatibleCheckpointError, match="_class_name"):
                picture(engine, job, "reference")
    assert picture(engine, JOB, "reference") == plain


# --- LoRAs -------------------------------------------------------------------------------------


def levels(engine: Engine, job: Job, precision: Precision) -> Tensor:
    """The picture's grey levels, 0 to 255."""
    return torch.tensor(list(picture(engine, job, precision))).float()


def test_a_lora_does_the_same_on_a_quantised_base_as_on_the_reference(engine: Engine, tmp_path: Path) -> None:
    with engine.hold(JOB, "reference") as session:
        record = lora(tmp_path / "l.safetensors", joint_lora_state(denoiser(session.pipe)))
    job = replace(JOB, checkpoints=((record, 1.0),))
    effects = []
    for precision in ("reference", "taq-w8a8", "taq-w4a8"):
        plain = levels(engine, JOB, precision)
        effects.append(levels(engine, job, precision) - plain)
        assert torch.equal(levels(engine, JOB, precision), plain)
    reference, *others = effects
    assert reference.abs().mean() > 2
    assert all(torch.cosine_similarity(reference, other, dim=0) > 0.95 for other in others)


def test_kohyas_flux_loras_with_fused_projections_are_split(tiny_flux_folder: Path, tmp_path: Path) -> None:
    engine = Engine(tiny_flux_folder, "cpu", dtype=torch.float32)
    record = lora(tmp_path / "k.safetensors", kohya_flux_state())
    job = replace(JOB, checkpoints=((record, 1.0),))
    for precision in ("reference", "taq-w8a8"):
        assert (levels(engine, job, precision) - levels(engine, JOB, precision)).abs().mean() > 0.5
    wide = lora(tmp_path / "w.safetensors", kohya_flux_state(outputs=3 * 3072, width=3072))
    with pytest.raises(IncompatibleCheckpointError, match="tiny-random-flux"):
        picture(engine, replace(JOB, checkpoints=((wide, 1.0),)), "reference")
    odd = lora(tmp_path / "o.safetensors", kohya_flux_state(outputs=191))
    with pytest.raises(IncompatibleCheckpointError, match="tiny-random-flux"):
        picture(engine, replace(JOB, checkpoints=((odd, 1.0),)), "reference")
    engine.close()


def test_the_triggers_rows_are_exact_beneath_a_lora(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.hold(JOB, "reference") as session:
        state = joint_lora_state(denoiser(session.pipe))
    job = replace(JOB, checkpoints=((lora(tmp_path / "l.safetensors", state), 0.5),), steps=1)
    aware, off = variant_named("taq-w8a8").joint, []
    own = type(aware).project

    def watched(self: object, layer: object, x: Tensor, rows: object) -> Tensor:
        out = own(self, layer, x, rows)
        name = next(name for name, module in model.named_modules() if module is layer)
        down, up = (state[f"transformer.{name}.lora_{matrix}.weight"] for matrix in "AB")
        x = x[rows.where]
        exact = torch.nn.functional.linear(x, layer.dequantized(), layer.bias) + 0.5 * (x @ down.T @ up.T)
        off.append(float((out[rows.where] - exact).abs().max()))
        return out

    with engine.hold(job, "taq-w8a8") as session:
        model = denoiser(session.pipe)
    monkeypatch.setattr(type(aware), "project", watched)
    picture(engine, job, "taq-w8a8")
    assert len(off) >= 6 and max(off) < 1e-4


def test_bfloat16_is_nearly_the_same_picture(engine: Engine) -> None:
    half = Engine(engine.base, "cpu")
    for precision in ("reference", "taq-w8a8"):
        exact, rounded = (final(list(generate(e, JOB, precision))).image for e in (engine, half))
        assert 30 < psnr(exact, rounded) < float("inf")
    half.close()
