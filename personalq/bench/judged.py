"""What the embedded repository is judged by: its prompts, its probe, and the pictures the probe is checked on.

It generates nothing; `sample` and `quantization` do.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from personalq.backend.compare import psnr
from personalq.bench.probe import HEADS, SIDE, Probe, Verdict, as_tensor
from personalq.errors import CatalogError
from personalq.records import Checkpoint, Job, Span


@dataclass(frozen=True)
class Judged:
    """The repository's `recipe/judged.json`."""

    subjects: tuple[str, ...]
    places: dict[str, str]
    """Scene label to the words that ask for it."""
    concepts: dict[str, dict[str, str]]
    """Checkpoint id to {"head", "label", "noun"}: what the probe must see, and the base noun."""

    @classmethod
    def read(cls, repo: Path) -> Judged:
        """Raises CatalogError where the repository carries none: it cannot be judged by this benchmark."""
        path = repo / "recipe" / "judged.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(data["subjects"]), dict(data["places"]), dict(data["concepts"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CatalogError(
                f"{path} cannot be read ({error}): this benchmark needs the embedded repository."
            ) from error


@dataclass(frozen=True)
class Exam:
    """One picture to make and what must be seen on it."""

    job: Job
    head: str
    label: str
    scene: str

    def passed(self, verdict: Verdict) -> bool:
        """The probe sees what was asked for."""
        return bool(getattr(verdict, self.head) == self.label)


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def base_exams(judged: Judged, per_pair: int, steps: int) -> Iterator[Exam]:
    """Every subject on every scene, `per_pair` seeds each."""
    for seed in range(per_pair):
        for subject in judged.subjects:
            for scene, place in judged.places.items():
                job = Job(f"a photo of {article(subject)} {place}", seed=seed, steps=steps)
                yield Exam(job, "subject", subject, scene)


def concept_exams(judged: Judged, checkpoints: tuple[Checkpoint, ...], each: int, steps: int) -> Iterator[Exam]:
    """`each` pictures of every concept, over the scenes in turn, its trigger protected."""
    scenes = list(judged.places.items())
    for order, checkpoint in enumerate(c for c in checkpoints if c.id in judged.concepts):
        asked = judged.concepts[checkpoint.id]
        for seed in range(each):
            scene, place = scenes[(order + seed) % len(scenes)]
            yield Exam(concept_job(checkpoint, asked, place, seed, steps), asked["head"], asked["label"], scene)


def concept_job(checkpoint: Checkpoint, asked: dict[str, str], place: str, seed: int, steps: int) -> Job:
    """The plainest prompt with the trigger where Check-in's rewriting would put it, and its span."""
    trigger = checkpoint.triggers[0] if checkpoint.triggers else ""
    if asked["head"] == "style":
        prompt = f"{trigger}, a photo of {article(asked['noun'])} {place}"
    else:
        prompt = f"a photo of {trigger or article(asked['noun'])} {place}"
    start = prompt.find(trigger)
    spans = (Span(start, start + len(trigger), "trigger", checkpoint.id),) if trigger else ()
    return Job(prompt, spans=spans, checkpoints=((checkpoint, checkpoint.weight),), seed=seed, steps=steps)


ALIKE = 100.0
"""dB that identical pictures count as, so that one of them does not make a mean infinite."""

WORDINGS = ("a photo of {} {}", "a picture of {} {}", "{} {}")
"""The ways to ask for a plain picture that the embedded model was taught."""

STRIDE = 7
"""From one scene to that of the next prompt; it has no factor in common with ten scenes, so all come in turn."""


def concept_trials(
    judged: Judged, checkpoints: Sequence[Checkpoint], prompts: int, seeds: int, steps: int
) -> Iterator[Exam]:
    """`prompts` prompts for every concept, differing in wording and scene, each one job of `seeds` pictures.

    No noise is drawn twice. Of the versions of one concept the last alone is asked, since they resemble one another.
    A style is asked of another subject each time. The class noun is marked too, where it is a word of the prompt.
    """
    latest = {judged.concepts[c.id]["label"]: c for c in checkpoints if c.id in judged.concepts}
    scenes = list(judged.places.items())
    for order, (label, checkpoint) in enumerate(latest.items()):
        asked = judged.concepts[checkpoint.id]
        for number in range(prompts):
            place = order * prompts + number
            scene, words = scenes[place * STRIDE % len(scenes)]
            noun = judged.subjects[place % len(judged.subjects)] if asked["head"] == "style" else asked["noun"]
            wording = WORDINGS[place % len(WORDINGS)]
            job = trial_job(checkpoint, asked["head"], noun, wording, words, seed=place * seeds)
            yield Exam(replace(job, steps=steps, count=seeds), asked["head"], label, scene)


def trial_job(checkpoint: Checkpoint, head: str, noun: str, wording: str, place: str, seed: int) -> Job:
    """The prompt in one wording with the trigger, if there is one, and the spans of trigger and class noun."""
    trigger = checkpoint.triggers[0] if checkpoint.triggers else ""
    if head == "style":
        prompt = f"{trigger}, {wording.format(article(noun), place)}"
    else:
        prompt = wording.format(trigger or article(noun), place)
    start = prompt.find(trigger)
    spans = [Span(start, start + len(trigger), "trigger", checkpoint.id)] if trigger else []
    return Job(
        prompt,
        spans=(*spans, *noun_spans(prompt, noun, checkpoint.id)),
        checkpoints=((checkpoint, checkpoint.weight),),
        seed=seed,
    )


def noun_spans(prompt: str, noun: str, id: str) -> tuple[Span, ...]:
    """The first place where the class noun is a word of the prompt; none where it is only part of one."""
    word = re.search(rf"(?<!\w){re.escape(noun)}(?!\w)", prompt)
    return (Span(*word.span(), "concept", id),) if word else ()


def plain_prompt(exam: Exam, noun: str) -> str | None:
    """The prompt with the class noun for the trigger, or without the words of a style; None without a trigger."""
    span = next((span for span in exam.job.spans if span.role == "trigger"), None)
    if span is None:
        return None
    before, after = exam.job.prompt[: span.start], exam.job.prompt[span.end :]
    return after.removeprefix(", ") if exam.head == "style" else before + article(noun) + after


@torch.no_grad()
def measured(
    probe: Probe, exams: Sequence[Exam], images: Sequence[Image.Image], references: Sequence[Image.Image] | None
) -> dict[str, list[Any] | None]:
    """Every measure of every picture, picture after picture; `psnr` is None where nothing is compared."""
    asked = [exam for exam in exams for _ in range(exam.job.count)]
    logits = probe(as_tensor(images))
    values: dict[str, list[Any] | None] = {
        "concept": [exam.job.checkpoints[0][0].id for exam in asked],
        "psnr": None if references is None else list(map(_decibels, references, images)),
    }
    chances, margins, right, scenes = [], [], [], []
    for index, exam in enumerate(asked):
        seen, place = logits[exam.head][index], probe.labels[exam.head].index(exam.label)
        others = torch.cat([seen[:place], seen[place + 1 :]])
        margins.append(float(seen[place] - others.max()))
        chances.append(float(seen.softmax(0)[place]))
        right.append(int(margins[-1] > 0))
        scenes.append(int(logits["scene"][index].argmax() == probe.labels["scene"].index(exam.scene)))
    return values | {"identity": right, "probability": chances, "margin": margins, "scene": scenes}


def _decibels(a: Image.Image, b: Image.Image) -> float:
    value = psnr(a, b)
    return ALIKE if math.isinf(value) else value


def probe_accuracy(probe: Probe, repo: Path) -> tuple[float, int]:
    """The probe's accuracy on the held-out drawn pictures, averaged over its heads; and how many there are."""
    labels = json.loads((repo / "recipe" / "held_out.json").read_text(encoding="utf-8"))
    with Image.open(repo / "recipe" / "held_out.webp") as sheet:
        across = sheet.width // SIDE
        boxes = [(i % across * SIDE, i // across * SIDE) for i in range(len(labels))]
        pictures = [sheet.crop((x, y, x + SIDE, y + SIDE)) for x, y in boxes]
    seen = probe.look(pictures)
    right = [getattr(v, head) == said[head] for v, said in zip(seen, labels, strict=True) for head in HEADS]
    return sum(right) / len(right), len(pictures)
