"""A turn of conversation: a request, at most one question, its answer. The scores and rules live elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from personalq.checkin.answer import (
    beyond,
    clicked,
    indifferent,
    month_of,
    numeral,
    opening,
    refers,
    signed,
    with_digits,
)
from personalq.checkin.bases import fits
from personalq.checkin.clock import Clock
from personalq.checkin.decide import (
    NEAREST,
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
from personalq.checkin.evidence import Standing, asks_for, covered, quoted, speaks_for
from personalq.checkin.intent import LONGEST, parse, without_consumed
from personalq.checkin.profile import Profile
from personalq.checkin.question import EDITION, NONE_OF_THESE, label_of
from personalq.checkin.ranking import Ranking, rank
from personalq.checkin.rerank.embedded import Embedded
from personalq.checkin.rerank.fallback import Fallback
from personalq.checkin.rerank.features import Asked, date_fit, denied, version_fit
from personalq.checkin.rerank.protocol import Reranker
from personalq.checkin.retrieve import Index, allowed
from personalq.checkin.stores.choose import Server
from personalq.checkin.versions import meant, resolve
from personalq.checkin.words import content_words, words
from personalq.errors import RequestError, UnknownCheckpointError
from personalq.records import Candidate, Checkpoint, Decision, Intent, NoMatch, Option, Question, Request, Selection

_POSSIBLE = 0.001
"""Share of a question's candidates from which one that was not offered may be meant by the answer."""
_SHARED = 0.9
"""Match of a word from which a checkpoint is called by it or tagged with it, or is of that class."""
_UNCLEAR = "The answer means none of the options more than another, and is no request for anything else here."


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


@dataclass(frozen=True)
class _Asked:
    """A question as its answer finds it: the request, the ranking it was about, and the models in question."""

    reading: Reading
    ranking: Ranking
    offered: frozenset[str]
    known: frozenset[str]
    """Those offered, and others that the request may have meant."""

    @classmethod
    def of(cls, reading: Reading, ranking: Ranking, offered: Set[str]) -> _Asked:
        possible = {model.group for model in ranking.models if model.probability >= _POSSIBLE}
        return cls(reading, ranking, frozenset(offered), frozenset(offered | possible))


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
        """Settle a pending question by an option's id, label or number, or by free text; never asks it again.

        Text that surely means a model not in question is a new request, and may be asked about as such. Text that
        speaks for no option more than for another (see `evidence`) is a NoMatch that names the options: nothing is
        picked by guessing. Raises RequestError for an answer that is empty, without words, too long or the number of
        no option, or when the options are no longer in the catalogue.
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
        groups = {self._index.by_id[each].group for each in offered if each in self._index.by_id}
        versions = pending.options[0].id.startswith(EDITION)
        if signed(text) or (beyond(text, pending.options) and not versions):
            raise _no_option(text)
        option = clicked(text, pending.options, self._shared(text, offered))
        if versions:
            return self._edition(reading, asked, pending, option, text, clock, scoring)
        if option is not None and option.id == NONE_OF_THESE:
            return _told(self._rest(reading, asked, set(offered), clock), clock, scoring)
        if option is None and not indifferent(text):
            return self._typed(_Asked.of(reading, asked, groups), text, clock, scoring)
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

    def _shared(self, text: str, offered: Sequence[str]) -> frozenset[str]:
        """The words of an answer that everything offered says alike ("dog" of dogs), so that they choose nothing."""
        profiles = [self._index.by_id[each] for each in offered if each in self._index.by_id]
        return frozenset(
            word for word in content_words(text) if all(profile.match(word)[1] >= _SHARED for profile in profiles)
        )

    def _typed(self, asked: _Asked, text: str, clock: Clock, scoring: Fallback) -> Decision:
        """What an answer in words means: a model in question, a request of its own, or nothing that can be told."""
        said = replace(asked.reading.request, text=with_digits(opening(text)))
        intent = parse(said, self._index.bases, self._index.nouns)
        may_request = not _only_constrains(intent) and not refers(text) and not numeral(text)
        pick = self._spoken_for(asked, intent, clock, scoring)
        if pick is None or pick.rerank < 0 or self._index.by_id[pick.checkpoint.id].group not in asked.known:
            another = may_request and not intent.negatives
            if another and self._means_another(intent, asked.known, clock, scoring):
                return self._ask(replace(asked.reading.request, text=text), scoring)
        if pick is None and _only_denies(intent):
            pick = self._left_by(asked, intent.negatives, clock, scoring)
        if pick is not None:
            joint = _together(asked.reading.intent, intent)
            return _told(self._settle(asked.reading, asked.ranking, pick, joint, clock), clock, scoring)
        if numeral(text):
            raise _no_option(text)
        return self._request(asked, intent if may_request else None, text, clock, scoring)

    def _spoken_for(self, asked: _Asked, intent: Intent, clock: Clock, scoring: Fallback) -> Candidate | None:
        """The best of the question's candidates, reranked by the answer on top of what the request said.

        None unless the answer's constraints leave out something that was offered, or its words speak for that one. Its
        `rerank` is that of the answer alone, 0 for an answer that only constrains.
        """
        ids = [item.checkpoint.id for item in asked.ranking.candidates]
        found = self._index.rescore(intent, ids, clock)
        profiles = [self._index.by_id[item.checkpoint.id] for item in found]
        groups = [profile.group for profile in profiles]
        bare = _only_constrains(intent)
        with clock.stage("rerank"):
            logits = [0.0] * len(found) if bare else scoring.score(intent, found)[0]
        before = {item.checkpoint.id: item.rerank for item in asked.ranking.candidates}
        joint = [logit + before[item.checkpoint.id] for logit, item in zip(logits, found, strict=True)]
        kept, decisive = list(range(len(found))), False
        shown = [profile for profile in profiles if profile.group in asked.offered]
        for meets in _constraints(intent, asked.reading.request.base, shown):
            passing = [at for at in kept if meets(profiles[at])]
            left = {groups[at] for at in passing}
            if left & asked.known:
                decisive = decisive or bool(({groups[at] for at in kept} - left) & asked.offered)
                kept = passing
        kept.sort(key=lambda at: -joint[at])
        if not decisive and not bare:
            said = Asked.of(intent, self._index.rarity).everything
            stands: dict[str, Standing] = {}
            for at in kept:
                alike = max(found[at].dense, found[at].body)
                word_for_word = quoted(intent.text, found[at].checkpoint)
                stands.setdefault(groups[at], Standing(covered(said, profiles[at]), alike, logits[at], word_for_word))
            one = stands.pop(groups[kept[0]])
            others = [standing for group, standing in stands.items() if group in asked.offered]
            decisive = speaks_for(one, others or stands.values())
        return replace(found[kept[0]], rerank=logits[kept[0]]) if decisive else None

    def _left_by(self, asked: _Asked, denied: Sequence[str], clock: Clock, scoring: Fallback) -> Candidate | None:
        """The likeliest that was offered beside those that denied descriptions speak for; None if they do for none."""
        rest = set(asked.offered)
        for phrase in denied:
            intent = parse(replace(asked.reading.request, text=phrase), self._index.bases, self._index.nouns)
            meant = self._spoken_for(asked, intent, clock, scoring)
            if meant:
                rest.discard(self._index.by_id[meant.checkpoint.id].group)
        if rest == asked.offered:
            return None
        left = (item for item in asked.ranking.candidates if self._index.by_id[item.checkpoint.id].group in rest)
        return next(left, None)

    def _request(self, asked: _Asked, intent: Intent | None, text: str, clock: Clock, scoring: Fallback) -> Decision:
        """The decision of an answer taken as a request, where that is about models that were not offered."""
        if intent is not None:
            decision = self._ask(replace(asked.reading.request, text=text), scoring)
            profiles = [self._index.by_id[each] for each in _named(decision)]
            subject = Asked.of(intent, self._index.rarity).subject
            chooses = intent.base or intent.kind or intent.version or intent.time_range or intent.negatives
            elsewhere = asked.offered.isdisjoint(profile.group for profile in profiles)
            if elsewhere and asks_for(subject, profiles) and not (chooses and isinstance(decision, Question)):
                return decision
        return _told(_unclear(asked), clock, scoring)

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
        typed = option is None and not indifferent(text)
        if typed and not refers(text) and self._means_another(said, {group}, clock, scoring):
            return self._ask(replace(reading.request, text=text), scoring)
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
            if not found.open:
                return _told(no_match(self._index, reading, found.remark), clock, scoring)
            if len(found.open) == len(left):
                intent = None if refers(text) else said
                return self._request(_Asked.of(reading, asked, {group}), intent, text, clock, scoring)
            left = list(found.open)
        if not left:
            return _told(
                no_match(self._index, reading, "None of the versions offered, and there is no other."), clock, scoring
            )
        why = f"{label_of(left[-1])}: {left[-1].version or left[-1].id}, by your answer."
        return _told(selection(reading.intent, [left[-1]], 1.0, why, asked.candidates, clock), clock, scoring)

    def _means_another(self, intent: Intent, known: Set[str], clock: Clock, scoring: Fallback) -> bool:
        """Whether an answer, read as a request, surely means a model that was not in question, and says so."""
        fresh = rank(self._index, scoring, intent, None, clock)
        if not sure(fresh, self._thresholds) or fresh.none >= self._thresholds.none or fresh.models[0].group in known:
            return False
        said, best = Asked.of(intent, self._index.rarity), self._index.by_id[fresh.models[0].best.checkpoint.id]
        return asks_for(said.subject, [best]) and asks_for(said.everything, [best])

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


def _no_option(text: str) -> RequestError:
    return RequestError(f'There is no option "{text.strip()}"; choose one of those shown or type which you mean.')


def _named(decision: Decision) -> list[str]:
    """The ids a decision picks or offers."""
    if isinstance(decision, Selection):
        return [checkpoint.id for checkpoint in decision.checkpoints]
    options = decision.options if isinstance(decision, Question) else ()
    return [each for option in options for each in option.checkpoint_ids]


def _unclear(asked: _Asked) -> NoMatch:
    """No match for an answer that does not tell; the nearest are what was offered."""
    nearest = tuple(model.best for model in asked.ranking.models if model.group in asked.offered)[:NEAREST]
    named = ", ".join(label_of(candidate.checkpoint) for candidate in nearest)
    return NoMatch(nearest, f"{_UNCLEAR} Nearest: {named}.", asked.ranking.candidates)


def _only_constrains(intent: Intent) -> bool:
    """Whether an answer states a base, kind, version or time, or what is not meant, and describes nothing."""
    chooses = bool(intent.base or intent.kind or intent.version or intent.time_range)
    return (chooses and not content_words(without_consumed(intent))) or _only_denies(intent)


def _only_denies(intent: Intent) -> bool:
    """Whether an answer says what is not meant and nothing else."""
    denied_words = {word for phrase in intent.negatives for word in content_words(phrase)}
    return bool(denied_words) and set(content_words(intent.text)) <= denied_words | {"not", "neither", "nor", "no"}


def _constraints(
    intent: Intent, loaded: str | None, offered: Sequence[Profile]
) -> tuple[Callable[[Profile], bool], ...]:
    """What an answer asks of a checkpoint beside its words, the firmest first; one that none meets is let go."""
    days = [(profile.checkpoint.created_at or "")[:10] for profile in offered]
    month = month_of(intent.text) if intent.time_range is None else None
    compares = intent.version in ("first", "newest") and _only_constrains(intent) and bool(days) and all(days)
    day = (min if intent.version == "first" else max)(days) if compares else None
    return (
        lambda profile: not denied(intent, profile),
        lambda profile: intent.base is None or fits(profile.checkpoint.base, intent.base) is True,
        lambda profile: allowed(profile.checkpoint, intent, loaded),
        lambda profile: version_fit(intent, profile.checkpoint) >= 0,
        lambda profile: version_fit(intent, profile.checkpoint) > 0,
        lambda profile: date_fit(intent, profile.checkpoint) >= 0,
        lambda profile: month is not None and (profile.checkpoint.created_at or "")[5:7] == month,
        lambda profile: day is None or (profile.checkpoint.created_at or "")[:10] == day,
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
