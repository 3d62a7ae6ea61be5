"""A base quantised to what it sees on captions: what is recorded, what is stored, and what a second call does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import lora, lora_state
from torch import Tensor

from personalq.backend import calibration, recording
from personalq.backend.calibration import as_text, calibrate_base
from personalq.backend.captions import COUNT, file_captions, repository_captions
from personalq.backend.engine import Engine
from personalq.backend.recording import calls, facts, read_recording, record, recorded, spread
from personalq.catalog.scan import scan
from personalq.diffusion.generate import denoise, initial_noise
from personalq.diffusion.lazy import empty_denoiser
from personalq.diffusion.load import denoiser
from personalq.diffusion.text import encode
from personalq.errors import CatalogError, QuantizationError
from personalq.quant.apply import quantize_unet
from personalq.quant.formats import INT4, INT8
from personalq.quant.layers import PackedWeight
from personalq.quant.observe import Observer
from personalq.quant.sidecar import read_sidecar
from personalq.quant.store import load_quantized
from personalq.records import Checkpoint, Job, Recipe, Rule, Span

SAMPLE = Path(__file__).resolve().parents[2] / "sample_repo"
KEPT = Rule(".*", None, reason="not looked at here")
MIDDLE = Recipe("middle", (Rule("mid_block.*(to_|ff|conv1)", INT4, INT8, group=32), KEPT))
TO_K = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
PLAIN = Job("photo of dog", steps=4)
TRIGGER = (Span(9, 12, "trigger", "c"),)


@pytest.fixture
def captions(tiny_sd_folder: Path, tmp_path: Path) -> tuple[Job, ...]:
    """Two plain ones, and two with a LoRA and its trigger."""
    taught = lora(tmp_path / "c.safetensors", lora_state(tiny_sd_folder))
    marked = Job("photo of zwx dog", spans=TRIGGER, checkpoints=((taught, 1.0),), steps=4)
    return tuple(replace(job, seed=seed) for seed, job in enumerate((PLAIN, marked, PLAIN, marked)))


def real_calls(engine: Engine, job: Job) -> list[dict[str, Tensor]]:
    with engine.hold(job, "reference") as session:
        text = encode(session.pipe, job.prompt, job.negative, job.spans)
        noise, generator = initial_noise(session.pipe, job)
        with calls(denoiser(session.pipe)) as made:
            list(denoise(session.pipe, text, noise, job, "reference", generator, previews=False))
    return made


def quantised(engine: Engine, folder: Path) -> torch.nn.Module:
    model = empty_denoiser(read_sidecar(folder).denoiser, "cpu", engine.dtype)
    load_quantized(model, folder)
    return model


# --- recording ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_a_recording_plays_the_calls_of_real_denoising(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    engine = Engine(request.getfixturevalue(f"tiny_{family}_folder"), "cpu", dtype=torch.float32)
    job = Job("photo of zwx dog", spans=TRIGGER, steps=4, width=16, height=16)
    made = real_calls(engine, job)
    path = recorded(engine, job, 2, tmp_path / "c.safetensors", "these")
    kept = read_recording(path)
    assert len(made) == 4 and len(kept) == 2
    with engine.hold(job, "reference") as session, calls(denoiser(session.pipe)) as played:
        kept.play(denoiser(session.pipe))
    engine.close()
    for again, index in zip(played, spread(4, 2, job.seed), strict=True):
        assert again.keys() == made[index].keys()
        assert all(torch.equal(tensor, made[index][name]) for name, tensor in again.items())
    assert kept.arguments["encoder_hidden_states"].shape[0] == 1, "what all calls share is kept once"
    rows = kept.arguments["encoder_hidden_states"].shape[1:3]
    assert kept.protected.shape == rows and kept.protected[-1].any()


def test_only_triggers_are_marked(engine: Engine) -> None:
    assert not record(engine, PLAIN, 1).protected.any()
    noun = replace(PLAIN, spans=(Span(9, 12, "concept", "c"),))
    assert not record(engine, noun, 1).protected.any()
    assert record(engine, replace(PLAIN, spans=TRIGGER), 1).protected.sum() == 1


def test_a_recording_is_made_once(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recorded(engine, PLAIN, 2, tmp_path / "c.safetensors", "these")
    before = path.read_bytes()
    monkeypatch.setattr(recording, "record", lambda *_: pytest.fail("recorded again"))
    assert recorded(engine, PLAIN, 2, path, "these").read_bytes() == before
    monkeypatch.undo()
    recorded(engine, replace(PLAIN, seed=9), 2, path, "others")
    assert path.read_bytes() != before


def test_a_denoiser_that_cannot_be_recorded_says_why() -> None:
    with pytest.raises(QuantizationError, match="scale="):
        list(recording.tensors_in({"0": torch.zeros(1), "extras": {"scale": 3}}))


@pytest.mark.parametrize(("steps", "count"), [(20, 4), (20, 1), (7, 3), (3, 8)])
def test_timesteps_are_spread_over_the_schedule(steps: int, count: int) -> None:
    drawn = [spread(steps, count, seed) for seed in range(40)]
    assert all(len(each) == min(steps, count) and sorted(set(each)) == each for each in drawn)
    assert {index for each in drawn for index in each} == set(range(steps))
    parts = min(steps, count)
    assert all(p * steps // parts <= i < (p + 1) * steps // parts for each in drawn for p, i in enumerate(each))


def test_facts_tell_captions_apart(captions: tuple[Job, ...], tmp_path: Path) -> None:
    job = captions[1]
    other = replace(job.checkpoints[0][0], files=(str(tmp_path / "c.safetensors"),))
    assert facts(job) == facts(replace(job, checkpoints=((other, 1.0),)))
    changed = [replace(job, seed=7), replace(job, guidance=2.0), replace(job, checkpoints=()), replace(job, spans=())]
    (tmp_path / "d.safetensors").write_bytes((tmp_path / "c.safetensors").read_bytes() + b" ")
    rewritten = replace(other, files=(str(tmp_path / "d.safetensors"),))
    changed += [replace(job, checkpoints=((rewritten, 1.0),)), replace(job, checkpoints=((other, 0.5),))]
    assert len({json.dumps(facts(each)) for each in (job, *changed)}) == 7


# --- the whole ---------------------------------------------------------------------------------


def test_what_is_stored_is_closer_than_rounding_to_nearest(
    engine: Engine, captions: tuple[Job, ...], tmp_path: Path
) -> None:
    result = calibrate_base(engine, MIDDLE, tmp_path / "made", captions, timesteps=2)
    assert json.loads(json.dumps(result)) == result and "middle" in as_text(result)
    job = captions[0]
    call = real_calls(engine, job)[spread(job.steps, 2, job.seed)[0]]  # so small a base needs more to generalise
    with engine.hold(job, "reference") as session, torch.no_grad():
        unet = denoiser(session.pipe)
        inputs = (call["0"], call["1"], call["encoder_hidden_states"])
        wanted, fitted = unet(*inputs).sample, quantised(engine, tmp_path / "made")(*inputs).sample
        report = quantize_unet(unet, MIDDLE)
        plain = unet(*inputs).sample
    assert 0 < (fitted - wanted).norm() < 0.85 * (plain - wanted).norm()
    assert result["stored_bytes"] == report.stored_bytes == read_sidecar(tmp_path / "made").stored_bytes
    said = read_sidecar(tmp_path / "made").provenance
    assert [each["prompt"] for each in said.calibration["captions"]] == [job.prompt for job in captions]
    assert said.base == Path(engine.base).name and said.weight_sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.safetensors", "made"]


def test_the_same_call_again_does_nothing(
    engine: Engine, captions: tuple[Job, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = calibrate_base(engine, MIDDLE, tmp_path / "made", captions, timesteps=1)
    files = {path: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(engine, "hold", lambda *_: pytest.fail("the model was used"))
        assert calibrate_base(engine, MIDDLE, tmp_path / "made", captions, timesteps=1) == first
    assert {path: path.read_bytes() for path in (tmp_path / "made").iterdir()} == files
    calibrate_base(engine, MIDDLE, tmp_path / "made", captions[:2], timesteps=1)
    assert len(read_sidecar(tmp_path / "made").provenance.calibration["captions"]) == 2


@pytest.mark.parametrize(
    ("where", "times"), [("recording captions", 3), ("watching layers", 2), ("mid_block.resnets.1.conv1", 1)]
)
def test_a_stopped_call_goes_on(
    engine: Engine, captions: tuple[Job, ...], tmp_path: Path, where: str, times: int
) -> None:
    seen: list[tuple[int, int, str]] = []

    def stop(done: int, total: int, what: str) -> None:
        seen.append((done, total, what))
        if [what for _, _, what in seen].count(where) == times:
            raise KeyboardInterrupt

    def go_on(done: int, total: int, what: str) -> None:
        assert done <= total
        seen.append((done, total, what))

    with pytest.raises(KeyboardInterrupt):
        calibrate_base(engine, MIDDLE, tmp_path / "made", captions, timesteps=2, on_progress=stop)
    assert not (tmp_path / "made").exists() and (tmp_path / "made.unfinished").is_dir()
    calibrate_base(engine, MIDDLE, tmp_path / "made", captions, timesteps=2, on_progress=go_on)
    assert not (tmp_path / "made.unfinished").exists()
    assert seen[-1][:2] == (seen[-1][1], seen[-1][1])
    calibrate_base(engine, MIDDLE, tmp_path / "whole", captions, timesteps=2)
    one, other = (quantised(engine, tmp_path / name).state_dict() for name in ("made", "whole"))
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items() if "stand_in" not in name)


def test_layers_are_watched_with_the_captions_checkpoints_attached(
    engine: Engine, captions: tuple[Job, ...], tmp_path: Path
) -> None:
    """A LoRA on to_out changes what the feed-forward after it sees."""
    model = calibration._resident(engine)
    name = "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj"
    path = recorded(engine, captions[1], 2, tmp_path / "r.safetensors", "these")
    grams = []
    for job in (captions[1], replace(captions[1], checkpoints=())):
        observer = Observer({name: model.get_submodule(name)})
        with observer.watching():
            calibration._show(engine, model, observer, job, path, 1.0)
        grams.append(observer.statistics[name].gram[0])
    assert not torch.allclose(*grams)


def test_rows_of_triggers_count_more_in_the_texts_own_layers(
    engine: Engine, captions: tuple[Job, ...], tmp_path: Path
) -> None:
    model, other = calibration._resident(engine), TO_K.replace("attn2.to_k", "attn2.to_q")
    path = recorded(engine, captions[1], 1, tmp_path / "r.safetensors", "these")
    rows = read_recording(path).arguments["encoder_hidden_states"][0]
    marked = read_recording(path).protected
    grams: dict[float, dict[str, Tensor]] = {}
    for weight in (1.0, 5.0):
        observer = Observer({name: model.get_submodule(name) for name in (TO_K, other)})
        with observer.watching():
            calibration._show(engine, model, observer, captions[1], path, weight)
        grams[weight] = {name: seen.gram[0] for name, seen in observer.statistics.items()}
    triggers = rows[marked]
    torch.testing.assert_close(grams[5.0][TO_K] - grams[1.0][TO_K], 4 * triggers.T @ triggers, atol=1e-3, rtol=1e-3)
    assert torch.equal(grams[5.0][other], grams[1.0][other])


def test_what_cannot_be_calibrated_raises(engine: Engine, captions: tuple[Job, ...], tmp_path: Path) -> None:
    whole = Checkpoint("w", kind="dreambooth", files=("w",))
    for jobs, timesteps, said in (
        ((), 4, "at least one caption"),
        (captions, 0, "at least one caption"),
        ((Job("dog", checkpoints=((whole, 1.0),)),), 4, "w has a denoiser of its own"),
    ):
        with pytest.raises(QuantizationError, match=said):
            calibrate_base(engine, MIDDLE, tmp_path / "made", jobs, timesteps=timesteps)
    with pytest.raises(QuantizationError, match="gptq, adaround"):
        calibrate_base(engine, MIDDLE, tmp_path / "made", captions, method="foo")
    assert not list(tmp_path.glob("made*"))


def test_an_engine_used_otherwise_meanwhile_is_noticed(
    engine: Engine, captions: tuple[Job, ...], tmp_path: Path
) -> None:
    def disturb(done: int, total: int, what: str) -> None:
        if what == "watching layers":
            with engine.hold(PLAIN, "rtn-w8a8"):
                pass

    with pytest.raises(QuantizationError, match="used for another precision"):
        calibrate_base(engine, MIDDLE, tmp_path / "made", captions, timesteps=1, on_progress=disturb)


def test_the_packed_layers_of_the_folder_are_the_recipes(
    engine: Engine, captions: tuple[Job, ...], tmp_path: Path
) -> None:
    calibrate_base(engine, MIDDLE, tmp_path / "made", captions[:1], timesteps=1)
    packed = {n for n, m in quantised(engine, tmp_path / "made").named_modules() if isinstance(m, PackedWeight)}
    assert TO_K in packed and all(name.startswith("mid_block") for name in packed)


# --- captions ----------------------------------------------------------------------------------


def test_the_repositorys_captions_are_half_with_triggers_of_all_its_checkpoints() -> None:
    checkpoints = scan(SAMPLE).checkpoints
    jobs = repository_captions(SAMPLE, checkpoints)
    shared = {item.id for item in checkpoints if item.kind != "dreambooth"}
    attached = [job.checkpoints[0][0].id for job in jobs if job.checkpoints]
    assert len(jobs) == COUNT and len(attached) == COUNT // 2 and set(attached) == shared != set()
    assert len({job.seed for job in jobs}) == COUNT and min(job.seed for job in jobs) > 10_000
    for job in jobs:
        for span in job.spans:
            trigger = job.checkpoints[0][0].triggers[0]
            assert span.role == "concept" or job.prompt[span.start : span.end] == trigger
    assert len({job.prompt for job in jobs if not job.checkpoints}) > 25
    by_concept: dict[str, set[str]] = {}
    for job in jobs:
        if job.checkpoints:
            by_concept.setdefault(job.checkpoints[0][0].id, set()).add(job.prompt)
    assert all(len(prompts) > 1 for prompts in by_concept.values()), "a concept in one place only"


def test_without_checkpoints_all_captions_are_plain() -> None:
    jobs = repository_captions(SAMPLE, (), count=10)
    assert len(jobs) == 10 and not any(job.checkpoints or job.spans for job in jobs)


def test_every_second_line_of_a_file_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("a dog on a beach\n\n  a dog in the snow \na cat\na dog at night\n")
    checkpoint = Checkpoint("c", name="Rex", triggers=("zwx dog",), class_noun="dog", weight=0.8)
    jobs = file_captions(path, (checkpoint,))
    assert [job.prompt for job in jobs] == ["a dog on a beach", "zwx dog in the snow", "a cat", "zwx dog at night"]
    assert [bool(job.checkpoints) for job in jobs] == [False, True, False, True]
    assert jobs[1].checkpoints == ((checkpoint, 0.8),) and jobs[1].spans[0].role == "trigger"
    assert [job.prompt for job in file_captions(path, count=2)] == ["a dog on a beach", "a dog in the snow"]


@pytest.mark.parametrize("write", [None, lambda p: p.write_text(" \n\n"), lambda p: p.write_bytes(b"\xff\xfe\x00")])
def test_bad_caption_files_raise(tmp_path: Path, write: Callable[[Path], Any] | None) -> None:
    path = tmp_path / "captions.txt"
    if write:
        write(path)
    with pytest.raises(CatalogError, match="one caption a line"):
        file_captions(path)


@pytest.mark.parametrize("text", [None, "{}", "[1]", '{"subjects": 3, "places": {}, "concepts": {}}'])
def test_a_repository_that_does_not_say_what_it_shows_raises(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "recipe").mkdir()
    if text is not None:
        (tmp_path / "recipe" / "judged.json").write_text(text)
    with pytest.raises(CatalogError, match="give a file of captions"):
        repository_captions(tmp_path, ())
