"""Every way to hold the denoiser on the embedded model: what it stores, and what its pictures lose.

All rows make the same pictures from the same noise. Finished rows are kept in a folder, so that the same call goes on
where it was stopped. How rows are compared is the affair of `contrasts`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from personalq.backend.engine import Engine
from personalq.bench.batches import Batch, together
from personalq.bench.contrasts import REFERENCE, contrasts, summary
from personalq.bench.intervals import Clusters
from personalq.bench.judged import Exam, Judged, concept_trials, measured
from personalq.bench.ledger import Ledger, Pictures, Row
from personalq.bench.peers.facts import facts
from personalq.bench.peers.levels import Tag
from personalq.bench.peers.registry import TAGS
from personalq.bench.probe import Probe, load_probe
from personalq.bench.report import device_line, table
from personalq.diffusion.load import denoiser
from personalq.errors import BenchError
from personalq.quant.apply import stored_bytes
from personalq.records import Checkpoint

Progress = Callable[[int, int, str], None]


class Means(NamedTuple):
    """What every row is made and judged with."""

    engine: Engine
    exams: Sequence[Exam]
    probe: Probe
    tags: Mapping[str, Tag]


def quantization(
    engine: Engine,
    repo: Path,
    checkpoints: tuple[Checkpoint, ...],
    each: int = 4,
    steps: int = 20,
    on_progress: Progress | None = None,
    *,
    rows: Sequence[str] | None = None,
    prompts: int = 4,
    keep: Path | None = None,
    tags: Mapping[str, Tag] = TAGS,
) -> dict[str, Any]:
    """The `rows` named, or all that `engine` knows, over `each` pictures of `prompts` prompts of every concept.

    The reference is always made, and first. `keep` is the folder of finished rows. `tags` tells of each row what it
    computes with. `stored_bytes` is the base denoiser as held in memory, without adapters. Progress counts pictures.
    Raises BenchError for rows without variant or tag, and for a `keep` of other prompts; and what the engine raises.
    """
    names = list(dict.fromkeys([REFERENCE, *(engine.variants if rows is None else rows)]))
    unknown = [name for name in names if name not in engine.variants or name not in tags]
    if unknown:
        raise BenchError(f"There are no rows called {', '.join(unknown)}: choose among {', '.join(tags)}.")
    exams = list(concept_trials(Judged.read(repo), checkpoints, prompts, each, steps))
    if not exams:
        raise BenchError("None of the checkpoints is one that this repository's probe can name.")
    # A DreamBooth denoiser takes the base's place: last, so that the base is packed once a row.
    exams.sort(key=lambda exam: exam.job.checkpoints[0][0].kind == "dreambooth")
    means = Means(engine, exams, load_probe(repo / "recipe" / "probe.safetensors"), tags)
    ledger, total = Ledger(keep, plan(engine, exams)), len(names) * sum(exam.job.count for exam in exams)
    done = 0
    for name in names:
        if ledger.row(name) is None:

            def tell(made: int, name: str = name, before: int = done) -> None:
                if on_progress:
                    on_progress(before + made, total, name)

            ledger.add(name, *made(means, name, ledger, tell))
        done += total // len(names)
    return result(engine, exams, {name: ledger.row(name) or {} for name in names})


def plan(engine: Engine, exams: Sequence[Exam]) -> Row:
    """What two rows must have in common to be compared."""
    return {
        "base": Path(engine.base).name,
        "dtype": str(engine.dtype).removeprefix("torch."),
        "device": engine.device.type,
        "jobs": [
            [e.job.checkpoints[0][0].id, e.job.prompt, e.job.seed, e.job.count, e.job.steps, e.job.guidance]
            for e in exams
        ],
    }


def made(means: Means, name: str, ledger: Ledger, tell: Callable[[int], None]) -> tuple[Row, Pictures]:
    """One row and its pictures: its facts first, then concept after concept."""
    engine, exams = means.engine, means.exams
    began, row = time.perf_counter(), known(means, name)
    batches: list[Batch] = []
    for _, group in groupby(exams, key=lambda exam: exam.job.checkpoints):
        jobs = [exam.job for exam in group]
        with engine.hold(jobs[0], name) as session:
            for job in jobs:
                batches.append(together(session, job))
                tell(sum(len(batch.images) for batch in batches))
    images = [image for batch in batches for image in batch.images]
    references = None if name == REFERENCE else [Image.fromarray(array) for array in ledger.seen(REFERENCE)]
    row |= {
        "kv_bytes": max(batch.kv_bytes for batch in batches),
        "seconds": median(batch.seconds for batch in batches),
        "row_seconds": time.perf_counter() - began,
        "values": measured(means.probe, exams, images, references),
    }
    return row, np.stack([np.asarray(image.convert("RGB")) for image in images])


def known(means: Means, name: str) -> Row:
    """What is known of a row but its pictures: bits, coverage and bytes of the base without adapters."""
    engine, bare = means.engine, replace(means.exams[0].job, checkpoints=(), spans=())
    told = facts(engine, name, bare, means.tags[name])
    with engine.hold(bare, name) as session:
        held, report = stored_bytes(denoiser(session.pipe)), session.report
        size = sum(parameter.numel() for parameter in denoiser(session.pipe).parameters())
    tag = asdict(told.tag)
    return {
        "name": name,
        "device": device_line(engine.device),
        **tag,
        **{key: value for key, value in asdict(told).items() if key not in ("name", "tag")},
        "real": told.real,
        "stored_bytes": held,
        "fp16_bytes": report.fp16_bytes if report else 2 * size,
    }


def result(engine: Engine, exams: Sequence[Exam], rows: Mapping[str, Row]) -> dict[str, Any]:
    """The rows summed up and compared."""
    reference = rows[REFERENCE]
    clusters = Clusters(reference["values"]["concept"])
    return {
        "device": device_line(engine.device),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "n": len(reference["values"]["concept"]),
        "concepts": len(clusters.members),
        "prompts": len(exams),
        "steps": exams[0].job.steps,
        "guidance": exams[0].job.guidance,
        "rows": [summary(row, reference, clusters) for row in rows.values()],
        "contrasts": contrasts(rows, clusters),
    }


def as_text(result: Mapping[str, Any]) -> str:
    """The table, and below it every difference that is significant."""
    lines = [
        f"{result['device']}, {result['dtype']}",
        f"{result['n']} pictures a row: {result['concepts']} concepts, {result['prompts']} prompts, "
        f"{result['steps']} steps. In brackets: 95 % intervals over concepts.",
        "",
        table([_cells(row) for row in result["rows"]]),
        "",
        "Differences of pictures from the same noise; p by flipping signs of concepts, Holm-adjusted:",
    ]
    sure = [contrast for contrast in result["contrasts"] if contrast["significant"]]
    for each in sure:
        lines.append(
            f"  {each['row']} against {each['against']}: {each['measure']} {each['mean']:+.3f} "
            f"[{each['low']:+.3f}, {each['high']:+.3f}], p {each['p_holm']:.4f}"
        )
    lines.append(f"  {len(result['contrasts']) - len(sure)} other differences are not significant.")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "row": row["name"],
        "MB": row["stored_bytes"] / 1e6,
        "× fp16": row["fp16_bytes"] / row["stored_bytes"],
        "K/V KB": round(row["kv_bytes"] / 1000),
        "% params": round(100 * row["parameters"]),
        "% MACs": round(100 * row["macs"]),
        "PSNR": _told(row["psnr"], 2),
        "identity": _told(row["identity"], 3),
        "of reference": _told(row["identity_kept"], 3),
        "probability": _told(row["probability"], 3),
        "scene": _told(row["scene"], 3),
        "× s": row["seconds_ratio"],
        "real": "yes" if row["real"] else f"no: {row['simulated']}",
    }


def _told(spread: Mapping[str, Any] | None, digits: int) -> str:
    if spread is None or spread["mean"] is None:
        return "–"
    mean, low, high = (f"{spread[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
