"""Decisions, concepts and readings as plain data for programs. It knows no events and asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from personalq.records import Candidate, Checkpoint, Decision, Frame, NoMatch, Question, Recalled, Selection, Span

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


def repeatable(found: Recalled) -> dict[str, Any]:
    """What can be made again of a picture, and what cannot."""
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
    return {"here": here, "missing": list(found.missing), "remarks": list(found.remarks)}
