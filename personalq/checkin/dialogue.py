"""A turn of conversation: a request, at most one question, its answer. The scores and rules live elsewhere."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from personalq.checkin.answer import beyond, clicked, indifferent, opening, with_digits
from personalq.checkin.bases import fits
from personalq.checkin.clock import Clock
from personalq.checkin.decide import (
    STAGES,
    Reading,
    Thresholds,
    VersionPolicy,
    composing,
    decide,
    merged,
    no_match,
    read,
    selection,
    sure,
)
from personalq.checkin.dense import Encoder
from personalq.checkin.intent import LONGEST, parse, without_consumed
from personalq.checkin.profile import Profile
from personalq.checkin.question import EDITION, NONE_OF_THESE, label_of
from personalq.checkin.ranking import Ranking, rank, weigh
from personalq.checkin.rerank.embedded import Embedded
from personalq.checkin.rerank.fallback import Fallback
from personalq.checkin.rerank.features import Asked, date_fit, denied, version_fit
from personalq.checkin.rerank.protocol import Reranker
from personalq.checkin.retrieve import Index, allowed
from personalq.checkin.stores.choose import Server
from personalq.checkin.versions import meant, resolve
from personalq.checkin.words import content_words, words
from personalq.errors import RequestError, UnknownCheckpointError
from personalq.records import Candidate, Checkpoint, Decision, Intent, Option, Question, Request, Selection

_UNRELATED = 0.25
"""Share of an answer's words that some candidate must say for it to be an answer by its words."""
_CONSTRAINT = "it is what the answer asks for"
_MEANT = 0.3
"""Cosine with a candidate from which an answer may describe it in other words."""


@dataclass(frozen=True)
class Pending:
    """A question that waits for its answer: plain data, safe to keep in a session or as JSON."""

    request: Request
    text: str
    options: tuple[Option, ...]

    def as_json(self) -> dict[str, object]:
        """Nested dictionaries, lists and strings only."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Pending:
        """Raises RequestError when `stored` is not what `as_json` wrote."""
        try:
            request = dict(stored["request"])  # type: ignore[call-overload]
            request["history"] = tuple(request["history"])
            options = [
                Option(str(item["id"]), str(item["label"]), tuple(str(each) for each in item["checkpoint_ids"]))
                for item in stored["options"]  # type: ignore[attr-defined]
            ]
            asked = Request(**request)
            _texts(asked.text, asked.base or "", asked.as_of or "", *asked.history)
            return cls(asked, str(stored["text"]), tuple(options))
        except (KeyError, TypeError, ValueError) as broken:
            raise RequestError(f"The pending question was lost ({broken}); type the request again.") from None


def _texts(*values: object) -> None:
    """Raises TypeError unless all are strings."""
    if not all(isinstance(value, str) for value in values):
        raise TypeError("a field is no text")


def pending(request: Request, question: Question) -> Pending:
    """What to keep until the answer to `question` comes."""
    return Pending(request, question.text, question.options)


class CheckIn:
    """From a vague request to checkpoints and a prompt, over one catalogue.

    The default reranker needs no network, and scores the rest of a turn in which another `reranker` fails; the decision
    says so in its remarks. `cache` keeps sentence vectors between runs; `on_progress(done, total,
    what)` is called while new ones are computed. `encoder` is a sentence-transformers folder or Hub id, or one already
    made; None is the packaged one. `store` is where rows are kept: "memory", "disk" (under `cache`), "auto", by
    their number, or a Qdrant server. `version_policy` "ask" asks which version is meant where the request leaves
    several open, for repositories whose versions differ in what they show; "newest" takes the newest and says so.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        cache: Path | None = None,
        reranker: Reranker | None = None,
        on_progress: Callable[[int, int, str], None] | None = None,
        thresholds: Thresholds | None = None,
        encoder: str | Encoder | None = None,
        store: str | Server = "auto",
        version_policy: VersionPolicy = "newest",
    ) -> None:
        self._index = Index(checkpoints, cache, on_progress, encoder, store)
        self._default = Embedded(self._index.by_id, self._index.rarity)
        self._default.learn((each.id for each in self._index.checkpoints), on_progress)
        self._chosen = reranker or self._default
        self._thresholds = replace(thresholds or Thresholds(), version_policy=version_policy)

    @property
    def index(self) -> Index:
        """The catalogue as it is searched; `index.store.name` says where its rows are kept."""
        return self._index

    def add(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Make checkpoints findable from the next request on; nothing else is encoded again. Known ids are kept."""
        self._index.add(checkpoints)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget checkpoints from the next request on; unknown ids are left out."""
        self._index.remove(ids)

    def with_own(self, own: Sequence[Checkpoint]) -> CheckIn:
        """A copy that knows more checkpoints, for one visitor: this one does not, and nothing is written to disk.

        Raises CatalogError for a catalogue so large that it is not kept in memory.
        """
        twin = copy.copy(self)
        twin._index = self._index.with_own(own)
        twin._default = self._default.over(twin._index.by_id, twin._index.rarity)
        twin._chosen = twin._default if self._chosen is self._default else self._chosen
        return twin

    def ask(self, request: Request) -> Decision:
        """Decide, or ask one question. Raises RequestError for a request that is empty or too long."""
        return self._ask(request, Fallback(self._chosen, self._default))

    def _ask(self, request: Request, scoring: Fallback, thresholds: Thresholds | None = None) -> Decision:
        clock = Clock()
        reading = read(self._index, scoring, request, clock)
        return _told(decide(self._index, reading, thresholds or self._thresholds, clock), clock, scoring)

    def answer(self, pending: Pending, text: str) -> Decision:
        """Settle a pending question by an option's id, label or number, or by free text; never asks again.

        Text that has nothing to do with the candidates is a new request. Raises RequestError for an answer that is
        empty, without words or too long, or when the options are no longer in the catalogue.
        """
        if len(text) > LONGEST:
            raise RequestError(f"The answer has {len(text)} characters; shorten it to {LONGEST} at most.")
        if not words(text):
            raise RequestError("The answer is empty; choose an option or type which one you mean.")
        offered = [each for option in pending.options for each in option.checkpoint_ids]
        if not offered or not any(each in self._index.by_id for each in offered):
            raise RequestError("The options of that question are no longer in the catalogue; type the request again.")
        clock, scoring = Clock(), Fallback(self._chosen, self._default)
        reading = read(self._index, scoring, pending.request, clock)
        asked = self._asked_slot(reading, offered)
        option = clicked(text, pending.options)
        if option is None and beyond(text, pending.options) and not pending.options[0].id.startswith(EDITION):
            raise RequestError(f"There is no option {text.strip()}; choose one of those shown or type which you mean.")
        if pending.options[0].id.startswith(EDITION):
            return self._edition(reading, asked, pending, option, text, clock, scoring)
        if option is not None and option.id == NONE_OF_THESE:
            return _told(self._rest(reading, asked, set(offered), clock), clock, scoring)
        if option is None and not indifferent(text):
            return self._typed(reading, asked, text, clock, scoring)
        ids = option.checkpoint_ids if option else offered
        kept = [item for item in asked.candidates if item.checkpoint.id in ids]
        if not kept:
            raise RequestError("That option is no longer in the catalogue; type the request again.")
        return _told(self._settle(reading, asked, kept[0], reading.intent, clock), clock, scoring)

    def choose(self, request: Request, checkpoint_id: str) -> Selection:
        """The user picked a checkpoint: write the prompt for it. Raises UnknownCheckpointError for an unknown id."""
        if checkpoint_id not in self._index.by_id:
            raise UnknownCheckpointError(f"No checkpoint has the id {checkpoint_id!r}; index the repository again.")
        clock = Clock()
        with clock.stage("intent"):
            intent = parse(request, self._index.bases, self._index.nouns)
        checkpoint = self._index.by_id[checkpoint_id].checkpoint
        chosen = selection(intent, [checkpoint], 1.0, f"{label_of(checkpoint)}: chosen by you.", (), clock)
        return replace(chosen, timings_ms=clock.read(*STAGES))

    def _typed(self, reading: Reading, asked: Ranking, text: str, clock: Clock, scoring: Fallback) -> Decision:
        """Rerank the question's candidates by the answer, on top of what the request said."""
        said = replace(reading.request, text=with_digits(opening(text)))
        intent = parse(said, self._index.bases, self._index.nouns)
        rescored = self._index.rescore(intent, [item.checkpoint.id for item in asked.candidates], clock)
        chooses = bool(intent.base or intent.kind or intent.version or intent.time_range)
        constrained = (chooses and not content_words(without_consumed(intent))) or _only_denies(intent)
        if not constrained and self._unrelated(intent, asked, rescored, clock, scoring):
            fresh = replace(reading.request, text=text)
            return self._ask(fresh, scoring, replace(self._thresholds, ask=math.inf))
        with clock.stage("rerank"):
            told = ([0.0] * len(rescored), [_CONSTRAINT] * len(rescored))
            logits, reasons = told if constrained else scoring.score(intent, rescored)
            before = {item.checkpoint.id: item.rerank for item in asked.candidates}
            joint = [logit + before[item.checkpoint.id] for logit, item in zip(logits, rescored, strict=True)]
            kept = list(range(len(rescored)))
            for meets in _constraints(intent, reading.request.base):
                kept = [at for at in kept if meets(self._index.by_id[rescored[at].checkpoint.id])] or kept
            rescored, joint = [rescored[at] for at in kept], [joint[at] for at in kept]
            ranking = weigh(self._index, scoring, asked.intent, rescored, joint, [reasons[at] for at in kept])
        joined = _together(reading.intent, intent)
        return _told(self._settle(reading, asked, ranking.candidates[0], joined, clock), clock, scoring)

    def _edition(
        self,
        reading: Reading,
        asked: Ranking,
        pending: Pending,
        option: Option | None,
        text: str,
        clock: Clock,
        scoring: Fallback,
    ) -> Decision:
        """The version that the answer names; of those it leaves open, or did not want, the newest."""
        group = self._index.by_id[pending.options[0].checkpoint_ids[0]].group
        said = parse(replace(reading.request, text=text), self._index.bases, self._index.nouns)
        if option is None and not indifferent(text) and self._means_another(said, {group}, clock, scoring):
            fresh = replace(reading.request, text=text)
            return self._ask(fresh, scoring, replace(self._thresholds, ask=math.inf))
        if said.version or said.time_range:
            option = None
        left = list(meant(self._index, reading.intent, group, reading.request.base, described=True).open)
        if option is not None and option.id != NONE_OF_THESE:
            left = [each for each in left if each.id in option.checkpoint_ids]
        elif option is not None:
            shown = {each for other in pending.options for each in other.checkpoint_ids}
            left = [each for each in left if each.id not in shown]
        elif not indifferent(text):
            joint = _together(reading.intent, said)
            found = meant(self._index, joint, group, reading.request.base, described=True)
            left = list(found.open)
            if not left:
                return _told(no_match(self._index, reading, found.remark), clock, scoring)
        if not left:
            return _told(
                no_match(self._index, reading, "None of the versions offered, and there is no other."), clock, scoring
            )
        why = f"{label_of(left[-1])}: {left[-1].version or left[-1].id}, by your answer."
        return _told(selection(reading.intent, [left[-1]], 1.0, why, asked.candidates, clock), clock, scoring)

    def _unrelated(
        self, intent: Intent, asked: Ranking, rescored: Sequence[Candidate], clock: Clock, scoring: Fallback
    ) -> bool:
        """Whether an answer is a request of its own: it says nothing of the candidates, or surely means another."""
        if intent.base or intent.kind or intent.version or intent.time_range or intent.negatives:
            return False
        profiles = [self._index.by_id[item.checkpoint.id] for item in asked.candidates]
        said = Asked.of(intent, self._index.rarity).everything
        total = sum(said.values())
        covers = [sum(share * profile.match(word)[1] for word, share in said.items()) / total for profile in profiles]
        alike = max((max(item.dense, item.body) for item in rescored), default=0.0)
        described = alike >= _MEANT and len(content_words(intent.text)) > 1
        if max(covers, default=0.0) < _UNRELATED and not described:
            return True
        return self._means_another(intent, {profile.group for profile in profiles}, clock, scoring)

    def _means_another(self, intent: Intent, known: set[str], clock: Clock, scoring: Fallback) -> bool:
        """Whether an answer, read as a request, surely means a model that was not in question."""
        fresh = rank(self._index, scoring, intent, None, clock)
        return (
            sure(fresh, self._thresholds) and fresh.none < self._thresholds.none and fresh.models[0].group not in known
        )

    def _settle(self, reading: Reading, asked: Ranking, pick: Candidate, intent: Intent, clock: Clock) -> Decision:
        """The picked model in the version meant, beside the other slot's best when the request had two."""
        chosen: list[Checkpoint] = []
        remarks: list[str] = []
        other = self._other_slot(reading, asked)
        groups = [self._index.by_id[pick.checkpoint.id].group]
        if other is not None:
            at = 0 if reading.parts and other is reading.parts[1] else 1
            groups.insert(at, other.models[0].group)
        for group in groups:
            checkpoint, remark = resolve(self._index, intent, group, reading.request.base)
            if checkpoint is None:
                return no_match(self._index, reading, remark)
            chosen.append(checkpoint)
            remarks.append(f"{label_of(checkpoint)}: by your answer. {remark}".strip())
        candidates = merged([asked, other]) if other else asked.candidates
        return selection(reading.intent, chosen, 1.0, " ".join(remarks), candidates, clock)

    def _rest(self, reading: Reading, asked: Ranking, offered: set[str], clock: Clock) -> Decision:
        """ "None of these": the best model that was not shown, or no match."""
        shown = {self._index.by_id[each].group for each in offered if each in self._index.by_id}
        rest = [model for model in asked.models if model.group not in shown]
        if not rest or rest[0].probability <= asked.none:
            return no_match(self._index, reading, "None of the checkpoints offered, and no other comes close.")
        return self._settle(reading, asked, rest[0].best, reading.intent, clock)

    def _asked_slot(self, reading: Reading, offered: Sequence[str]) -> Ranking:
        """The ranking the question was about: the one that holds most of the options."""
        rankings: list[Ranking] = [reading.whole, *(reading.parts or ())]
        wanted = {self._index.by_id[each].group for each in offered if each in self._index.by_id}
        held = [len(wanted & {model.group for model in ranking.models}) for ranking in rankings]
        if max(held) == 0:
            raise RequestError("The options of that question are no longer in the catalogue; type the request again.")
        slot = composing(self._index, reading, self._thresholds)
        if slot is not None:
            held[0] = -1
        return rankings[held.index(max(held))]

    @staticmethod
    def _other_slot(reading: Reading, asked: Ranking) -> Ranking | None:
        if reading.parts is None or asked is reading.whole:
            return None
        return reading.parts[1] if asked is reading.parts[0] else reading.parts[0]


def _told(decision: Decision, clock: Clock, scoring: Fallback) -> Decision:
    """The decision with its timings and what its reranker remarks."""
    return replace(decision, timings_ms=decision.timings_ms or clock.read(*STAGES), remarks=scoring.remarks)


def _only_denies(intent: Intent) -> bool:
    """Whether an answer says what is not meant and nothing else."""
    denied_words = {word for phrase in intent.negatives for word in content_words(phrase)}
    return bool(denied_words) and set(content_words(intent.text)) <= denied_words | {"not", "neither", "nor", "no"}


def _constraints(intent: Intent, loaded: str | None) -> tuple[Callable[[Profile], bool], ...]:
    """What an answer asks of a checkpoint beside its words, the firmest first; one that none meets is let go."""
    return (
        lambda profile: not denied(intent, profile),
        lambda profile: intent.base is None or fits(profile.checkpoint.base, intent.base) is True,
        lambda profile: allowed(profile.checkpoint, intent, loaded),
        lambda profile: version_fit(intent, profile.checkpoint) >= 0,
        lambda profile: date_fit(intent, profile.checkpoint) >= 0,
    )


def _together(request: Intent, answer: Intent) -> Intent:
    """The request with what the answer adds to it, for choosing a version."""
    return replace(
        request,
        text=f"{request.text} {answer.text}",
        version=answer.version or request.version,
        base=answer.base or request.base,
        kind=answer.kind or request.kind,
        time_range=answer.time_range or request.time_range,
        negatives=(*request.negatives, *answer.negatives),
    )
