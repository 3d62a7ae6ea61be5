"""The one question worth asking about a ranking, and what it is worth. It reads no answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from personalq.checkin.nouns import class_of
from personalq.checkin.ranking import Model, Ranking
from personalq.checkin.words import content_words
from personalq.records import Candidate, Checkpoint, Option, Question

SHOWN = 4
"""Options at most, besides "none of these"."""
NONE_OF_THESE = "none"
EDITION = "edition"
"""Starts the id of an option that is one version and no other."""
_PLAUSIBLE = 0.01
_KINDS = {"lora": "LoRA", "dreambooth": "full model (DreamBooth)", "ti": "textual inversion"}


@dataclass(frozen=True)
class Attribute:
    """Something models differ in: how to read it and how to ask for it."""

    name: str
    ask: str
    read: Callable[[Checkpoint], str | None]


ATTRIBUTES = (
    Attribute(
        "trigger", "Which trigger word", lambda checkpoint: checkpoint.triggers[0] if checkpoint.triggers else None
    ),
    Attribute("version", "Which version", lambda checkpoint: checkpoint.version),
    Attribute("base", "For which base model", lambda checkpoint: checkpoint.base),
    Attribute("kind", "Which kind of file", lambda checkpoint: _KINDS[checkpoint.kind]),
    Attribute("noun", "What should it show", lambda checkpoint: checkpoint.class_noun),
)


@dataclass(frozen=True)
class Worth:
    """A question with its value V(A) and information gain in nats."""

    question: Question
    value: float
    gain: float


def best_question(ranking: Ranking) -> Worth | None:
    """The question of largest information gain, A* = argmax H(P) - Σ_a P(a) H(P|a); None with fewer than two models.

    Its value is V(A) = Σ_a max_{g in a} P(g) + max(max_{g in r} P(g), p(none)) - max(P(g*), p(none)), r being the
    models behind no shown option.
    """
    models = [model for model in ranking.models if model.probability >= _PLAUSIBLE]
    if len(models) < 2:
        return None
    names = _unique_labels(models)
    offers = [("name", _which(models), {model.group: names[model.group] for model in models})]
    for attribute in ATTRIBUTES:
        if attribute.name == "version" and not _alike(models):
            continue
        values = {model.group: attribute.read(model.best.checkpoint) for model in models}
        known = sum(model.probability for model in models if values[model.group])
        if known >= 0.5 * sum(model.probability for model in models):
            offers.append((attribute.name, attribute.ask, {group: value for group, value in values.items() if value}))
    found = [_worth(ranking, models, *offer) for offer in offers]
    return max(found, key=lambda worth: (round(worth.gain, 6), worth is found[0]))


def about_versions(versions: Sequence[Checkpoint], candidates: Sequence[Candidate]) -> Question:
    """Which version of one model, `versions` being oldest first; the newest `SHOWN` are offered."""
    shown = list(reversed(versions))[:SHOWN]
    labels = [_dated(checkpoint) for checkpoint in shown]
    options = [
        Option(f"{EDITION}-{number}", label, (checkpoint.id,))
        for number, (label, checkpoint) in enumerate(zip(labels, shown, strict=True), start=1)
    ]
    text = f"Which version of {label_of(shown[0])}: {_listing(labels)}?"
    return Question(text, (*options, Option(NONE_OF_THESE, "None of these", ())), tuple(candidates))


def _dated(checkpoint: Checkpoint) -> str:
    version = checkpoint.version or f"the {checkpoint.kind} {checkpoint.id}"
    return f"{version} ({checkpoint.created_at[:10]})" if checkpoint.created_at else version


def _alike(models: Sequence[Model]) -> bool:
    """Whether all names share a word, so that their versions say something beside each other."""
    return bool(set.intersection(*(set(content_words(model.best.checkpoint.name)) for model in models)))


def _worth(ranking: Ranking, models: Sequence[Model], name: str, ask: str, values: dict[str, str]) -> Worth:
    cells: dict[str, list[Model]] = {}
    for model in models:
        if model.group in values:
            cells.setdefault(values[model.group], []).append(model)
    shown = sorted(cells, key=lambda value: -sum(model.probability for model in cells[value]))[:SHOWN]
    rest = [model for model in ranking.models if values.get(model.group) not in shown]
    outcomes = [[model.probability for model in cells[value]] for value in shown]
    outcomes.append([*(model.probability for model in rest), ranking.none])
    value = sum(max(cell) for cell in outcomes) - max(ranking.top, ranking.none)
    gain = _entropy([share for cell in outcomes for share in cell]) - sum(
        sum(cell) * _entropy(cell) for cell in outcomes
    )
    options = tuple(
        Option(f"{name}-{number}", label, _ids(ranking, {model.group for model in cells[label]}))
        for number, label in enumerate(shown, start=1)
    )
    closing = Option(NONE_OF_THESE, "None of these", ())
    text = f"{ask}: {_listing([option.label for option in options])}?"
    return Worth(Question(text, (*options, closing), ranking.candidates), value, gain)


def _ids(ranking: Ranking, groups: set[str]) -> tuple[str, ...]:
    firsts = {model.group: model.best.checkpoint.id for model in ranking.models if model.group in groups}
    return tuple(firsts.values())


def _entropy(shares: Sequence[float]) -> float:
    total = sum(shares)
    return -sum(share / total * math.log(share / total) for share in shares if share > 0) if total else 0.0


def _which(models: Sequence[Model]) -> str:
    nouns = {class_of(model.best.checkpoint.class_noun) for model in models[:SHOWN] if model.best.checkpoint.class_noun}
    roles = {model.best.checkpoint.role for model in models[:SHOWN]}
    if len(nouns) == 1 and all(model.best.checkpoint.class_noun for model in models[:SHOWN]):
        return f"Which {nouns.pop()} do you mean"
    return "Which style do you mean" if roles == {"style"} else "Which one do you mean"


def _listing(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} or {labels[-1]}"


def _unique_labels(models: Sequence[Model]) -> dict[str, str]:
    """The models' names, told apart by base, kind, trigger or id where two share one."""
    labels = {model.group: label_of(model.best.checkpoint) for model in models}
    tell: tuple[Callable[[Checkpoint], str | None], ...] = (
        lambda checkpoint: checkpoint.base,
        lambda checkpoint: _KINDS[checkpoint.kind],
        lambda checkpoint: checkpoint.triggers[0] if checkpoint.triggers else None,
        lambda checkpoint: checkpoint.id,
    )
    for read in tell:
        seen = [label.casefold() for label in labels.values()]
        doubled = [model for model in models if seen.count(labels[model.group].casefold()) > 1]
        for model in doubled:
            extra = read(model.best.checkpoint)
            labels[model.group] += f" ({extra})" if extra else ""
    return labels


def label_of(checkpoint: Checkpoint) -> str:
    """A name short enough for a button."""
    name = " ".join((checkpoint.name or checkpoint.id).split())
    return name if len(name) <= 60 else f"{name[:57]}..."
