"""The captions a model is calibrated on: half plain, half with a checkpoint's trigger and the checkpoint attached.

One quantised base serves many checkpoints, so its statistics come from prompts of all of them. It loads no model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from personalq.checkin.intent import parse
from personalq.checkin.rewrite import rewrite
from personalq.errors import CatalogError
from personalq.records import Checkpoint, Job, Request

COUNT = 64
SEED = 100_000
"""Seed of the first caption's noise, far from those that pictures are usually made and judged with."""

MOST = 10_000
"""Bytes of the longest caption read from a file."""


def repository_captions(
    repo: Path, checkpoints: Sequence[Checkpoint], count: int = COUNT, steps: int = 20
) -> tuple[Job, ...]:
    """Captions for a repository that says what it shows, in `recipe/judged.json`: subjects on places.

    Raises CatalogError where it does not say: give a file of captions then.
    """
    path = repo / "recipe" / "judged.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        subjects, places = [str(word) for word in data["subjects"]], [str(words) for words in data["places"].values()]
        nouns = {str(id_): str(concept["noun"]) for id_, concept in data["concepts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogError(f"{path} does not say what to calibrate on ({error}): give a file of captions.") from error
    shared = sharing(checkpoints)
    jobs = []
    for index in range(count):
        turn, half = divmod(index, 2)
        if half and shared:
            checkpoint = shared[turn % len(shared)]
            noun = nouns.get(checkpoint.id) or checkpoint.class_noun or subjects[turn % len(subjects)]
            place = places[(turn + turn // len(shared)) % len(places)]  # another place at every round
            jobs.append(with_trigger(f"a photo of {article(noun)} {place}", checkpoint, index, steps))
        else:
            subject, place = subjects[turn % len(subjects)], places[(turn + turn // len(subjects)) % len(places)]
            jobs.append(Job(f"a photo of {article(subject)} {place}", seed=SEED + index, steps=steps))
    return tuple(jobs)


def file_captions(
    path: Path, checkpoints: Sequence[Checkpoint] = (), count: int = COUNT, steps: int = 20
) -> tuple[Job, ...]:
    """The first `count` lines of a text file, every second one rewritten for a checkpoint where there are any.

    Raises CatalogError when the file cannot be read or holds no caption.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path} cannot be read ({error}): give a text file with one caption a line.") from error
    lines = [line for line in lines if line][:count]
    if not lines or max(len(line) for line in lines) > MOST:
        raise CatalogError(f"{path} holds no captions that can be used: write one caption a line, a sentence or two.")
    shared = sharing(checkpoints)
    return tuple(
        with_trigger(line, shared[index // 2 % len(shared)], index, steps)
        if index % 2 and shared
        else Job(line, seed=SEED + index, steps=steps)
        for index, line in enumerate(lines)
    )


def sharing(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints that run on the base's own denoiser: all that are loadable but DreamBooth models."""
    return [item for item in checkpoints if item.kind != "dreambooth" and item.loadable]


def with_trigger(caption: str, checkpoint: Checkpoint, index: int, steps: int) -> Job:
    """The caption as Check-in rewrites it for the checkpoint, which is attached."""
    written = rewrite(parse(Request(caption)), [checkpoint])
    return Job(
        written.prompt,
        spans=written.spans,
        checkpoints=((checkpoint, checkpoint.weight),),
        seed=SEED + index,
        steps=steps,
    )


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"
