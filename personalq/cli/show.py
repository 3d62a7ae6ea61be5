"""From objects to what is printed: results on stdout, as one JSON object or text; progress and problems on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from tqdm import tqdm

from personalq.records import Candidate, Decision, Frame, Job, NoMatch, Precision, Question, Recalled, Selection

if TYPE_CHECKING:
    from personalq.backend.engine import Engine
    from personalq.catalog.scan import Catalog

LONGEST = 50
"""Characters of the concepts in a file's name."""
NOT_LOADED = "  (listed only: cannot be loaded)"


def save(engine: Engine, job: Job, frame: Frame, path: Path) -> str:
    """Write the frame's picture as PNG that says how it was made; its path as text."""
    from personalq.backend.provenance.metadata import made, save_png

    data = made(engine, job, frame.variant, 0, frame)
    if frame.image is not None:
        save_png(frame.image, path, data)
    return str(path)


def free_paths(folder: Path, job: Job, precisions: Sequence[Precision]) -> list[Path]:
    """Files for a job's pictures, by its concepts, seed and precisions; with a number where that would replace one."""
    concepts = re.sub(r"[^\w.+-]+", "_", "+".join(checkpoint.id for checkpoint, _ in job.checkpoints))[:LONGEST]
    names = [f"personalq-{concepts}-{job.seed}-{precision}" for precision in precisions]
    ends = chain([".png"], (f"-{number}.png" for number in count(2)))
    tries = ([folder / f"{name}{end}" for name in names] for end in ends)
    return next(paths for paths in tries if not any(path.exists() for path in paths))


class Bar:
    """One progress bar on stderr, made when there is something to show."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def tell(self, done: int, total: int, what: str) -> None:
        """`done` of `total`, and what is being worked on."""
        if self.bar is None:
            self.bar = tqdm(total=total, file=sys.stderr, leave=False, mininterval=0.5)
        self.bar.set_description_str(what, refresh=False)
        if self.bar.total != total:  # Another stage, whose pace says nothing of the one before.
            self.bar.reset(total)
        self.bar.update(done - self.bar.n)


def note(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def report(
    result: dict[str, Any], as_json: bool, text: Callable[[dict[str, Any]], str], out: Path | None = None
) -> None:
    """The result on stdout, as one JSON object or as text, and as JSON in the file `out`."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(pretty(result) + "\n", encoding="utf-8")
    typer.echo(json.dumps(result, ensure_ascii=False, default=str) if as_json else text(result))


def pretty(result: dict[str, Any]) -> str:
    """The result as indented JSON, for people."""
    return json.dumps(result, indent=2, ensure_ascii=False, default=str)


def index_text(catalog: Catalog) -> str:
    """A line for every checkpoint, then how many there are and what had to be read."""
    lines = [
        f"{c.id}  {c.kind}  {', '.join(c.triggers[:3]) or '-'}  {c.name}" + ("" if c.loadable else NOT_LOADED)
        for c in catalog.checkpoints
    ]
    tally = catalog.tally
    lines.append(
        f"{len(catalog.checkpoints)} checkpoints, {len(catalog.problems)} problems; "
        f"{tally.entries} entries: {tally.new} new, {tally.reread} read again, {tally.gone} gone."
    )
    return "\n".join(lines)


def decision_json(decision: Decision) -> dict[str, Any]:
    """The documented object: outcome, checkpoints, prompt, spans, question, candidates, timings."""
    selected = decision if isinstance(decision, Selection) else None
    asked = decision if isinstance(decision, Question) else None
    outcome = "selection" if selected else "question" if asked else "no_match"
    options = [{"label": option.label, "ids": list(option.checkpoint_ids)} for option in asked.options] if asked else []
    return {
        "outcome": outcome,
        "checkpoints": [c.id for c in selected.checkpoints] if selected else [],
        "prompt": selected.prompt if selected else None,
        "spans": [{"start": s.start, "end": s.end, "role": s.role, "id": s.id} for s in selected.spans]
        if selected
        else [],
        "question": {"text": asked.text, "options": options} if asked else None,
        "why": "" if isinstance(decision, Question) else decision.why,
        "warnings": list(selected.warnings) if selected else [],
        "nearest": [c.checkpoint.id for c in decision.nearest] if isinstance(decision, NoMatch) else [],
        "candidates": [candidate_json(candidate) for candidate in decision.candidates],
        "remarks": list(decision.remarks),
        "timings_ms": decision.timings_ms,
    }


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """One candidate with all its scores."""
    return {
        "id": candidate.checkpoint.id,
        "lexical": candidate.lexical,
        "dense": candidate.dense,
        "fused": candidate.fused,
        "rerank": candidate.rerank,
        "probability": candidate.probability,
        "reason": candidate.reason,
    }


def decision_text(decision: Decision) -> str:
    """The decision for people."""
    if isinstance(decision, Selection):
        names = ", ".join(c.name or c.id for c in decision.checkpoints)
        return "\n".join([f"{names} ({decision.why})", decision.prompt, *decision.warnings, *decision.remarks])
    if isinstance(decision, Question):
        options = [f"  {k}. {option.label}" for k, option in enumerate(decision.options, 1)]
        return "\n".join([decision.text, *options, *decision.remarks])
    return "\n".join([f"No match: {decision.why}", *decision.remarks])


def memory_json(frame: Frame) -> dict[str, Any] | None:
    """The frame's memory reading as an object."""
    return dict(vars(frame.memory)) if frame.memory else None


def recalled_text(data: Mapping[str, Any], found: Recalled) -> str:
    """How a picture was made, for people, and what of it is here."""
    job, size = found.job, f"{data['width']}x{data['height']}" if data["width"] and data["height"] else "unknown size"
    lines = [job.prompt, *([f"Negative: {job.negative}"] if job.negative else [])]
    lines.append(f"seed {job.seed}, {job.steps} steps, guidance {job.guidance:g}, {size}")
    lines.append(f"precision {data['precision'] or 'unknown'}, base {data['base']['name'] or 'unknown'}")
    lines += [f"here: {checkpoint.id}, weight {weight:g}" for checkpoint, weight in job.checkpoints]
    lines += [f"missing: {name}" for name in found.missing]
    return "\n".join([*lines, *found.remarks])
