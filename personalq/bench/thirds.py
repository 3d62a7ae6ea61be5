"""What rounding one kind of place, during one third of the steps, does to finished pictures. It knows no blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from personalq.backend.engine import Session
from personalq.bench.batches import noise_of, walk
from personalq.bench.judged import measured
from personalq.bench.points import THIRDS, Asked, thirds
from personalq.bench.probe import Probe
from personalq.bench.sites import KINDS, ROUNDED, Site, rounding
from personalq.diffusion.preview import decode
from personalq.diffusion.text import TextEmbeddings, encode
from personalq.records import Job

Row = dict[str, Any]
Places = Mapping[tuple[str, str], Site]


def plans(places: Places) -> list[tuple[str, str, str]]:
    """What is rounded, of which kind, in which third: every combination, and all kinds at once."""
    kinds = [kind for kind in KINDS if any(kind == each for each, _ in places)]
    found = []
    for rounded in ROUNDED:
        for kind in kinds:
            if rounded == "activations" or any(site.layers for (each, _), site in places.items() if each == kind):
                found += [(rounded, kind, third) for third in THIRDS]
        found += [(rounded, "all", third) for third in THIRDS]
    return found


def pictures_of(
    session: Session, asked: Sequence[Asked], places: Places, probe: Probe, tick: Callable[[], None]
) -> list[Row]:
    """What every plan costs in dB, identity and probability of one concept's pictures, against the reference's."""
    pipe, jobs = session.pipe, [replace(each.exam.job, count=1) for each in asked]
    texts = [encode(pipe, job.prompt, job.negative) for job in jobs]
    embeds = torch.cat([each.embeds[row : row + 1] for row in (0, 1) for each in texts])
    text, noise = replace(texts[0], embeds=embeds), torch.cat([noise_of(pipe, job) for job in jobs])
    exams = [replace(each.exam, job=job) for each, job in zip(asked, jobs, strict=True)]
    steps = dict(zip(THIRDS, thirds(jobs[0].steps), strict=True))

    def images(sites: Sequence[Site], what: tuple[bool, bool], during: range) -> list[Image]:
        latents = rounded_during(session, text, noise, jobs[0], sites, what, during)
        return [decode(pipe, latents[index : index + 1]) for index in range(len(latents))]

    references, found = images([], (False, False), range(0)), []
    for rounded, kind, third in plans(places):
        chosen = [site for (each, _), site in places.items() if kind in (each, "all")]
        made = images(chosen, ROUNDED[rounded], steps[third])
        values = measured(probe, exams, made, references)
        row = {key: sum(values[key] or ()) / len(made) for key in ("psnr", "identity", "probability")}
        found.append({"rounded": rounded, "kind": kind, "third": third} | row)
        tick()
    return found


def rounded_during(
    session: Session,
    text: TextEmbeddings,
    noise: Tensor,
    job: Job,
    chosen: Sequence[Site],
    what: tuple[bool, bool],
    during: range,
) -> Tensor:
    """The finished latents of a walk that rounds at the chosen sites in the steps `during`, and nowhere else."""
    path = walk(session.pipe, text, noise, job)
    before = list(itertools.islice(path, during.start))
    with rounding(chosen, *what):
        inside = list(itertools.islice(path, len(during)))
    return [noise, *before, *inside, *path][-1]


def pictures_summed(rows: Sequence[Sequence[Row]]) -> list[Row]:
    """The concepts' pictures as means, plan by plan."""
    measures = ("psnr", "identity", "probability")
    return [
        each[0] | {key: sum(row[key] for row in each) / len(each) for key in measures}
        for each in zip(*rows, strict=True)
    ]
