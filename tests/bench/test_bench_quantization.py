"""Pictures made in batches are those made alone, rows are what they say, and a run goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from personalq.backend.compare import generate, psnr
from personalq.backend.engine import Engine
from personalq.backend.variants import VARIANTS
from personalq.bench.batches import marked, noise_of, repeated, together, walk
from personalq.bench.judged import ALIKE, Exam, measured
from personalq.bench.peers.levels import Tag
from personalq.bench.probe import HEADS, Probe
from personalq.bench.quantization import as_text, quantization
from personalq.catalog.scan import scan
from personalq.diffusion.attention import prompt_attention
from personalq.errors import BenchError
from personalq.records import Checkpoint, Job, Span
from personalq.settings import SAMPLE_REPO

TAGS = {"reference": Tag("w16a16", 16), "taq-w8a8": Tag("w8a8", 8), "taq-w4a8": Tag("w4a8", 8)}
JOB = Job("a photo of a dog", spans=(Span(13, 16, "trigger", "dog"),), seed=3, steps=3, count=3)


@pytest.fixture(scope="module")
def chosen() -> tuple[Checkpoint, ...]:
    return tuple(c for c in scan(SAMPLE_REPO).checkpoints if c.id in ("biscuit-dog", "star-mug"))


def one_by_one(engine: Engine, precision: str) -> list[Image.Image]:
    frames = list(generate(engine, JOB, precision, previews=False))
    return [frame.image for frame in frames if frame.memory is not None and frame.image is not None]


def test_a_batch_holds_the_pictures_that_are_made_alone(tiny_sd_folder: Path) -> None:
    engine = Engine(tiny_sd_folder, "cpu", torch.float32)
    alone = one_by_one(engine, "reference")
    with engine.hold(JOB, "reference") as session:
        batch = together(session, JOB)
    assert len(alone) == len(batch.images) == 3
    assert min(psnr(a, b) for a, b in zip(alone, batch.images, strict=True)) > 60
    assert psnr(batch.images[0], batch.images[1]) < 50


@torch.no_grad()
def test_pictures_of_a_batch_know_nothing_of_one_another(tiny_sd_folder: Path) -> None:
    """Bit for bit: an activation scale that was shared would change the first when the second is another."""
    engine = Engine(tiny_sd_folder, "cpu", torch.float32)
    with engine.hold(JOB, "taq-w8a8") as session:
        pipe, found = session.pipe, []
        text = repeated(marked(session, JOB)[0], 2)
        first, second, third = noise_of(pipe, JOB).split(1)  # type: ignore[no-untyped-call]
        for noise in (torch.cat([first, second]), torch.cat([first, 50 * third])):
            with prompt_attention(pipe.unet, session.variant.text, text.protected):
                found.append(list(walk(pipe, text, noise, JOB))[-1])
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])


def test_rows_hold_fewer_bytes_and_stay_near_the_reference(chosen: tuple[Checkpoint, ...]) -> None:
    engine = Engine(SAMPLE_REPO / "bases" / "tiny-sd", "cpu", torch.float32)
    told: list[tuple[int, int, str]] = []
    result = quantization(
        engine,
        SAMPLE_REPO,
        chosen,
        each=1,
        steps=4,
        on_progress=lambda *now: told.append(now),
        rows=["taq-w8a8", "taq-w4a8"],
        prompts=1,
        tags=TAGS,
    )
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == list(TAGS)
    assert told[-1] == (6, 6, "taq-w4a8")
    assert rows["taq-w4a8"]["stored_bytes"] < rows["taq-w8a8"]["stored_bytes"] < rows["reference"]["stored_bytes"]
    assert rows["taq-w8a8"]["kv_bytes"] < rows["reference"]["kv_bytes"]
    assert rows["reference"]["psnr"] is None
    assert rows["taq-w8a8"]["psnr"]["mean"] > rows["taq-w4a8"]["psnr"]["mean"] > 10
    assert rows["taq-w8a8"]["parameters"] > 0.9 > rows["reference"]["parameters"] == 0
    assert 0.5 < rows["taq-w8a8"]["macs"] < 1
    json.dumps(result)
    assert "| taq-w4a8 |" in as_text(result)


def test_a_stopped_run_goes_on_with_the_row_that_was_not_finished(
    tiny_sd_folder: Path, tmp_path: Path, chosen: tuple[Checkpoint, ...]
) -> None:
    engine = Engine(SAMPLE_REPO / "bases" / "tiny-sd", "cpu", variants=VARIANTS)
    dog, asked = chosen[:1], {"each": 2, "steps": 1, "prompts": 1, "keep": tmp_path, "tags": TAGS}

    def stop(done: int, total: int, name: str) -> None:
        if name == "taq-w8a8":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantization(engine, SAMPLE_REPO, dog, on_progress=stop, rows=["taq-w8a8"], **asked)  # type: ignore[arg-type]
    kept = json.loads((tmp_path / "reference.json").read_text())
    assert not (tmp_path / "taq-w8a8.json").exists()
    (tmp_path / "reference.json").write_text(json.dumps(kept | {"stored_bytes": 7}))
    result = quantization(engine, SAMPLE_REPO, dog, rows=["taq-w8a8"], **asked)  # type: ignore[arg-type]
    assert result["rows"][0]["stored_bytes"] == 7
    assert result["rows"][1]["psnr"]["mean"] > 10
    with pytest.raises(BenchError, match="another folder"):
        quantization(engine, SAMPLE_REPO, dog, rows=[], **(asked | {"steps": 2}))  # type: ignore[arg-type]


def test_rows_that_do_not_exist_are_named(chosen: tuple[Checkpoint, ...]) -> None:
    engine = Engine(SAMPLE_REPO / "bases" / "tiny-sd", "cpu")
    with pytest.raises(BenchError, match="taq-w2a2"):
        quantization(engine, SAMPLE_REPO, chosen, rows=["taq-w8a8", "taq-w2a2"], tags=TAGS)
    with pytest.raises(BenchError, match="None of the checkpoints"):
        quantization(engine, SAMPLE_REPO, (Checkpoint("stranger"),), rows=[], tags=TAGS)


def test_measures_of_a_picture_agree_with_the_probe() -> None:
    """A probe that always says the first label, whose logit is 2 above the others' zero."""
    probe = Probe({head: ["yes", "no", "else"] for head in HEADS}).eval()
    for head in probe.heads.values():
        head.weight.data.zero_()
        head.bias.data.copy_(torch.tensor([2.0, 0.0, 0.0]))
    exam = Exam(Job("", checkpoints=((Checkpoint("a"), 1.0),)), "identity", "yes", "no")
    exams = [exam, replace(exam, label="no", scene="yes")]
    red, blue = (Image.new("RGB", (96, 96), colour) for colour in ("red", "blue"))
    found = measured(probe, exams, [red, blue], [red, red])
    share = torch.tensor([2.0, 0.0, 0.0]).softmax(0)
    assert found["identity"] == [1, 0]
    assert found["scene"] == [0, 1]
    assert found["margin"] == pytest.approx([2.0, -2.0])
    assert found["probability"] == pytest.approx(share[:2].tolist())
    assert found["psnr"] == [ALIKE, pytest.approx(psnr(red, blue))]
    assert measured(probe, exams, [red, blue], None)["psnr"] is None
