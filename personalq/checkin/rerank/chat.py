"""A reranker that asks a language model, one call a request. It knows no endpoint and never retries by itself.

The reply is a number for every candidate and one for "none": there is nothing in it to follow, and a reply that is
anything else is refused whole.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from personalq.checkin.rerank.endpoint import Endpoint
from personalq.checkin.rerank.prompt import HIGHEST, SYSTEM, reply_format, user_message
from personalq.checkin.rerank.protocol import Calibration, OptedIn, Scores
from personalq.checkin.rerank.retry import PAUSE, patient
from personalq.errors import InvalidReplyError
from personalq.records import Candidate, Intent

SHOWN = 40
"""Candidates the model sees, the best of the retrieval; the others count as scored 0."""
SECONDS = 30.0
_REMEMBERED = 128
_TRUNCATED = ("length", "content_filter")


@dataclass(frozen=True)
class Reply:
    """A score from 0 to 10 for each candidate, in order, and for "none"."""

    scores: tuple[float, ...]
    none: float


class Chat(OptedIn):
    """s_c = score of the candidate - score of "none", -10 to 10.

    Replies are remembered: an answer to a question reads its request again, and must find it as it was.
    """

    name = "chat"
    assumed = Calibration(temperature=1.5, none_logit=0.0)
    whole_only = True

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        calibration: Calibration | None = None,
        seconds: float = SECONDS,
        pause: float = PAUSE,
    ) -> None:
        """`seconds` is the deadline of a call with all its tries, `pause` what is waited after the first that fails."""
        super().__init__(model, calibration)
        self._endpoint = endpoint
        self._seconds = seconds
        self._pause = pause
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        self._lock = threading.Lock()

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> Scores:
        """Raises EndpointError or InvalidReplyError, both of them RerankerError."""
        if not candidates:
            return [], []
        shown = candidates[:SHOWN]
        reply = self._reply(user_message(intent, shown), len(shown))
        unseen = len(candidates) - len(shown)
        logits = [score - reply.none for score in (*reply.scores, *[0.0] * unseen)]
        reasons = [f"the language model gives it {score:g} of {HIGHEST}" for score in reply.scores]
        return logits, [*reasons, *["not shown to the language model"] * unseen]

    def _reply(self, message: str, count: int) -> Reply:
        with self._lock:
            if message in self._replies:
                self._replies.move_to_end(message)
                return self._replies[message]
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": message}]
        wanted = reply_format(count)
        made = patient(lambda left: self._endpoint.complete(messages, wanted, left), self._seconds, self._pause)
        if made.finish in _TRUNCATED:
            raise InvalidReplyError("The language model's reply breaks off.")
        reply = read_reply(made.content, count)
        with self._lock:
            self._replies[message] = reply
            while len(self._replies) > _REMEMBERED:
                self._replies.popitem(last=False)
        return reply


def read_reply(text: str, count: int) -> Reply:
    """The scores of `count` candidates. Raises InvalidReplyError for anything that is not exactly that."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise InvalidReplyError("The language model's reply is no JSON.") from None
    if not isinstance(value, dict) or set(value) != {"scores", "none"} or not isinstance(value["scores"], list):
        raise InvalidReplyError('The language model\'s reply is no object of "scores" and "none".')
    found: dict[int, float] = {}
    for item in value["scores"]:
        if not isinstance(item, dict) or set(item) != {"index", "score"}:
            raise InvalidReplyError('The language model scored something without "index" and "score".')
        index = item["index"]
        if type(index) is not int or not 0 <= index < count:
            raise InvalidReplyError("The language model scored a candidate that does not exist.")
        if index in found:
            raise InvalidReplyError("The language model scored a candidate twice.")
        found[index] = _score(item["score"])
    if len(found) < count:
        raise InvalidReplyError(f"The language model scored {len(found)} of {count} candidates.")
    return Reply(tuple(found[index] for index in range(count)), _score(value["none"]))


def _score(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= HIGHEST:
        raise InvalidReplyError(f"The language model gave a score that is no number from 0 to {HIGHEST}.")
    return float(value)


def _no_number(name: str) -> float:
    raise ValueError(name)
