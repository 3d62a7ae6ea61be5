"""Judges the embedded model: can the probe name what the base and every concept draw?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL.Image import Image

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.bench.judged import Exam, Judged, base_exams, concept_exams, probe_accuracy
from personalq.bench.probe import Probe, Verdict, load_probe
from personalq.bench.report import device_line
from personalq.records import Checkpoint, Precision

Progress = Callable[[int, int, str], None]


def picture(engine: Engine, exam: Exam, precision: Precision = "reference") -> Image:
    """The finished picture of one exam."""
    frames = list(generate(engine, exam.job, precision, previews=False))
    image = frames[-1].image
    assert image is not None  # the last frame of a run carries it
    return image


def sit(engine: Engine, probe: Probe, exams: Iterable[Exam], tell: Callable[[], None]) -> list[tuple[Exam, Verdict]]:
    """Make and judge every picture."""
    results = []
    for exam in exams:
        results.append((exam, probe.look([picture(engine, exam)])[0]))
        tell()
    return results


def sample(
    engine: Engine,
    repo: Path,
    checkpoints: tuple[Checkpoint, ...],
    per_pair: int = 2,
    each: int = 14,
    steps: int = 20,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Subject, scene and identity accuracy at full precision, and the probe's own accuracy on drawn pictures.

    `per_pair` seeds for every subject on every scene, `each` pictures for every concept.
    Raises CatalogError or ModelError where the repository carries no probe.
    """
    judged, probe = Judged.read(repo), load_probe(repo / "recipe" / "probe.safetensors")
    base = list(base_exams(judged, per_pair, steps))
    concepts = list(concept_exams(judged, checkpoints, each, steps))
    done, total = 0, len(base) + len(concepts)

    def tell() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, total, "pictures")

    seen, known = sit(engine, probe, base, tell), sit(engine, probe, concepts, tell)
    accuracy, held_out = probe_accuracy(probe, repo)
    by_concept: dict[str, list[bool]] = {}
    for exam, verdict in known:
        by_concept.setdefault(exam.job.checkpoints[0][0].id, []).append(exam.passed(verdict))
    return {
        "device": device_line(engine.device),
        "subject_accuracy": _share(exam.passed(verdict) for exam, verdict in seen),
        "scene_accuracy": _share(verdict.scene == exam.scene for exam, verdict in seen),
        "concept_identity": _share(exam.passed(verdict) for exam, verdict in known),
        "probe_accuracy": accuracy,
        "n": {"base": len(seen), "concepts": len(known), "held_out": held_out},
        "by_subject": {
            subject: _share(exam.passed(verdict) for exam, verdict in seen if exam.label == subject)
            for subject in judged.subjects
        },
        "by_concept": {name: _share(passed) for name, passed in by_concept.items()},
    }


def _share(passed: Iterable[bool]) -> float:
    values = list(passed)
    return sum(values) / len(values) if values else 0.0
