"""Which text rows are fragile: keys, values and probabilities of cross-attention rounded by one class at a time.

Rows are start, trigger, class noun, other words, end and padding. Each class is rounded alone, and all others are
rounded but it: the first says what a class costs, the second what keeping it exact would save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from personalq.backend.engine import Session
from personalq.bench.judged import noun_spans
from personalq.bench.points import Answer, Asked, Points, relative
from personalq.bench.sites import Switch, SwitchedAttention
from personalq.diffusion.load import Pipeline
from personalq.diffusion.text import mark
from personalq.quant.formats import INT4_ROWS, INT8, LINEAR4, LINEAR8, LOG4
from personalq.records import QType, Span

Row = dict[str, Any]
CLASSES = ("start", "trigger", "noun", "words", "end", "padding")
"""Disjoint, and together all rows. A class noun that is a word of the trigger counts as noun."""

UNIONS = {
    "trigger + noun": ("trigger", "noun"),
    "start + trigger + noun": ("start", "trigger", "noun"),
    "end + padding": ("end", "padding"),
    "trigger + noun + end + padding": ("trigger", "noun", "end", "padding"),
}
CHANGES: dict[str, dict[str, QType]] = {
    "K/V int8": {"keys": INT8, "values": INT8},
    "K/V int4": {"keys": INT4_ROWS, "values": INT4_ROWS},
    "K int4": {"keys": INT4_ROWS},
    "V int4": {"values": INT4_ROWS},
    "probabilities linear8": {"probabilities": LINEAR8},
    "probabilities linear4": {"probabilities": LINEAR4},
    "probabilities log4": {"probabilities": LOG4},
    "K/V int8, linear8": {"keys": INT8, "values": INT8, "probabilities": LINEAR8},
    "K/V int4, log4": {"keys": INT4_ROWS, "values": INT4_ROWS, "probabilities": LOG4},
}
"""What is rounded; the last two are attention at the eight- and the four-bit levels of the quantisation table."""


def classes(pipe: Pipeline, prompt: str, spans: Sequence[Span]) -> dict[str, Tensor]:
    """The rows [L] of each class and of each union, for a prompt as the pipeline's tokenizer reads it."""
    limit = pipe.tokenizer.model_max_length
    trigger, noun, end = (
        torch.tensor(mark(pipe, pipe.tokenizer, prompt, spans, (each,), limit).mask)
        for each in ("trigger", "noun", "end")
    )
    place = torch.arange(limit)
    last = int(end.nonzero()[0])
    found = {
        "start": place == 0,
        "trigger": trigger & ~noun,
        "noun": noun,
        "words": (place > 0) & (place < last) & ~trigger & ~noun,
        "end": end,
        "padding": place > last,
    }
    unions = {name: torch.stack([found[part] for part in parts]).any(0) for name, parts in UNIONS.items()}
    return found | unions


def classes_at(pipe: Pipeline, asked: Sequence[Asked], points: Points) -> dict[str, Tensor]:
    """The rows [3P, L] of each class at the points of one concept, in the order of their text rows."""
    each = len(points.x) // len(asked)
    groups = (
        [("", ())] * len(asked),
        [(exam.job.prompt, exam.job.spans) for exam, _, _ in asked],
        [(plain, noun_spans(plain, noun, "")) for _, plain, noun in asked],
    )
    found = [classes(pipe, prompt, spans) for group in groups for prompt, spans in group for _ in range(each)]
    return {name: torch.stack([rows[name] for rows in found]) for name in found[0]}


def token_rows(
    session: Session,
    asked: Sequence[Asked],
    points: Points,
    attention: Mapping[str, SwitchedAttention],
    tell: Callable[[], None],
) -> Row:
    """For one concept: how many rows each class has, what attention it gets, and what rounding it costs.

    {"count": {class: rows of the prompts}, "mass": {class: probability of their columns}, "errors": {change:
    {"all": error, class: {"alone": error, "others": error}}}}, an error being {part: one for all thirds together}.
    A class that the prompts do not have is left out.
    """
    layers = [each for name, each in attention.items() if name.endswith("attn2")]
    found = classes_at(session.pipe, asked, points)
    prompts = slice(len(points.x), 2 * len(points.x))
    before, mass = _watched(session.pipe, points, layers)
    held = {name: rows for name, rows in found.items() if bool(rows[prompts].any())}
    errors: Row = {}
    for change, formats in CHANGES.items():

        def error(chosen: Tensor | None, formats: Mapping[str, QType] = formats) -> dict[str, float]:
            with _all_set(layers, Switch(formats, chosen)):
                now = points.answer(session.pipe)
            tell()
            return {part: relative(getattr(now, part), getattr(before, part)) for part in Answer._fields}

        errors[change] = {"all": error(None)} | {
            name: {"alone": error(rows), "others": error(~rows)} for name, rows in held.items()
        }
    return {
        "count": {name: float(rows[prompts].float().sum(1).mean()) for name, rows in held.items()},
        "mass": {name: float((mass[prompts] * rows[prompts]).sum(1).mean()) for name, rows in held.items()},
        "errors": errors,
    }


def calls(held: int = len(CLASSES) + len(UNIONS)) -> int:
    """How many times `token_rows` asks the denoiser, for progress, where all classes are there."""
    return len(CHANGES) * (1 + 2 * held)


def _watched(pipe: Pipeline, points: Points, layers: Sequence[SwitchedAttention]) -> tuple[Answer, Tensor]:
    """The reference's answer, and the mean probability of each column over layers, heads and queries, [3P, L]."""
    mass = points.text.embeds.new_zeros(points.text.embeds.shape[:2], dtype=torch.float32)
    with _all_set(layers, Switch(mass=mass)):
        answer = points.answer(pipe)
    return answer, mass / len(layers)


@contextmanager
def _all_set(layers: Sequence[SwitchedAttention], switch: Switch) -> Iterator[None]:
    before = [layer.switch for layer in layers]
    try:
        for layer in layers:
            layer.switch = switch
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.switch = old
