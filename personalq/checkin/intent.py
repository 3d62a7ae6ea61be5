"""A request, understood: subject and style, version, time, base, negations. It knows no checkpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from personalq.checkin.bases import spoken
from personalq.checkin.nouns import KNOWN_NOUNS
from personalq.checkin.times import find_time
from personalq.checkin.words import STOPWORDS, stem, words
from personalq.errors import RequestError
from personalq.records import Intent, Kind, Request

Piece = tuple[int, int]
LONGEST = 2000
"""Code points of the longest request accepted."""

_THING = r"(?:version|one|build|release|iteration|upload|update|lora|model|checkpoint|embedding|run)"
_LEAD = r"(?:(?:use|using|take|with|in|from|but)\s+)?(?:(?:the|my)\s+)?"
_OF = r"(?:\s+of\b(?:\s+(?:the|my|that)\s+(?:lora|model|checkpoint|embedding|one)s?\b)?)?"
_UNITS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
_SPOKEN = {word: number for number, word in enumerate(f"{_UNITS} eighteen nineteen".split(), start=1)}
_DECADES = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: number for number, word in enumerate(_DECADES.split(), start=2)}
_ONES = "|".join(list(_SPOKEN)[:9])
_IN_WORDS = rf"(?:{'|'.join(_TENS)})(?:[\s-](?:{_ONES}))?|{'|'.join(sorted(_SPOKEN, key=len, reverse=True))}"
_NUMBERED = re.compile(
    rf"(?:{_LEAD}version\s+|\bver\.?\s?|\bv\.?\s?)(?P<number>\d+(?:\.\d+)*|(?<=version )(?:{_IN_WORDS}))\b"
    rf"(?!\s*(?:engine|motor)){_OF}",
    re.I,
)
_NTH = re.compile(rf"{_LEAD}\b(?P<number>\d{{1,4}})(?:st|nd|rd|th)\s+version\b{_OF}", re.I)
_RELATIVE = (
    ("newest", rf"{_LEAD}\b(?:newest|latest|most recent|newer|later|last|current|final)\s+{_THING}\b{_OF}"),
    ("first", rf"{_LEAD}\b(?:first|oldest|earliest|original|older|earlier|initial)\s+{_THING}\b{_OF}"),
    ("first", r"(?:the\s+)?(?:very\s+)?first\s+(?:that\s+)?(?:i|we)(?:\s+ever)?\s+(?:trained|made|saved)\b"),
    ("newest", r"(?:the\s+)?last\s+(?:that\s+)?(?:i|we)\s+(?:trained|made|saved)\b"),
    ("newest", r"\b(?:newest|latest|most recent)\b"),
)
_KINDS: tuple[tuple[Kind, str], ...] = (
    ("ti", r"textual[\s-]inversions?|embeddings?(?:\s+file)?"),
    ("lora", r"loras?|lycoris|locon"),
    ("dreambooth", r"dreambooth|full\s+(?:model|checkpoint|unet)"),
)
_KIND_LEAD = r"(?:(?:use|as|with)\s+)?(?:(?:the|a|my)\s+)?"
_NOT = re.compile(
    r"\b(?:but\s+)?(?:not|no|neither|nor|without|except|instead of|rather than)\s+(?!wait|matter|problem|one\b)"
    r"(?:(?:the|a|an|any|my)\s+)?"
    r"(?P<what>[^\s,.;:!?]+(?:\s+(?!but\b|and\b|nor\b|in\b|on\b|at\b)[^\s,.;:!?]+){0,3})",
    re.I,
)
_ANY_FILE = r"(?:loras?|checkpoints?|models?|embeddings?|styles?|anything)"
_OPT_OUT = re.compile(
    rf"\b(?:(?:do\s?n[o']?t|do not|never)\s+(?:load|use|apply|pick|choose)\s+(?:any\s+|a\s+|the\s+)?{_ANY_FILE}"
    r"|(?:no|without(?: any| a)?)\s+(?:lora|checkpoint|embedding|personal model)s?"
    r"|(?:just|only)\s+the\s+(?:plain\s+)?base model)\b",
    re.I,
)
_MEDIUM = (
    r"(?:print|sketch|drawing|painting|illustration|engraving|embroidery|art|plushie|figure|figurine|icon|logo|poster|"
    r"watercolou?r|portrait|blueprint|nendoroid|cartoon|comic|doodle|mosaic|sculpture)"
)
_STYLES = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"\b(?:in|with|using)\s+(?:the\s+|an?\s+|my\s+)?(?P<style>[^,.;]{2,60}?)[\s-]+(?:style|look|aesthetic)\b",
        r",\s*(?P<style>[^,.;]{2,60}?)[\s-]+(?:style|look|aesthetic)\b",
        r"\bas\s+an?\s+(?P<style>[^,.;]{2,60})",
        r"\b(?P<style>(?:drawn|painted|rendered|sewn|embroidered|knitted|carved|printed|sketched|woven)\s+"
        r"(?:like|as|in|on|out of|from|with)\b[^,.;]{2,50})",
        r"\bin\s+(?P<style>[^,.;]{2,40}\b(?:characters|colou?rs|lines|pixels|graphics))\b",
        rf"^\s*(?:an?\s+|the\s+)?(?P<style>(?:[\w-]+\s+){{0,2}}{_MEDIUM})\s+of\b",
        r"^\s*(?P<style>[^,.;]{2,40}?)[\s-]+style\b",
    )
)
_CUT = re.compile(
    r"[,.;:!?()]|\b(?:on|at|in|under|over|by|near|beside|behind|through|inside|outside|into|across|along|around|round|"
    r"from|next to|as|while|who|that|which|but|to)\b"
    r"|(?<=\w )(?<!\ba )(?<!\ban )(?<!\bthe )(?<!\bmy )(?!living|wedding)\w{3,}ing\b",
    re.I,
)
_ATTRIBUTE = re.compile(
    r"\b(?:with|wearing|holding)\s+(?:a|an|the|his|her|its)\s+[^,.;:!?]+?(?=\s+(?:on|at|in|by)\b|[,.;:!?]|$)", re.I
)


@dataclass
class _Reading:
    """What has been found so far; `free` is the text with every taken piece blanked out, positions unchanged."""

    free: str
    taken: list[Piece] = field(default_factory=list)

    def take(self, piece: Piece) -> None:
        self.taken.append(piece)
        self.blank(piece)

    def blank(self, piece: Piece) -> None:
        start, end = piece
        self.free = self.free[:start] + " " * (end - start) + self.free[end:]


def clean(text: str) -> str:
    """The request without control characters and outer spaces. Raises RequestError when nothing readable is left."""
    if len(text) > LONGEST:
        raise RequestError(f"The request has {len(text)} characters; shorten it to {LONGEST} at most.")
    shown = "".join(character if character.isprintable() else " " for character in text)
    shown = re.sub(r" {2,}", " ", shown).strip()
    if not words(shown):
        raise RequestError("The request has no words in it; describe the picture you want.")
    return shown


def parse(request: Request, bases: Sequence[str] = (), nouns: frozenset[str] = frozenset()) -> Intent:
    """Read a request against the base names and class nouns of a catalogue.

    `Intent.consumed` are code-point positions in `Intent.text`. Raises RequestError for a request without words.
    """
    text = clean(request.text)
    today = _today(request)
    reading = _Reading(text)
    opt_out = _OPT_OUT.search(text) is not None
    negatives = _negatives(reading, bases)
    time = find_time(reading.free, today)
    if time:
        reading.take(time[1])
    base = None
    for name, piece in spoken(reading.free, bases):
        base = base or name
        reading.take(_with_lead(reading.free, piece))
    version = _version(reading)
    kind = _kind(reading)
    style = None if opt_out else _style(reading)
    subject = _subject(reading.free if style is None else _without(reading.free, style))
    return Intent(
        text=text,
        subject=subject or " ".join(reading.free.split()) or text,
        style=style,
        class_noun=_class_noun(subject, nouns),
        version=version,
        time_range=(time[0][0].isoformat(), time[0][1].isoformat()) if time else None,
        base=base,
        negatives=negatives,
        consumed=tuple(sorted(reading.taken)),
        kind=kind,
        opt_out=opt_out,
    )


def _today(request: Request) -> date:
    if not request.as_of:
        return date.today()
    try:
        return date.fromisoformat(request.as_of[:10])
    except ValueError:
        raise RequestError(f"{request.as_of!r} is no date; write it as 2025-12-31.") from None


def remaining(intent: Intent) -> str:
    """The request without the pieces that only chose a checkpoint, for searching; the whole of it if nothing stays."""
    return without_consumed(intent) or intent.text


def without_consumed(intent: Intent) -> str:
    """The request without the pieces that only chose a checkpoint; may be empty."""
    text = intent.text
    for start, end in sorted(intent.consumed, reverse=True):
        text = f"{text[:start]} {text[end:]}"
    return " ".join(text.split())


def _with_lead(text: str, piece: Piece) -> Piece:
    """Take "i am on", "for the", "both" before a base name along with it."""
    lead = re.search(
        r"(?:(?:i\s?a?'?m|but|the one|use|both|the)\s+)?(?:(?:on|for|with|using)\s+)?(?:the\s+)?$",
        text[: piece[0]],
        re.I,
    )
    return (lead.start() if lead else piece[0], piece[1])


def _negatives(reading: _Reading, bases: Sequence[str]) -> tuple[str, ...]:
    found = []
    for match in _NOT.finditer(reading.free):
        what = match["what"].strip()
        found.append(what)
        chooses = spoken(what, bases) or any(re.search(rf"\b(?:{pattern})\b", what, re.I) for _, pattern in _KINDS)
        if chooses or _NUMBERED.search(what):
            reading.take(match.span())
        else:
            reading.blank(match.span())
    return tuple(found)


def _version(reading: _Reading) -> str | None:
    match = _NUMBERED.search(reading.free) or _NTH.search(reading.free)
    if match:
        reading.take(match.span())
        number = _digits(match["number"])
        return number[:-2] if number.endswith(".0") else number
    for name, pattern in _RELATIVE:
        found = re.search(pattern, reading.free, re.I)
        if found:
            reading.take(found.span())
            return name
    return None


def _digits(number: str) -> str:
    """ "thirty-four" as "34"; digits as they are."""
    if number[0].isdigit():
        return number
    parts = re.split(r"[\s-]", number.casefold())
    return str(sum(_TENS[part] * 10 if part in _TENS else _SPOKEN[part] for part in parts))


def _kind(reading: _Reading) -> Kind | None:
    for kind, pattern in _KINDS:
        matches = list(re.finditer(rf"{_KIND_LEAD}\b(?:{pattern})\b", reading.free, re.I))
        for match in matches:
            reading.take(match.span())
        if matches:
            return kind
    return None


def _style(reading: _Reading) -> str | None:
    for pattern in _STYLES:
        match = pattern.search(reading.free)
        if match and [word for word in words(match["style"]) if word not in STOPWORDS]:
            return " ".join(match["style"].split())
    return None


def _without(text: str, phrase: str) -> str:
    return re.sub(r"\s+".join(re.escape(part) for part in phrase.split()), " , ", text, count=1)


def _head(text: str) -> str:
    """The first stretch of `text` that says anything, up to a place, a pause or an action."""
    for stretch in _CUT.split(text):
        if [word for word in words(stretch) if word not in STOPWORDS]:
            return " ".join(stretch.split())
    return ""


def _subject(text: str) -> str:
    head = _head(text)
    attributes = [" ".join(match[0].split()) for match in _ATTRIBUTE.finditer(text)]
    return " ".join([head, *(phrase for phrase in attributes if phrase not in head)]).strip()


def _class_noun(subject: str, nouns: frozenset[str]) -> str | None:
    """The first word of the subject that some catalogue or language knows as a class, else its last word."""
    before = re.split(r"\b(?:with|of|for|about|wearing|like)\b", subject, maxsplit=1)[0]
    candidates = [stem(word) for word in words(before, glued=False) if word not in STOPWORDS]
    for word in candidates:
        if word in nouns or word in KNOWN_NOUNS:
            return word
    return candidates[-1] if candidates else None
