"""Makes one job at one precision, or at several from the same noise. Knows no widgets and no files."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from PIL.Image import Image

from personalq.backend.engine import Engine, Session
from personalq.backend.memory import Meter
from personalq.diffusion.generate import denoise, initial_noise
from personalq.diffusion.lazy import Progress
from personalq.diffusion.load import denoiser
from personalq.diffusion.moved import rows_without_trigger
from personalq.diffusion.text import TextEmbeddings, encode
from personalq.errors import GenerationError, RequestError
from personalq.records import Frame, Job, Precision

BROKEN = re.compile("[\ud800-\udfff]")
"""Lone surrogates: no tokenizer takes them."""


def compare(
    engine: Engine,
    job: Job,
    precisions: Sequence[Precision] = ("reference", "taq-w8a8"),
    on_progress: Progress | None = None,
) -> Generator[Frame, None, None]:
    """The frames of one job at each precision in turn, every one from the same initial noise.

    `on_progress` follows the loading before each precision's first frame, as in `generate`. Close the generator to
    stop. Raises what `generate` raises.
    """
    for precision in precisions:
        with closing(generate(engine, job, precision, on_progress=on_progress)) as frames:
            yield from frames


def generate(
    engine: Engine, job: Job, precision: Precision, previews: bool = True, on_progress: Progress | None = None
) -> Generator[Frame, None, None]:
    """The frames of one job; each finished picture's frame carries the memory it took, measured.

    `job.count` pictures are made one after the other from seeds seed, seed + 1, ...; `total` counts all their steps.
    A UNet's keys and values of the prompt are computed once for all of them. `previews` shows every third step.
    `on_progress` is told of what is loaded, as in `Engine.hold`: in the caller's thread, before the first frame alone.
    Raises RequestError for a prompt that is no text, ModelError, IncompatibleCheckpointError, QuantizationError or
    GenerationError.
    """
    if job.count < 1:
        raise GenerationError(f"{job.count} pictures cannot be made: choose at least 1.")
    if BROKEN.search(job.prompt + job.negative):
        raise RequestError("The prompt, or what to avoid, holds bytes that are no UTF-8 text: type it again.")
    with engine.hold(job, precision, on_progress) as session:
        pipe, meter = session.pipe, Meter(session.device)
        text, protected = marked(session, job)
        rows = text.rows(job.guidance > 1).protected
        with session.variant.attention(denoiser(pipe), rows, session.is_tight) as cache:
            for index in range(job.count):
                meter = Meter(session.device) if index else meter
                noise, generator = initial_noise(pipe, job, index)
                with closing(denoise(pipe, text, noise, job, precision, generator, previews)) as frames:
                    for frame in frames:
                        done = frame.step == frame.total
                        memory = meter.reading(denoiser(pipe), cache.nbytes) if done else None
                        step = frame.step + index * frame.total
                        left = time.perf_counter()
                        total = frame.total * job.count
                        frame = replace(frame, step=step, total=total, memory=memory, index=index)
                        yield replace(frame, warning=text.warning, protected=protected) if done else frame
                        meter.skip(time.perf_counter() - left)


def marked(session: Session, job: Job) -> tuple[TextEmbeddings, str]:
    """The job's text, its rows marked that the session's variant keeps exact, and in words which those are.

    Without a trigger or style among the spans, the rows that the job's LoRAs move most take their place; where none
    moves any, the start token does.
    """
    pipe, variant = session.pipe, session.variant
    protect = variant.protect if job.protect is None or not variant.protect else job.protect
    text = encode(pipe, job.prompt, job.negative, job.spans, protect)
    if variant.mask:
        return replace(text, protected=variant.mask(session, text, job)), variant.name
    if "trigger" not in protect or any(span.role != "concept" for span in job.spans):
        return text, " and ".join(protect)
    mask, mode = rows_without_trigger(pipe, job.checkpoints, text)
    return replace(text, protected=mask), mode


def psnr(a: Image, b: Image) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / mean squared error); infinite for identical pictures.

    Raises ValueError for pictures of different sizes.
    """
    if a.size != b.size:
        raise ValueError(f"Pictures of {a.size} and {b.size} cannot be compared: make both at one size.")
    x, y = (np.asarray(picture.convert("RGB"), dtype=np.float64) for picture in (a, b))
    error = float(((x - y) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
