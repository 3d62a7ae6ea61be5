"""Models a request cannot tell apart share their probability. It reads names and constraints, and scores nothing."""

from __future__ import annotations

from dataclasses import replace

from personalq.checkin.bases import fits
from personalq.checkin.profile import Profile
from personalq.checkin.ranking import Model, Ranking
from personalq.checkin.rerank.features import date_fit, version_fit
from personalq.checkin.retrieve import Index
from personalq.checkin.slots import explained
from personalq.checkin.words import content_words
from personalq.records import Checkpoint, Intent

_ANYWHERE = 0.7
_LEAST = 0.01
"""Probability from which a model may be what is meant at all."""


def level(index: Index, ranking: Ranking) -> Ranking:
    """The ranking with the best model and those that say the same words of the request equally probable.

    A reranker prefers one of two "recording booth" models for reasons the user never gave. One that fits a version,
    date or base asked for worse than the best stays where it is.
    """
    if not ranking.models:
        return ranking
    best = ranking.models[0]
    profile = index.by_id[best.best.checkpoint.id]
    said = set(explained(profile, ranking.intent.text))
    if not said:
        return ranking
    said |= _described(profile, ranking.intent)
    tied = [best, *(model for model in ranking.models[1:] if _alike(index, ranking.intent, said, best, model))]
    share = sum(model.probability for model in tied) / len(tied)
    groups = {model.group for model in tied}
    models = [replace(model, probability=share) if model.group in groups else model for model in ranking.models]
    return replace(ranking, models=tuple(sorted(models, key=lambda model: -model.probability)))


def _alike(index: Index, intent: Intent, said: set[str], best: Model, model: Model) -> bool:
    if model.probability < _LEAST:
        return False
    mine, theirs = model.best.checkpoint, best.best.checkpoint
    if any(
        before > after for before, after in zip(_constraints(intent, theirs), _constraints(intent, mine), strict=True)
    ):
        return False
    profile = index.by_id[mine.id]
    return said <= {*explained(profile, intent.text), *_described(profile, intent)}


def _described(profile: Profile, intent: Intent) -> set[str]:
    """The words of the subject that a checkpoint says anywhere."""
    return {word for word in content_words(intent.subject) if profile.match(word)[1] >= _ANYWHERE}


def _constraints(intent: Intent, checkpoint: Checkpoint) -> tuple[float, ...]:
    base = fits(checkpoint.base, intent.base)
    kind = intent.kind is None or checkpoint.kind == intent.kind
    return (
        version_fit(intent, checkpoint),
        date_fit(intent, checkpoint),
        0.0 if base is None else float(base),
        float(kind),
    )
