"""One job at several precisions: the same noise, a frame per step, measured memory, and TAQ's own identities."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_pipelines import lora, lora_state
from torch import Tensor

from personalq.backend import compare as module
from personalq.backend.compare import compare, generate, psnr
from personalq.backend.engine import Engine
from personalq.diffusion.text import TextEmbeddings
from personalq.errors import RequestError
from personalq.quant.apply import stored_bytes
from personalq.records import Frame, Job, Precision, Span

PROMPT = "photo of zwx dog"
JOB = Job(PROMPT, spans=(Span(9, 12, "trigger", "c"),), steps=4)
ALL: tuple[Precision, ...] = ("reference", "taq-w8a8", "taq-w4a8")


def final(frames: list[Frame]) -> Frame:
    assert frames[-1].step == frames[-1].total and frames[-1].image and frames[-1].memory
    return frames[-1]


def test_every_precision_starts_from_the_same_noise(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    own = module.denoise

    def watched(pipe: object, text: object, noise: Tensor, *rest: object) -> object:
        seen.append(noise.clone())
        return own(pipe, text, noise, *rest)

    monkeypatch.setattr(module, "denoise", watched)
    list(compare(engine, JOB, ALL))
    list(compare(engine, replace(JOB, seed=1), ("reference",)))
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[3])


def test_frames_come_in_order_and_the_last_of_each_is_the_picture(engine: Engine) -> None:
    frames = list(compare(engine, JOB, ALL))
    assert [(f.variant, f.step, f.total) for f in frames] == [(p, i, 4) for p in ALL for i in (1, 2, 3, 4)]
    assert [f.memory is not None for f in frames] == [False, False, False, True] * 3
    assert len({final(frames[i : i + 4]).image.tobytes() for i in (0, 4, 8)}) == 3


def test_the_same_seed_is_byte_identical_whatever_ran_between(engine: Engine) -> None:
    runs = [list(compare(engine, JOB, ALL)) for _ in range(2)]
    for a, b in zip(*runs, strict=True):
        assert (a.image and a.image.tobytes()) == (b.image and b.image.tobytes())


def test_a_job_may_choose_the_rows_that_a_precision_protects(engine: Engine) -> None:
    chosen = {
        precision: final(list(generate(engine, replace(JOB, protect=("trigger", "noun")), precision))).protected
        for precision in ("taq-w8a8", "rtn-w8a8")
    }
    assert chosen == {"taq-w8a8": "trigger and noun", "rtn-w8a8": ""}


def test_previews_can_be_left_out_and_change_nothing(engine: Engine) -> None:
    job = replace(JOB, steps=8)
    shown, bare = (list(generate(engine, job, "reference", previews)) for previews in (True, False))
    assert [f.step for f in shown if f.image] == [1, 4, 8] and [f.step for f in bare if f.image] == [8]
    assert final(shown).image.tobytes() == final(bare).image.tobytes()


def test_closing_frees_the_engine(engine: Engine) -> None:
    frames = compare(engine, JOB, ALL)
    next(frames)
    frames.close()
    final(list(generate(engine, JOB, "reference")))


def test_several_pictures_share_keys_and_values(engine: Engine) -> None:
    with engine.hold(JOB, "reference") as session:
        layer = session.pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    calls: list[int] = []
    hook = layer.register_forward_hook(lambda *_: calls.append(1))
    frames = list(generate(engine, replace(JOB, count=3), "reference"))
    hook.remove()
    assert len(calls) == 1
    assert [f.step for f in frames] == list(range(1, 13)) and {f.total for f in frames} == {12}
    pictures = [f.image for f in frames if f.memory]
    third = final(list(generate(engine, replace(JOB, seed=2), "reference"))).image
    assert len(pictures) == 3 and pictures[2] and third and pictures[2].tobytes() == third.tobytes()


@pytest.mark.parametrize("precision", [*ALL, "rtn-w8a8", "rtn-w4a8", "nf4"])
def test_a_batch_is_the_pictures_of_its_seeds_each_with_its_memory(engine: Engine, precision: Precision) -> None:
    frames = list(generate(engine, replace(JOB, steps=2, count=4), precision))
    assert [(f.index, f.step, f.total) for f in frames] == [((step - 1) // 2, step, 8) for step in range(1, 9)]
    done = [frame for frame in frames if frame.memory]
    assert [frame.index for frame in done] == [0, 1, 2, 3]
    pictures = [frame.image.tobytes() for frame in done if frame.image]
    last = final(list(generate(engine, replace(JOB, steps=2, seed=3), precision)))
    assert len(set(pictures)) == 4 and last.image and pictures[3] == last.image.tobytes()
    for frame in done:
        assert frame.memory and last.memory and frame.memory.process_rss
        assert frame.memory.weights_bytes == last.memory.weights_bytes and frame.memory.kv_bytes == last.memory.kv_bytes


def test_memory_is_what_the_tensors_hold(engine: Engine) -> None:
    readings = {p: final(list(generate(engine, JOB, p))).memory for p in ALL}
    for precision, reading in readings.items():
        with engine.hold(JOB, precision) as session:
            assert reading and reading.weights_bytes == stored_bytes(session.pipe.unet)
        assert reading.device == "cpu" and reading.peak_allocated is None and reading.peak_reserved is None
        assert reading.device_total is None
        assert "no GPU: not measured" in reading.how_measured
        assert reading.process_rss and reading.process_rss > reading.weights_bytes
        assert reading.seconds > 0
    full, eight, four = (readings[p] for p in ALL)
    assert full and eight and four
    assert full.weights_bytes > 3 * eight.weights_bytes > 3 * four.weights_bytes
    assert full.kv_bytes == 4 * 2 * 2 * 77 * 64 * 4  # layers x (K, V) x (uncond, cond) x rows x width x float32
    assert eight.kv_bytes == four.kv_bytes < 0.4 * full.kv_bytes


def test_time_between_frames_that_the_caller_takes_is_not_counted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from personalq.backend import memory

    now = [0.0]
    monkeypatch.setattr(memory.time, "perf_counter", lambda: now[0])
    for frame in generate(engine, JOB, "reference"):
        if frame.memory is None:
            now[0] += 100.0
    assert frame.memory and frame.memory.seconds == 0.0


def test_no_protected_row_is_plain_quantisation_and_a_protected_one_is_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = final(list(generate(engine, JOB, "rtn-w8a8"))).image
    protected = final(list(generate(engine, JOB, "taq-w8a8"))).image
    own = module.encode
    monkeypatch.setattr(module, "encode", lambda *a, **k: unprotected(own(*a, **k)))
    nothing = final(list(generate(engine, JOB, "taq-w8a8"))).image
    assert plain and protected and nothing
    assert nothing.tobytes() == plain.tobytes() != protected.tobytes()


def unprotected(text: TextEmbeddings) -> TextEmbeddings:
    return replace(text, protected=torch.zeros_like(text.protected))


def test_without_spans_the_start_token_alone_is_protected(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor] = []
    own = module.encode

    def watched(*args: object, **kwargs: bool) -> TextEmbeddings:
        text = own(*args, **kwargs)
        masks.append(text.protected)
        return text

    monkeypatch.setattr(module, "encode", watched)
    list(generate(engine, replace(JOB, spans=()), "taq-w8a8"))
    list(generate(engine, JOB, "taq-w8a8"))
    assert masks[0].nonzero().tolist() == [[0, 0], [1, 0]]
    assert not masks[1][0].any() and not masks[1][1, 0] and masks[1].any()


def test_psnr() -> None:
    black, grey = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (10, 10, 10))
    assert psnr(black, black) == float("inf")
    assert psnr(black, grey) == pytest.approx(28.1308, abs=1e-3)
    with pytest.raises(ValueError, match="one size"):
        psnr(black, Image.new("RGB", (2, 2)))


def test_the_reference_in_two_dtypes_is_nearly_the_same_picture(engine: Engine, tiny_sd_folder: Path) -> None:
    half = Engine(tiny_sd_folder, "cpu")
    exact, rounded = (final(list(generate(e, JOB, "reference"))).image for e in (engine, half))
    assert exact and rounded and 30 < psnr(exact, rounded) < float("inf")


def test_a_class_noun_is_marked_but_not_protected(engine: Engine) -> None:
    trigger, noun = JOB.spans[0], Span(13, 16, "concept", "c")
    plain, marked, both = (
        final(list(generate(engine, replace(JOB, spans=spans), "taq-w4a8"))).memory.kv_bytes
        for spans in ((trigger,), (trigger, noun), (trigger, replace(noun, role="style")))
    )
    assert plain == marked < both


def test_a_cut_off_trigger_is_said_with_the_picture(engine: Engine) -> None:
    prompt = "dog " * 90 + "zwx dog"
    job = replace(JOB, prompt=prompt, spans=(Span(360, 363, "trigger", "c"),))
    assert "too long" in (final(list(generate(engine, job, "reference"))).warning or "")
    assert final(list(generate(engine, JOB, "reference"))).warning is None


def test_frames_say_which_rows_stayed_exact(engine: Engine, tiny_sd_folder: Path, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "moves.safetensors", lora_state(tiny_sd_folder))
    without = replace(JOB, spans=())
    said = {
        "trigger": generate(engine, JOB, "taq-w8a8"),
        "start only": generate(engine, without, "taq-w8a8"),
        "moved rows": generate(engine, replace(without, checkpoints=((adapter, 1.0),)), "taq-w8a8"),
        "": generate(engine, JOB, "rtn-w8a8"),
    }
    assert {words: list(frames)[-1].protected for words, frames in said.items()} == {words: words for words in said}


@pytest.mark.parametrize("job", [replace(JOB, prompt="a \udcff dog"), replace(JOB, negative="\ud800")])
def test_bytes_that_are_no_text_are_refused_before_anything_is_loaded(engine: Engine, job: Job) -> None:
    with pytest.raises(RequestError, match="no UTF-8 text"):
        next(generate(engine, job, "reference"))
    assert engine.residence.precision is None
