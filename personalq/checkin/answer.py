"""What a reply to a question means. It knows options and words, not rankings."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from personalq.checkin.question import NONE_OF_THESE
from personalq.checkin.words import content_words, fold, likeness
from personalq.records import Option

_NUMBERS = {"one": 1, "first": 1, "two": 2, "second": 2, "three": 3, "third": 3, "four": 4, "fourth": 4}
_NUMBERS |= {"five": 5, "fifth": 5, "six": 6, "sixth": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_ORDINAL = re.compile(
    r"^(?:(?:i mean|i want|use|take|option|number|no\.?|#|the)\s*)*(?P<which>\d{1,2}|last|[a-z]+)(?:st|nd|rd|th)?"
    r"(?:\s+(?:one|option))?(?:,?\s+please)?[.!)]*$"
)
_NONE = re.compile(
    r"^(?:no|nope|none|neither|nothing)(?: of (?:these|them|those))?[.!]*$|^something else[.!]*$|^other[.!]*$"
)
_ANY = re.compile(
    r"^(?:any(?: one| of them)?|either(?: one)?|whichever|whatever|you (?:choose|pick|decide)"
    r"|(?:i )?do\s?n[o']?t (?:care|mind|know)"
    r"|does\s?n[o']?t matter|surprise me|not sure|no idea|idk|the best(?: one)?|yes|ok(?:ay)?|sure|hm+)[.!?]*$"
)
_DENIES = re.compile(r"\b(?:not|no|neither|nor|except|without|don't|dont)\b")
_OPTION = re.compile(r"^(?:option|number|no\.?|#)?\s*(?P<which>\d{1,2}|[-+\u2212\u2013]\s*\d+(?:[.,]\d+)?)[.!)]*$")
_FIGURE = re.compile(r"^(?:option|number|no\.?|#)?\s*\d+(?:[.,]\d+)?[.!)]*$")
_PRONOUN = re.compile(
    r"(?<!number )(?<!version )(?<!option )\bones?\b"
    r"(?=\W*$|[,.;:!?)]|\s+(?:with|without|that|which|who|whose|where|from|in|on|at|of|by|for|wearing|holding|called)\b)",
    re.I,
)
_YEAR = "january february march april may june july august september october november december"
_MONTHS = _YEAR.split()
_MONTH = re.compile(rf"\b(?:from|in|of|made|trained)\s+(?P<month>{'|'.join(_MONTHS)})\b", re.I)
_ALIKE = 0.6


def clicked(text: str, options: Sequence[Option], shared: Collection[str] = ()) -> Option | None:
    """The option whose id, label or number the reply is, or "none of these"; None when it must be read as text.

    `shared` are words that hold for every option, so that a label with one of them is not chosen by it.
    """
    plain = fold(text).replace("’", "'")
    for option in options:
        if text.strip() == option.id or plain == fold(option.label):
            return option
    shown = [option for option in options if option.id != NONE_OF_THESE]
    if _NONE.match(plain):
        return next((option for option in options if option.id == NONE_OF_THESE), None)
    number = _ordinal(plain, len(shown))
    if number:
        return shown[number - 1]
    return None if _DENIES.search(plain) else _by_label(text, shown, shared)


def beyond(text: str, options: Sequence[Option]) -> bool:
    """Whether the reply is the number of an option that was not offered."""
    found = _OPTION.match(fold(text))
    shown = sum(option.id != NONE_OF_THESE for option in options)
    return found is not None and not (found["which"].isdigit() and 1 <= int(found["which"]) <= shown)


def signed(text: str) -> bool:
    """Whether the reply is a number with a sign, which is neither an option nor a version."""
    found = _OPTION.match(fold(text))
    return found is not None and not found["which"].isdigit()


def numeral(text: str) -> bool:
    """Whether the reply is nothing but a number, in figures or in words: one of a list, or of a name."""
    plain = fold(text)
    counted = _ORDINAL.match(plain)
    return bool(_FIGURE.match(plain) or (counted and counted["which"] in _NUMBERS))


def refers(text: str) -> bool:
    """Whether the reply points at what was offered ("the brown one"), so that it is no request of its own."""
    return _PRONOUN.search(text) is not None


def indifferent(text: str) -> bool:
    """Whether the reply leaves the choice to us ("any", "I don't know")."""
    return _ANY.match(fold(text).replace("’", "'")) is not None


def month_of(text: str) -> str | None:
    """ "03" for "the one from March", whatever the year; None where no month is told apart from a name or a verb."""
    found = _MONTH.search(text)
    return f"{_MONTHS.index(found['month'].casefold()) + 1:02}" if found else None


def opening(text: str) -> str:
    """The first sentence that says anything: people name what they mean, then explain ("x. y is overfitted")."""
    sentences = re.split(r"(?<=[^\W\d_])[.!?;](?=\s|$)", text)
    return next((sentence for sentence in sentences if content_words(sentence)), text)


def with_digits(text: str) -> str:
    """ "number five" with its digit, as names of checkpoints have it; "one" stays where it is no number."""
    stays = {found.start() for found in _PRONOUN.finditer(text)}
    return re.sub(
        r"[^\W\d_]+",
        lambda word: word[0] if word.start() in stays else str(_NUMBERS.get(word[0].casefold(), word[0])),
        text,
    )


def _ordinal(plain: str, count: int) -> int | None:
    found = _ORDINAL.match(plain)
    if not found:
        return None
    which = found["which"]
    number = count if which == "last" else int(which) if which.isdigit() else _NUMBERS.get(which, 0)
    return number if 1 <= number <= count else None


def _by_label(text: str, options: Sequence[Option], shared: Collection[str]) -> Option | None:
    """The one option whose label says most of the reply's words; None when two say as much or none says enough."""
    asked = content_words(text)
    if set(asked) <= set(shared):
        return None
    scores = []
    for option in options:
        label = content_words(option.label)
        scores.append(sum(max((likeness(word, part) for part in label), default=0.0) for word in asked) / len(asked))
    ordered = sorted(scores, reverse=True)
    if not ordered or ordered[0] < _ALIKE or (len(ordered) > 1 and ordered[0] - ordered[1] < 0.2):
        return None
    return options[scores.index(ordered[0])]
