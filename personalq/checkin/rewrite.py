"""The request with the canonical triggers in it. String operations only: it ranks nothing and loads nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from personalq.checkin.bases import fits
from personalq.checkin.nouns import class_of
from personalq.checkin.words import STOPWORDS, content_words, stem, words
from personalq.records import Checkpoint, Intent, Span, SpanRole

_DETERMINER = r"(?:my|our|the|a|an|that|this|his|her|their)"
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_PART = re.compile(r"[^\W_]+")
_FILLER = re.compile(r"^(?:please\s+)?(?:draw|paint|make|generate|create|show|render)\s+(?:me\s+)?(?=\S)", re.I)


@dataclass(frozen=True)
class Rewritten:
    """A prompt, its highlighted pieces in order, and what the user should know about it."""

    prompt: str
    spans: tuple[Span, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Text:
    """A string under edit, with the spans already placed in it."""

    text: str
    spans: tuple[Span, ...] = ()

    def put(self, start: int, end: int, new: str) -> _Text:
        """Replace text[start:end]; spans behind it move along."""
        shift = len(new) - (end - start)
        moved = tuple(
            replace(span, start=span.start + shift, end=span.end + shift) if span.start >= end else span
            for span in self.spans
        )
        return _Text(self.text[:start] + new + self.text[end:], moved)

    def mark(self, start: int, end: int, role: SpanRole, checkpoint: Checkpoint) -> _Text:
        """Add a span unless another one overlaps it."""
        if any(span.start < end and start < span.end for span in self.spans):
            return self
        return replace(self, spans=(*self.spans, Span(start, end, role, checkpoint.id)))


def rewrite(intent: Intent, checkpoints: Sequence[Checkpoint]) -> Rewritten:
    """Insert the first trigger of every checkpoint, byte-exact and never twice, and drop only `intent.consumed`.

    A subject replaces the phrase that names it, a style leads the prompt. Spans are code points, end exclusive. Role
    "trigger" marks a subject's trigger, "style" a style's, "concept" the class noun that a bare trigger keeps.
    """
    current = _Text(_tidy(intent.text, intent.consumed))
    warnings: list[str] = []
    subjects = [checkpoint for checkpoint in checkpoints if checkpoint.role != "style"]
    styles = [checkpoint for checkpoint in checkpoints if checkpoint.role == "style"]
    for checkpoint in [*subjects, *reversed(styles)]:
        if not checkpoint.triggers or not checkpoint.triggers[0].strip():
            warnings.append(f"{checkpoint.name or checkpoint.id} has no trigger word, so nothing was inserted for it.")
        elif checkpoint.role == "style":
            current = _lead(current, checkpoint)
        else:
            current = _in_place(current, checkpoint, intent)
    warnings += _base_warnings(checkpoints)
    return Rewritten(current.text, tuple(sorted(current.spans, key=lambda span: span.start)), tuple(warnings))


def _tidy(text: str, consumed: Sequence[tuple[int, int]]) -> str:
    for start, end in sorted(consumed, reverse=True):
        text = f"{text[:start]} {text[end:]}"
    if consumed:
        text = re.sub(r"\s+([,.;:!?])", r"\1", text)
        text = re.sub(r"([,.;:])(?:\s*[,.;:])+", r"\1", text)
        text = re.sub(r"\s{2,}", " ", text).strip(" ,;:")
    return text.strip()


def _standing(text: str, phrase: str, ignore_case: bool = False) -> tuple[int, int] | None:
    """Where `phrase` stands in `text` as a whole, not inside another word."""
    before = r"(?<!\w)" if phrase[:1].isalnum() else ""
    after = r"(?!\w)" if phrase[-1:].isalnum() else ""
    found = re.search(f"{before}{re.escape(phrase)}{after}", text, re.I if ignore_case else 0)
    return found.span() if found else None


def _lead(current: _Text, checkpoint: Checkpoint) -> _Text:
    trigger = checkpoint.triggers[0]
    there = _standing(current.text, trigger)
    if there:
        return current.mark(*there, "style", checkpoint)
    loose = _standing(current.text, trigger, ignore_case=True)
    if loose:
        return current.put(*loose, trigger).mark(loose[0], loose[0] + len(trigger), "style", checkpoint)
    joint = " " if trigger.rstrip().endswith(",") else ", "
    return current.put(0, 0, trigger + joint).mark(0, len(trigger), "style", checkpoint)


def _in_place(current: _Text, checkpoint: Checkpoint, intent: Intent) -> _Text:
    trigger = checkpoint.triggers[0]
    there = _standing(current.text, trigger)
    if there is None:
        there = _standing(current.text, trigger, ignore_case=True)
        if there:
            current = current.put(*there, trigger)
            there = (there[0], there[0] + len(trigger))
    if there:
        return _with_concept(current.mark(*there, "trigger", checkpoint), there[1], trigger, checkpoint)
    phrase = (
        _named(current.text, checkpoint, [checkpoint.name, *checkpoint.aliases])
        or _noun_phrase(current.text, checkpoint, intent)
        or _named(current.text, checkpoint, _short_names(checkpoint))
    )
    if phrase is None:
        filler = _FILLER.match(current.text)
        at = filler.end() if filler else 0
        joint = " " if trigger.rstrip().endswith(",") else ", "
        return current.put(at, at, trigger + joint).mark(at, at + len(trigger), "trigger", checkpoint)
    start, end, noun = phrase
    keep = noun if noun and not _says(trigger, noun) else ""
    current = current.put(start, end, f"{trigger} {keep}" if keep else trigger)
    current = current.mark(start, start + len(trigger), "trigger", checkpoint)
    return _with_concept(current, start + len(trigger), trigger, checkpoint)


def _with_concept(current: _Text, end: int, trigger: str, checkpoint: Checkpoint) -> _Text:
    """Mark the class noun that follows a bare trigger."""
    after = re.match(r"\s+([^\W_]+)", current.text[end:])
    noun = checkpoint.class_noun
    if after and noun and class_of(after[1]) == class_of(noun) and not _says(trigger, after[1]):
        return current.mark(end + after.start(1), end + after.end(1), "concept", checkpoint)
    return current


def _says(trigger: str, noun: str) -> bool:
    """Whether a trigger already names the class ("zwx dog"), so that the noun would stand twice."""
    return class_of(noun) in {class_of(word) for word in words(trigger)}


def _named(text: str, checkpoint: Checkpoint, names: Sequence[str]) -> tuple[int, int, str] | None:
    """One of the checkpoint's names in the text with its determiner, and the class noun that follows it, if any."""
    for name in names:
        parts = _PART.findall(name)
        if not parts or not content_words(name):
            continue
        pattern = r"[\s_-]+".join(re.escape(part) for part in parts)
        found = re.search(rf"(?<!\w)(?:{_DETERMINER}\s+)?{pattern}(?!\w)", text, re.I)
        if found:
            noun = re.match(r"\s+(?:the\s+)?([^\W_]+)", text[found.end() :])
            wanted = checkpoint.class_noun
            if noun and wanted and class_of(noun[1]) == class_of(wanted):
                return found.start(), found.end() + noun.end(), noun[1]
            inside = [part for part in parts if wanted and class_of(part) == class_of(wanted)]
            return found.start(), found.end(), inside[0] if inside else ""
    return None


def _short_names(checkpoint: Checkpoint) -> list[str]:
    """The name without its class noun ("Biscuit" of "Biscuit the dog"), when that still tells something."""
    if not checkpoint.class_noun:
        return []
    noun = class_of(checkpoint.class_noun)
    kept = [
        part for part in _PART.findall(checkpoint.name) if class_of(part) != noun and part.casefold() not in STOPWORDS
    ]
    return [" ".join(kept)] if len(" ".join(kept)) > 3 else []


def _noun_phrase(text: str, checkpoint: Checkpoint, intent: Intent) -> tuple[int, int, str] | None:
    """The words to replace: "my dog", or only "dog" when adjectives stand before it ("my sleepy dog")."""
    wanted = {class_of(noun) for noun in (checkpoint.class_noun, intent.class_noun) if noun}
    if checkpoint.class_noun:
        wanted = {class_of(checkpoint.class_noun)}
    elif not wanted & {class_of(word) for word in words(" ".join([checkpoint.name, *checkpoint.tags]))}:
        return None
    for found in _WORD.finditer(text):
        if class_of(found[0]) in wanted or class_of(stem(found[0].casefold())) in wanted:
            before = re.search(rf"(?<!\w){_DETERMINER}\s+$", text[: found.start()], re.I)
            return (before.start() if before else found.start()), found.end(), found[0]
    return None


def _base_warnings(checkpoints: Sequence[Checkpoint]) -> list[str]:
    if len(checkpoints) < 2:
        return []
    first, second = checkpoints[0], checkpoints[1]
    fit = fits(first.base, second.base)
    if fit is None:
        return ["It is not known whether the two checkpoints were made for the same base model."]
    return [] if fit else [f"{first.name} was made for {first.base}, {second.name} for {second.base}."]
