"""Decisions, concepts and readings as plain data for programs. It knows no events and asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from personalq.records import Candidate, Checkpoint, Decision, Frame, Job, NoMatch, Question, Recalled, Selection, Span
from personalq.ui.controls import MOST_SEED, MOST_STEPS

LONGEST_DESCRIPTION = 500
"""Characters."""


def ranked(decision: Decision) -> list[Candidate]:
    """Every candidate once, those the decision names first."""
    named: set[str] = set()
    first: list[Candidate] = []
    if isinstance(decision, Selection):
        named = {one.id for one in decision.checkpoints}
        first = [Candidate(one, probability=decision.confidence, reason=decision.why) for one in decision.checkpoints]
    elif isinstance(decision, Question):
        named = {id_ for option in decision.options for id_ in option.checkpoint_ids}
    else:
        first = list(decision.nearest)
    found = [one for one in decision.candidates if one.checkpoint.id in named]
    once: dict[str, Candidate] = {}
    for one in (*found, *first, *decision.candidates):
        once.setdefault(one.checkpoint.id, one)
    return list(once.values())


def candidate(one: Candidate) -> dict[str, Any]:
    """A concept that was found, with its share of the posterior."""
    return {**concept(one.checkpoint), "probability": round(one.probability, 4), "why": one.reason}


def concept(one: Checkpoint) -> dict[str, Any]:
    """What a caller may know of a checkpoint: nothing of where its files are."""
    return {
        "id": one.id,
        "name": one.name,
        "kind": one.kind,
        "role": one.role,
        "triggers": list(one.triggers),
        "class_noun": one.class_noun,
        "version": one.version,
        "base": one.base,
        "license": one.license,
        "description": one.description[:LONGEST_DESCRIPTION],
        "loadable": one.loadable,
    }


def decided(decision: Decision) -> dict[str, Any]:
    """A decision by its "kind": "selection", "question" or "no_match"."""
    if isinstance(decision, Question):
        options = [
            {"id": one.id, "label": one.label, "concept_ids": list(one.checkpoint_ids)} for one in decision.options
        ]
        return {"kind": "question", "text": decision.text, "options": options, "remarks": list(decision.remarks)}
    if isinstance(decision, NoMatch):
        nearest = [candidate(one) for one in decision.nearest]
        return {"kind": "no_match", "why": decision.why, "nearest": nearest, "remarks": list(decision.remarks)}
    return {
        "kind": "selection",
        "concepts": [concept(one) for one in decision.checkpoints],
        "prompt": decision.prompt,
        "spans": marked(decision.prompt, decision.spans),
        "confidence": round(decision.confidence, 4),
        "why": decision.why,
        "warnings": list(decision.warnings),
        "remarks": list(decision.remarks),
    }


def marked(prompt: str, spans: Sequence[Span]) -> list[dict[str, Any]]:
    """The marked pieces of a prompt: code points, end exclusive."""
    return [
        {
            "start": one.start,
            "end": one.end,
            "text": prompt[one.start : one.end],
            "role": one.role,
            "concept_id": one.id,
        }
        for one in spans
    ]


def reading(frame: Frame) -> dict[str, Any] | None:
    """What a picture took, in bytes and seconds; None where nothing was measured."""
    return asdict(frame.memory) if frame.memory else None


def repeatable(found: Recalled, own: tuple[int, int] | None = None) -> dict[str, Any]:
    """What can be made again of a picture, and what cannot; `own` is the size of the base's own pictures, if known."""
    job = found.job
    here = {
        "prompt": job.prompt,
        "negative": job.negative,
        "spans": marked(job.prompt, job.spans),
        "concepts": [{"id": one.id, "weight": weight} for one, weight in job.checkpoints],
        "seed": job.seed,
        "steps": job.steps,
        "guidance": job.guidance,
        "width": job.width,
        "height": job.height,
        "precision": found.precision,
    }
    return {"here": here, "missing": list(found.missing), "remarks": [*found.remarks, *_beyond(job, own)]}


def _beyond(job: Job, own: tuple[int, int] | None) -> list[str]:
    """What of a job compare_images cannot be asked for."""
    size = own and (job.width or own[0], job.height or own[1])
    lost = [
        *(["a negative prompt"] if job.negative else []),
        *([f"guidance {job.guidance:g}"] if job.guidance != Job("").guidance else []),
        *([f"{size[0]} x {size[1]} pixels"] if size and size != own else []),
        *([f"weight {weight:g} of {one.id}" for one, weight in job.checkpoints if weight != one.weight]),
        *([f"{len(job.checkpoints)} concepts at once"] if len(job.checkpoints) > 1 else []),
        *([f"{job.steps} steps ({MOST_STEPS} at most)"] if job.steps > MOST_STEPS else []),
        *([f"seed {job.seed} (0 to {MOST_SEED})"] if not 0 <= job.seed <= MOST_SEED else []),
    ]
    return [f"compare_images cannot be asked for {', '.join(lost)}: its pictures will differ."] if lost else []
