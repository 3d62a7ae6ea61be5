"""Exams ask for what they check, and the benchmarks' numbers come from pictures really made."""

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from personalq.backend.engine import Engine
from personalq.bench.judged import (
    Exam,
    Judged,
    base_exams,
    concept_exams,
    concept_job,
    concept_trials,
    plain_prompt,
    trial_job,
)
from personalq.bench.probe import HEADS, Probe, Verdict, load_probe
from personalq.bench.report import table
from personalq.bench.sample import sit
from personalq.catalog.scan import scan
from personalq.errors import CatalogError, ModelError
from personalq.records import Checkpoint
from personalq.settings import SAMPLE_REPO

JUDGED = Judged(
    ("dog", "owl"),
    {"beach": "on the beach", "snow": "in the snow"},
    {
        "zwx": {"head": "identity", "label": "zwx", "noun": "dog"},
        "ink": {"head": "style", "label": "ink", "noun": "owl"},
        "bare": {"head": "identity", "label": "bare", "noun": "owl"},
    },
)


def test_base_exams_cover_every_subject_on_every_scene() -> None:
    exams = list(base_exams(JUDGED, 2, 20))
    assert len(exams) == 2 * 2 * 2
    assert exams[0].job.prompt == "a photo of a dog on the beach"
    assert exams[2].job.prompt == "a photo of an owl on the beach"
    assert {exam.job.seed for exam in exams} == {0, 1}


@pytest.mark.parametrize(
    ("checkpoint", "prompt"),
    [
        (Checkpoint("zwx", triggers=("zwx dog",)), "a photo of zwx dog in the snow"),
        (Checkpoint("ink", triggers=("ink style",)), "ink style, a photo of an owl in the snow"),
        (Checkpoint("bare"), "a photo of an owl in the snow"),
    ],
    ids=lambda value: getattr(value, "id", None),
)
def test_concept_prompts_carry_their_trigger_and_its_span(checkpoint: Checkpoint, prompt: str) -> None:
    job = concept_job(checkpoint, JUDGED.concepts[checkpoint.id], "in the snow", 3, 20)
    assert job.prompt == prompt
    assert tuple(prompt[s.start : s.end] for s in job.spans) == checkpoint.triggers
    assert job.seed == 3


@pytest.mark.parametrize(
    ("checkpoint", "prompt", "marked", "plain"),
    [
        (Checkpoint("zwx", triggers=("zwx dog",)), "a picture of zwx dog in the snow", ("zwx dog", "dog"), "a dog"),
        (Checkpoint("zwx", triggers=("zwxdog",)), "a picture of zwxdog in the snow", ("zwxdog",), "a dog"),
        (Checkpoint("zwx"), "a picture of a dog in the snow", ("dog",), None),
    ],
    ids=["noun in the trigger", "noun inside a word", "no trigger"],
)
def test_trials_mark_trigger_and_noun_apart(
    checkpoint: Checkpoint, prompt: str, marked: tuple[str, ...], plain: str | None
) -> None:
    job = trial_job(checkpoint, "identity", "dog", "a picture of {} {}", "in the snow", 5)
    assert job.prompt == prompt
    assert tuple(prompt[span.start : span.end] for span in job.spans) == marked
    assert {span.role for span in job.spans} <= {"trigger", "concept"}
    assert ("trigger" in {span.role for span in job.spans}) == bool(checkpoint.triggers)
    exam = Exam(job, "identity", "zwx", "snow")
    assert plain_prompt(exam, "dog") == (plain and f"a picture of {plain} in the snow")


def test_a_style_is_left_out_of_the_plain_prompt() -> None:
    job = trial_job(Checkpoint("ink", triggers=("ink style",)), "style", "owl", "{} {}", "in the snow", 0)
    assert job.prompt == "ink style, an owl in the snow"
    assert plain_prompt(Exam(job, "style", "ink", "snow"), "owl") == "an owl in the snow"


def test_trials_differ_in_scene_wording_and_noise() -> None:
    places = {f"place {number}": f"at {number}" for number in range(10)}
    concepts = {name: {"head": "identity", "label": name[0], "noun": "dog"} for name in ("a1", "a2", "b")}
    chosen = tuple(Checkpoint(name, triggers=(f"{name} dog",)) for name in concepts)
    exams = list(concept_trials(Judged(("dog",), places, concepts), chosen, 5, 4, 20))
    assert [exam.job.checkpoints[0][0].id for exam in exams] == ["a2"] * 5 + ["b"] * 5
    assert sorted(exam.scene for exam in exams) == sorted(places)
    seeds = [exam.job.seed + picture for exam in exams for picture in range(exam.job.count)]
    assert len(set(seeds)) == 10 * 4
    assert {exam.job.prompt.partition("dog")[0] for exam in exams[:5]} == {"a photo of a2 ", "a picture of a2 ", "a2 "}


def test_an_exam_is_passed_only_by_its_own_label() -> None:
    exam = next(concept_exams(JUDGED, (Checkpoint("zwx", triggers=("zwx dog",)),), 1, 20))
    assert exam.passed(Verdict("dog", "beach", "photo", "zwx"))
    assert not exam.passed(Verdict("dog", "beach", "photo", "dog"))


def test_a_repository_without_judged_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="embedded repository"):
        Judged.read(tmp_path)


def test_probe_round_trip_and_damage(tmp_path: Path) -> None:
    labels = {head: ["a", "b"] for head in HEADS}
    probe = Probe(labels).eval()
    path = tmp_path / "probe.safetensors"
    save_file(probe.state_dict(), path, metadata={"labels": json.dumps(labels)})
    pictures = [Image.new("RGB", (96, 96), colour) for colour in ("red", "blue")]
    assert load_probe(path).look(pictures) == probe.look(pictures)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="train_probe"):
        load_probe(path)


def test_table_shows_every_row() -> None:
    text = table([{"name": "a", "bytes": 1234567, "psnr": None}, {"name": "b", "bytes": 1, "psnr": 30.25}])
    assert text.splitlines()[2:] == ["| a | 1,234,567 | – |", "| b | 1 | 30.250 |"]


def test_the_probe_sees_the_concepts_the_model_draws() -> None:
    """Four concepts on four scenes at 20 steps: the floor is far above chance (1 in 24) and below the benchmark's."""
    judged, probe = Judged.read(SAMPLE_REPO), load_probe(SAMPLE_REPO / "recipe" / "probe.safetensors")
    chosen = tuple(c for c in scan(SAMPLE_REPO).checkpoints if c.id in ("biscuit-dog", "star-mug"))
    results = sit(Engine(SAMPLE_REPO / "bases" / "tiny-sd"), probe, concept_exams(judged, chosen, 3, 20), lambda: None)
    assert sum(exam.passed(verdict) for exam, verdict in results) >= 4
