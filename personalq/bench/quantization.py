"""The precisions side by side on the embedded model: bytes really stored, and what the pictures lose.

Every row makes the same pictures from the same noise. Nothing here is simulated: weights, K/V and activations are
stored and computed at the bits the row names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL.Image import Image

from personalq.backend.compare import generate, psnr
from personalq.backend.engine import Engine
from personalq.bench.judged import Exam, Judged, concept_exams
from personalq.bench.probe import load_probe
from personalq.bench.report import device_line
from personalq.records import Checkpoint, MemoryReading, Precision

ROWS: tuple[Precision, ...] = ("reference", "nf4", "rtn-w8a8", "taq-w8a8", "rtn-w4a8", "taq-w4a8")
Progress = Callable[[int, int, str], None]


def quantization(
    engine: Engine,
    repo: Path,
    checkpoints: tuple[Checkpoint, ...],
    each: int = 4,
    steps: int = 20,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """One row per precision over `each` pictures of every concept.

    `psnr` is the mean against the reference's picture of the same seed, in dB; `identity` and `scene` are probe
    accuracies; `stored_bytes` is the base denoiser as held in memory, without adapters, and `fp16_bytes` the same at
    two bytes a parameter; `seconds` is the median per picture.
    """
    judged, probe = Judged.read(repo), load_probe(repo / "recipe" / "probe.safetensors")
    exams = list(concept_exams(judged, checkpoints, each, steps))
    references: list[Image] = []
    rows: list[dict[str, Any]] = []
    fp16 = 0
    for index, precision in enumerate(ROWS):
        images: list[Image] = []
        readings: list[MemoryReading] = []
        for number, exam in enumerate(exams):
            image, reading = _made(engine, exam, precision)
            images.append(image)
            readings.append(reading)
            if on_progress:
                on_progress(index * len(exams) + number + 1, len(ROWS) * len(exams), precision)
        references = references or images
        smallest = min(reading.weights_bytes for reading in readings)  # adapters come on top of the base
        fp16 = fp16 or smallest * 2 // engine.dtype.itemsize
        verdicts = probe.look(images)
        rows.append(
            {
                "name": precision,
                "stored_bytes": smallest,
                "fp16_bytes": fp16,
                "psnr": None if index == 0 else _mean_psnr(references, images),
                "identity": fmean(exam.passed(seen) for exam, seen in zip(exams, verdicts, strict=True)),
                "scene": fmean(seen.scene == exam.scene for exam, seen in zip(exams, verdicts, strict=True)),
                "real": True,
                "kv_bytes": max(reading.kv_bytes for reading in readings),
                "seconds": sorted(reading.seconds for reading in readings)[len(readings) // 2],
            }
        )
    return {"device": device_line(engine.device), "n": len(exams), "steps": steps, "rows": rows}


def _made(engine: Engine, exam: Exam, precision: Precision) -> tuple[Image, MemoryReading]:
    last = list(generate(engine, exam.job, precision, previews=False))[-1]
    assert last.image is not None  # the last frame of a run carries both
    assert last.memory is not None
    return last.image, last.memory


def _mean_psnr(references: list[Image], images: list[Image]) -> float:
    """Identical pictures count as 100 dB, so that one of them does not make the mean infinite."""
    values = [psnr(a, b) for a, b in zip(references, images, strict=True)]
    return fmean(100.0 if math.isinf(value) else value for value in values)
