"""What the embedded repository is judged by: its prompts, its probe, and the pictures the probe is checked on.

It generates nothing; `sample` and `quantization` do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from personalq.bench.probe import HEADS, SIDE, Probe, Verdict
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
