"""What is resident: one denoiser, one base for all LoRAs, and nothing left behind."""

import gc
import shutil
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_pipelines import WIDTH, lora, lora_state, unet
from torch import nn

from personalq.backend.compare import compare, generate
from personalq.backend.engine import Engine
from personalq.backend.variants import stored_variant
from personalq.errors import (
    CancelledError,
    GenerationError,
    IncompatibleCheckpointError,
    ModelError,
    PersonalQError,
    SettingsError,
)
from personalq.quant.apply import stored_bytes
from personalq.quant.layers import PackedWeight
from personalq.quant.recipe import recipe_named
from personalq.quant.sidecar import Provenance
from personalq.quant.store import save_quantized
from personalq.records import Checkpoint, Job, Precision, Span

JOB = Job("photo of zwx dog", spans=(Span(9, 12, "trigger", "c"),), steps=3)


def picture(engine: Engine, job: Job, precision: Precision = "reference") -> bytes:
    image = list(generate(engine, job, precision))[-1].image
    assert image
    return image.tobytes()


def with_lora(tiny_sd_folder: Path, folder: Path, name: str = "l", **options: int) -> Job:
    record = lora(folder / f"{name}.safetensors", lora_state(tiny_sd_folder, **options))
    return replace(JOB, checkpoints=((record, 1.0),))


def large_float_weights(root: nn.Module) -> int:
    """Real float elements in weights of linears and convolutions, edges and text projections excepted."""
    kept, count = ("conv_in", "conv_out", "attn2.to_k", "attn2.to_v"), 0
    for name, module in root.named_modules():
        packed = isinstance(module, PackedWeight) or not isinstance(module, nn.Linear | nn.Conv2d)
        if not packed and not name.removesuffix(".base_layer").endswith(kept):
            count += module.weight.numel()
    return count


def float_denoisers() -> set[int]:
    """Every living UNet with real float weights, by identity."""
    gc.collect()
    unets = [m for m in gc.get_objects() if type(m) is UNet2DConditionModel]
    return {id(m) for m in unets if large_float_weights(m)}


def test_text_encoder_and_autoencoder_are_shared_and_the_denoiser_reused(engine: Engine) -> None:
    with engine.hold(JOB, "reference") as one:
        shared, first = (one.pipe.text_encoder, one.pipe.vae), one.pipe.unet
    with engine.hold(replace(JOB, seed=1), "reference") as two:
        assert two.pipe.unet is first
    with engine.hold(JOB, "taq-w8a8") as three:
        assert (three.pipe.text_encoder, three.pipe.vae) == shared and three.pipe.unet is not first
        assert three.report is not None and three.report.stored_bytes == stored_bytes(three.pipe.unet)


@pytest.mark.parametrize("precision", ["taq-w8a8", "taq-w4a8"])
def test_no_full_precision_denoiser_stays_beside_a_quantised_one(engine: Engine, precision: Precision) -> None:
    elsewhere = float_denoisers()  # other tests' own
    with engine.hold(JOB, "reference") as session:
        float_bytes = stored_bytes(session.pipe.unet)
        assert large_float_weights(session.pipe.unet) > 1_000_000 and float_denoisers() - elsewhere
        gone = [weakref.ref(p) for p in session.pipe.unet.parameters()]
    del session
    with engine.hold(JOB, precision) as session:
        gc.collect()
        assert large_float_weights(session.pipe.unet) == 0
        assert stored_bytes(session.pipe.unet) < 0.3 * float_bytes  # float32 to at most int8, with some layers kept
        assert not any(ref() is not None for ref in gone)
        assert float_denoisers() <= elsewhere


def test_the_old_denoiser_is_gone_before_the_new_one_is_read(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from personalq.backend import reading as module

    with engine.hold(JOB, "reference") as session:
        old = weakref.ref(session.pipe.unet)
    del session
    load, seen = module.open_denoiser, []

    def watched(*args: object, **kwargs: object) -> object:
        seen.append(old())
        return load(*args, **kwargs)

    monkeypatch.setattr(module, "open_denoiser", watched)
    with engine.hold(JOB, "taq-w8a8"):
        assert seen == [None]


@pytest.mark.parametrize("precision", ["reference", "taq-w8a8", "taq-w4a8"])
def test_loras_share_one_base_and_leave_it_as_it_was(
    engine: Engine, tiny_sd_folder: Path, tmp_path: Path, precision: Precision
) -> None:
    plain = picture(engine, JOB, precision)
    with engine.hold(JOB, precision) as session:
        base = session.pipe.unet
    one = with_lora(tiny_sd_folder, tmp_path, "one", seed=3)
    two = with_lora(tiny_sd_folder, tmp_path, "two", seed=4)
    pictures = {picture(engine, job, precision) for job in (one, two, one)}
    assert len(pictures) == 2 and plain not in pictures
    assert picture(engine, JOB, precision) == plain
    with engine.hold(JOB, precision) as session:
        assert session.pipe.unet is base


def test_a_lora_on_a_quantised_base_is_a_branch_with_its_own_bytes(
    engine: Engine, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    job = with_lora(tiny_sd_folder, tmp_path)
    added = sum(t.nbytes for t in lora_state(tiny_sd_folder).values())
    with engine.hold(JOB, "taq-w8a8") as session:
        bare = stored_bytes(session.pipe.unet)
    with engine.hold(job, "taq-w8a8") as session:
        assert stored_bytes(session.pipe.unet) == bare + added
        assert not large_float_weights(session.pipe.unet)  # beside the layers, which stay as they are


def test_a_lora_does_the_same_on_a_quantised_base_as_on_the_reference(
    engine: Engine, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    job = with_lora(tiny_sd_folder, tmp_path)
    job = replace(job, checkpoints=((job.checkpoints[0][0], 0.3),))

    def effect(precision: Precision) -> torch.Tensor:
        pair = (torch.tensor(list(picture(engine, replace(j, steps=1), precision))).float() for j in (job, JOB))
        return next(pair) - next(pair)

    reference, quantised = effect("reference"), effect("taq-w8a8")
    assert reference.abs().mean() > 3  # grey levels of 255: the adapter does something
    assert torch.cosine_similarity(reference, quantised, dim=0) > 0.9
    assert 0.8 < reference.norm() / quantised.norm() < 1.25


def test_dreambooth_replaces_the_denoiser_and_the_base_comes_back(
    engine: Engine, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(77)
    unet(WIDTH).save_pretrained(tmp_path / "unet")
    file = str(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    job = replace(JOB, checkpoints=((Checkpoint("bear", kind="dreambooth", files=(file,)), 1.0),))
    plain = picture(engine, JOB)
    for precision in ("reference", "taq-w8a8"):
        assert picture(engine, job, precision) != plain
        with engine.hold(job, precision) as session:
            assert (large_float_weights(session.pipe.unet) == 0) == (precision != "reference")
    assert picture(engine, JOB) == plain


def test_a_complete_dreambooth_pipeline_brings_its_text_encoder(
    engine: Engine, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_sd_folder, tmp_path / "whole")
    file = str(tmp_path / "whole" / "unet" / "diffusion_pytorch_model.safetensors")
    record = Checkpoint("bear", kind="dreambooth", files=(file,))
    with engine.hold(JOB, "reference") as session:
        shared = session.pipe.text_encoder
    with engine.hold(replace(JOB, checkpoints=((record, 1.0),)), "reference") as session:
        assert session.pipe.text_encoder is not shared
    assert picture(engine, replace(JOB, checkpoints=((record, 1.0),))) == picture(engine, JOB)


def test_what_does_not_fit_is_refused_and_the_engine_goes_on(
    engine: Engine, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    plain = picture(engine, JOB)
    file = str(tiny_sdxl_folder / "unet" / "diffusion_pytorch_model.safetensors")
    alone = tmp_path / "unet"
    shutil.copytree(tiny_sdxl_folder / "unet", alone)
    wrong = Checkpoint("big", kind="dreambooth", files=(str(alone / Path(file).name),))
    state = {"unet.mid_block.nowhere.lora_A.weight": torch.ones(2, 2)}
    state["unet.mid_block.nowhere.lora_B.weight"] = torch.ones(2, 2)
    for records, error in (
        ([wrong], IncompatibleCheckpointError),
        ([wrong, wrong], ModelError),
        ([lora(tmp_path / "bad.safetensors", state)], IncompatibleCheckpointError),
        ([Checkpoint("pickle", files=(str(tmp_path / "x.ckpt"),), loadable=False)], ModelError),
    ):
        with pytest.raises(error):
            picture(engine, replace(JOB, checkpoints=tuple((r, 1.0) for r in records)))
        assert picture(engine, JOB) == plain


def test_one_job_at_a_time_even_when_another_thread_closes_the_first(engine: Engine) -> None:
    frames = generate(engine, JOB, "reference")
    next(frames)
    done = threading.Event()
    second = threading.Thread(target=lambda: (list(generate(engine, JOB, "reference")), done.set()))
    second.start()
    assert not done.wait(0.3)
    closer = threading.Thread(target=frames.close)
    closer.start()
    closer.join(10)
    second.join(30)
    assert done.is_set()


def test_sdxl_runs_at_every_precision(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    big = Engine(tiny_sdxl_folder, "cpu", dtype=torch.float32)
    job = replace(JOB, checkpoints=((lora(tmp_path / "xl.safetensors", lora_state(tiny_sdxl_folder, text=True)), 0.5),))
    precisions: tuple[Precision, ...] = ("reference", "taq-w8a8", "taq-w4a8", "rtn-w8a8")
    assert len({picture(big, job, precision) for precision in precisions}) == 4


def test_labels_and_dtypes(tiny_sd_folder: Path) -> None:
    engine = Engine(tiny_sd_folder, "cpu")
    assert engine.label("reference") == "reference (bfloat16, cpu)"
    assert engine.label("taq-w4a8") == "taq-w4a8 (rest in bfloat16, cpu)"
    assert len(picture(engine, JOB, "taq-w4a8")) == 16 * 16 * 3


def test_an_unknown_precision_is_an_error_of_ours(engine: Engine) -> None:
    with pytest.raises(PersonalQError, match="w2a2"):
        picture(engine, JOB, "w2a2")  # type: ignore[arg-type]


# --- what loading says -------------------------------------------------------------------------

Said = list[tuple[int, int, str]]


def stages(said: Said) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for done, total, what in said:
        found.setdefault(what, []).append((done, total))
    return found


def test_loading_is_told_layer_by_layer_in_the_callers_thread(
    engine: Engine, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    job, said, threads = with_lora(tiny_sd_folder, tmp_path), [], set()

    def tell(done: int, total: int, what: str) -> None:
        threads.add(threading.current_thread())
        said.append((done, total, what))

    frames = compare(engine, job, ("reference", "taq-w4a8"), on_progress=tell)
    next(frames)
    reading = stages(said)["Reading tiny-random-sd"]
    assert list(stages(said)) == ["Reading tiny-random-sd", "Reading l"] and stages(said)["Reading l"][-1] == (1, 1)
    assert reading[:2] == [(0, 1), (1, 1)]
    layers = reading[2][1]
    assert reading[2:] == [(done, layers) for done in range(1, layers + 1)] and layers > 50
    told = len(said)
    for frame in frames:
        assert frame.variant == "taq-w4a8" or len(said) == told, "denoising is not told"
        if frame.variant == "taq-w4a8" and frame.step == 1:
            packed = len(said)
    assert len(said) == packed
    assert stages(said[told:]) == {"Packing taq-w4a8": [(done, layers) for done in range(1, layers + 1)]}
    assert threads == {threading.current_thread()}


def test_what_is_in_memory_already_is_not_told(engine: Engine, tiny_sd_folder: Path, tmp_path: Path) -> None:
    said: Said = []
    job = with_lora(tiny_sd_folder, tmp_path)
    list(generate(engine, job, "reference"))
    list(generate(engine, job, "reference", on_progress=lambda *each: said.append(each)))
    assert not said


def test_a_stored_denoiser_is_told_too(engine: Engine, tmp_path: Path) -> None:
    plain = Engine(engine.base, "cpu", torch.float32, kernel="torch")
    with plain.hold(JOB, "taq-w8a8") as session:
        made = session.report
        assert made
        save_quantized(session.pipe.unet, made, recipe_named("taq-w8a8"), tmp_path / "q", Provenance("b", {}))
    other, said = Engine(engine.base, "cpu", torch.float32, {"taq-w8a8": stored_variant(tmp_path / "q")}), []
    other.warm("taq-w8a8", lambda *each: said.append(each))
    assert stages(said)["Reading taq-w8a8"][-1] == (len(made.layers), len(made.layers))


@pytest.mark.parametrize("at", ["Reading tiny-random-sd", "Packing taq-w8a8", "Reading l"])
def test_whoever_follows_may_stop_loading(engine: Engine, tiny_sd_folder: Path, tmp_path: Path, at: str) -> None:
    job = with_lora(tiny_sd_folder, tmp_path)

    def stop(done: int, total: int, what: str) -> None:
        if what == at and done:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        list(generate(engine, job, "taq-w8a8", on_progress=stop))
    assert not engine.is_busy
    assert picture(engine, JOB, "taq-w8a8") == picture(Engine(engine.base, "cpu", torch.float32), JOB, "taq-w8a8")


# --- warming up --------------------------------------------------------------------------------


def test_a_warm_engine_reads_no_base(engine: Engine) -> None:
    engine.warm("taq-w8a8")
    assert engine.residence.precision == "taq-w8a8" and engine.residence.denoiser_bytes > 0
    said: Said = []
    list(generate(engine, JOB, "taq-w8a8", on_progress=lambda *each: said.append(each)))
    assert not said
    engine.warm("reference")
    assert engine.residence.precision == "taq-w8a8", "a job has been before"


def test_a_job_that_arrives_while_the_base_is_brought_in_waits(engine: Engine) -> None:
    arrived, pictures = threading.Event(), []
    job = threading.Thread(target=lambda: (arrived.set(), pictures.append(picture(engine, JOB))))

    def tell(done: int, total: int, what: str) -> None:
        if not arrived.is_set():
            job.start()
            arrived.wait(10)
        assert not pictures and engine.is_busy

    engine.warm(on_progress=tell)
    job.join(60)
    assert pictures == [picture(Engine(engine.base, "cpu", torch.float32), JOB)]


# --- running out of memory ---------------------------------------------------------------------


def test_running_out_of_memory_while_loading_leaves_nothing_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from personalq.backend import reading as module

    plain, load, half = picture(engine, JOB), module.open_denoiser, []

    def short_of_memory(*args: object) -> tuple[object, object]:
        model, materialize = load(*args)
        half.append(weakref.ref(model))

        def fill(name: str, layer: nn.Module) -> None:
            if name.startswith("mid_block"):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            materialize(name, layer)

        return model, fill

    with monkeypatch.context() as patched:
        patched.setattr(module, "open_denoiser", short_of_memory)
        with pytest.raises(GenerationError, match="smaller size or a lower precision") as kept:
            picture(engine, JOB, "taq-w8a8")
        assert engine.residence.precision is None and not engine.is_busy
        gc.collect()
        assert half[0]() is None, "the error keeps half a model"
        assert kept.value.__cause__
    assert picture(engine, JOB, "taq-w8a8") != plain == picture(engine, JOB)


@pytest.mark.parametrize("precision", ["reference", "taq-w8a8"])
def test_running_out_of_memory_while_denoising_leaves_nothing_behind(
    engine: Engine, tiny_sd_folder: Path, tmp_path: Path, precision: Precision
) -> None:
    plain, job = picture(engine, JOB, precision), with_lora(tiny_sd_folder, tmp_path)
    with engine.hold(JOB, precision) as session:
        model = session.pipe.unet
        processors = dict(model.attn_processors)
    seen = []

    def short_of_memory(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(weakref.ref(args[0]))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    hook = model.mid_block.resnets[0].register_forward_pre_hook(short_of_memory)
    with pytest.raises(GenerationError, match="smaller size") as kept:
        picture(engine, job, precision)
    hook.remove()
    gc.collect()
    assert seen[0]() is None and kept.value.__cause__, "the error keeps a step's tensors"
    assert model.attn_processors == processors and not engine.is_busy
    assert picture(engine, JOB, precision) == plain
    with engine.hold(JOB, precision) as session:
        assert session.pipe.unet is model


# --- forgetting --------------------------------------------------------------------------------


def test_forgotten_loras_leave_and_others_stay(engine: Engine, tiny_sd_folder: Path, tmp_path: Path) -> None:
    own = with_lora(tiny_sd_folder, tmp_path, "own", seed=3)
    shared = with_lora(tiny_sd_folder, tmp_path, "shared", seed=4)
    first = picture(engine, own)
    picture(engine, shared)
    both = engine.residence
    Path(own.checkpoints[0][0].files[0]).rename(tmp_path / "gone")  # its session cleans up in any order
    engine.forget({"own", "never seen"})
    assert both.loras == 2 and engine.residence.loras == 1
    assert engine.residence.lora_bytes == both.lora_bytes / 2
    (tmp_path / "gone").rename(own.checkpoints[0][0].files[0])
    assert picture(engine, own) == first


def test_a_lora_in_use_is_forgotten_after_the_job(engine: Engine, tiny_sd_folder: Path, tmp_path: Path) -> None:
    job = with_lora(tiny_sd_folder, tmp_path)
    frames, whole = generate(engine, job, "reference"), picture(engine, job)
    next(frames)
    engine.forget({job.checkpoints[0][0].id})
    assert engine.residence.loras == 1
    image = list(frames)[-1].image
    assert image and image.tobytes() == whole
    assert engine.residence.loras == 0 == engine.residence.lora_bytes


def test_cuda_without_a_gpu_says_what_to_choose(tiny_sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Engine(tiny_sd_folder).device.type == "cpu"
    with pytest.raises(SettingsError, match="--device auto or cpu"):
        Engine(tiny_sd_folder, "cuda")
