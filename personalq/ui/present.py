"""Records to widget values and back: it knows no widget, opens no file and asks nobody.

Every text that comes from a user, a file or an exception leaves this module escaped (`safe` for markdown) or
as plain data for widgets that show plain text.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from personalq.errors import GenerationError, LimitError, PersonalQError, RequestError
from personalq.records import Candidate, Checkpoint, Decision, Job, NoMatch, Question, Request, Selection, Span
from personalq.ui.controls import MOST_PROMPT, Controls

Message = dict[str, Any]
Session = dict[str, Any]
"""What one visitor has open, as plain data: request, pending, options, cards, chosen, before, own, visitor."""

SHOWN = 6
"""How many candidates the gallery shows."""
ON_SHELF = 12
"""How many concepts the empty page shows."""
PLAIN, REPHRASE, ADD, AGAIN, SMALLER, LOWER = (
    f"ui:{name}" for name in ("plain", "rephrase", "add", "again", "smaller", "lower")
)
"""Ids of the answers that are the page's own: to "no match", and to what went wrong."""
CHOICES = 8
"""How many choices a session knows beside the last."""
EXPIRED = "That choice has expired. Ask again."
WAYS_OUT = {AGAIN: "Try again", SMALLER: "Make it smaller", LOWER: "Use a lower precision"}
"""Answers to what went wrong, id to label. They need nothing of the conversation, so they never expire."""
NO_CONCEPT = "What was chosen is not known any more: ask again, or pick a concept."
NO_PROMPT = "The prompt is empty. Describe a picture, or press Reset."

_INERT = {ord(mark): f"&#{ord(mark)};" for mark in "[]`~*_#$|\\:.@+-"}


def safe(text: str) -> str:
    """`text` as markdown that shows exactly these characters: no HTML, no images, no links, no code blocks."""
    return html.escape(text, quote=False).translate(_INERT)


# --- the conversation --------------------------------------------------------------------------


def said(text: str) -> Message:
    """A user message."""
    return {"role": "user", "content": safe(text)}


def replied(text: str, options: Mapping[str, str] | None = None) -> Message:
    """An assistant message; `options` maps option ids to their labels (shown as plain text)."""
    message: Message = {"role": "assistant", "content": safe(text)}
    if options:
        message["options"] = [{"value": value, "label": label} for value, label in options.items()]
    return message


def options(decision: Decision) -> dict[str, str]:
    """What can be clicked under the reply, id to label."""
    if isinstance(decision, Question):
        return {option.id: option.label for option in decision.options}
    if isinstance(decision, NoMatch):
        return {PLAIN: "Use the base model without a concept", REPHRASE: "Say it another way", ADD: "Add a concept"}
    return {}


def ways_out(error: PersonalQError) -> dict[str, str]:
    """What can be clicked under a picture that failed, id to label."""
    if isinstance(error, GenerationError) and "memory" in str(error):
        return {id_: WAYS_OUT[id_] for id_ in (SMALLER, LOWER, AGAIN)}
    return {AGAIN: WAYS_OUT[AGAIN]} if isinstance(error, GenerationError | LimitError) else {}


def reply(decision: Decision) -> str:
    """The reply in words, unescaped."""
    if isinstance(decision, Question):
        return "\n".join((decision.text, *_notes(decision.remarks)))
    if isinstance(decision, NoMatch):
        tail = " The closest ones are listed as weak matches: pick one, or choose below." if decision.nearest else ""
        return "\n".join((f"{decision.why}{tail}", *_notes(decision.remarks)))
    return "\n".join((decision.why, *_notes((*decision.warnings, *decision.remarks))))


def _notes(remarks: Iterable[str]) -> list[str]:
    return [f"Note: {remark}" for remark in remarks]


def cards(decision: Decision) -> list[dict[str, str]]:
    """The gallery's entries as plain data, best first: checkpoint id, why it matched, and its share in percent."""
    shown: dict[str, Candidate] = {}
    for candidate in _shown(decision):
        shown.setdefault(candidate.checkpoint.id, candidate)
    return [
        {"id": id_, "reason": one.reason, "score": f"{100 * one.probability:.0f} %" if one.probability >= 0.005 else ""}
        for id_, one in list(shown.items())[:SHOWN]
    ]


def hidden(counts: Mapping[str, int]) -> str:
    """How many checkpoints are not shown because they were made for other bases; "" when there are none."""
    if not counts:
        return ""
    made_for = ", ".join(f"{base} ({count})" for base, count in sorted(counts.items(), key=lambda item: -item[1])[:4])
    return f"{sum(counts.values())} hidden, made for another base: {made_for}"


def shelf(known: Mapping[str, Checkpoint]) -> list[dict[str, str]]:
    """The first models of a catalogue as cards, each in its newest version."""
    models: dict[str, Checkpoint] = {}
    for one in known.values():
        group = one.group_id or one.id
        if one.loadable and (group not in models or (models[group].version_ordinal or 0) < (one.version_ordinal or 0)):
            models[group] = one
    return [{"id": one.id, "reason": one.description} for one in list(models.values())[:ON_SHELF]]


def _shown(decision: Decision) -> Iterable[Candidate]:
    if isinstance(decision, NoMatch):
        return decision.nearest
    if isinstance(decision, Question):
        asked = [id_ for option in decision.options for id_ in option.checkpoint_ids]
    else:
        asked = [checkpoint.id for checkpoint in decision.checkpoints]
    first = [candidate for candidate in decision.candidates if candidate.checkpoint.id in asked]
    rest = [candidate for candidate in decision.candidates if candidate.checkpoint.id not in asked]
    if isinstance(decision, Selection) and not first:
        first = [Candidate(checkpoint, reason=decision.why) for checkpoint in decision.checkpoints]
    return [*first, *rest]


def plain(request: Request) -> dict[str, Any]:
    """A request as plain data; `Request(**data)` makes it again."""
    return {**asdict(request), "history": list(request.history)}


def request(data: Mapping[str, Any]) -> Request:
    """The request that `plain` wrote down."""
    return Request(**{**data, "history": tuple(data["history"])})


# --- the prompt --------------------------------------------------------------------------------


def chosen(selection: Selection) -> dict[str, Any]:
    """A selection as plain data: ids, prompt and the marked pieces of it."""
    marks = [{**asdict(s), "text": selection.prompt[s.start : s.end]} for s in selection.spans]
    return {"ids": [c.id for c in selection.checkpoints], "prompt": selection.prompt, "marks": marks}


def with_chosen(sess: Session, picked: Mapping[str, Any] | None) -> Session:
    """The session with another choice; those before it stay known, since pictures may wait that were asked for then."""
    before = [one for one in (sess.get("chosen"), *sess.get("before", ())) if one and one != picked]
    return {**sess, "chosen": picked, "before": before[:CHOICES]}


def token(picked: Mapping[str, Any]) -> str:
    """What stands for a choice on the page."""
    return hashlib.sha256(json.dumps(picked, sort_keys=True).encode()).hexdigest()[:12]


def choice(sess: Session, token_: str) -> Mapping[str, Any] | None:
    """The choice that was on the page when a picture was asked for; None when it is not known any more."""
    known = (sess.get("chosen"), *sess.get("before", ()))
    return next((one for one in known if one and token(one) == token_), None)


def without_concept(request: Request) -> Selection:
    """The request as it stands, for the base model alone."""
    why = "No concept is loaded: the base model draws your words as they are."
    return Selection((), request.text.strip(), (), 1.0, why)


def spans(prompt: str, picked: Mapping[str, Any] | None) -> tuple[Span, ...]:
    """The marked pieces of `prompt`: as they were written, or after an edit every occurrence, longer pieces first."""
    if picked is None or len(prompt) > MOST_PROMPT:
        return ()
    if prompt == picked["prompt"]:
        return tuple(Span(mark["start"], mark["end"], mark["role"], mark["id"]) for mark in picked["marks"])
    found: list[Span] = []
    for mark in sorted(picked["marks"], key=lambda mark: -len(mark["text"])):
        for match in _whole(mark["text"]).finditer(prompt):
            start, end = match.span()
            if all(end <= span.start or start >= span.end for span in found):
                found.append(Span(start, end, mark["role"], mark["id"]))
    return tuple(sorted(found, key=lambda span: span.start))


def _whole(text: str) -> re.Pattern[str]:
    before = r"(?<!\w)" if text[:1].isalnum() else ""
    after = r"(?!\w)" if text[-1:].isalnum() else ""
    return re.compile(before + re.escape(text) + after) if text else re.compile(r"(?!)")


def marked(prompt: str, found: Sequence[Span]) -> list[tuple[str, str | None]]:
    """`prompt` cut at the spans, for a highlighted text: pieces with their role, in order, nothing lost."""
    pieces: list[tuple[str, str | None]] = []
    at = 0
    for span in found:
        if span.start < at:
            continue  # a picture that is read back may claim pieces that overlap
        pieces += [(prompt[at : span.start], None), (prompt[span.start : span.end], span.role)]
        at = span.end
    return [piece for piece in [*pieces, (prompt[at:], None)] if piece[0]]


def warning(prompt: str, picked: Mapping[str, Any] | None) -> str:
    """What the edited prompt lost, as markdown; empty when every trigger is still there."""
    marks = picked["marks"] if picked else ()
    needed = {mark["text"]: None for mark in marks if mark["role"] != "concept"}
    lost = [f"**{safe(text)}**" for text in needed if not _whole(text).search(prompt)]
    if not lost:
        return ""
    return f"⚠ The prompt no longer contains {', '.join(lost)}: the concept will not show. Reset brings it back."


def job(picked: Mapping[str, Any] | None, known: Mapping[str, Checkpoint], controls: Controls, seed: int) -> Job:
    """The picture to make from what the widgets say.

    Raises RequestError where nothing is chosen, without a prompt, for a checkpoint that has gone, or for settings that
    cannot be: with a session that expired, a concept must not silently be missing from the picture.
    """
    if picked is None:
        raise RequestError(NO_CONCEPT)
    prompt = controls.prompt_box.strip()
    if not prompt:
        raise RequestError(NO_PROMPT)
    ids = picked["ids"]
    gone = [id_ for id_ in ids if id_ not in known]
    if gone:
        raise RequestError(f"{', '.join(gone)} is not here any more: choose another concept.")
    weights = [controls.weight_a, controls.weight_b, *(known[id_].weight for id_ in ids[2:])]
    return controls.job(
        prompt, spans(prompt, picked), [(known[id_], weight) for id_, weight in zip(ids, weights, strict=False)], seed
    )


# --- a visitor's own checkpoints ---------------------------------------------------------------


def own(sess: Session) -> tuple[Checkpoint, ...]:
    """The checkpoints that a visitor added."""
    return tuple(Checkpoint(**one) for one in sess.get("own", []))


def with_own(sess: Session, checkpoints: Iterable[Checkpoint]) -> Session:
    """The session with these as the visitor's own."""
    return {**sess, "own": [asdict(one) for one in checkpoints]}


def known(catalog: Mapping[str, Checkpoint], sess: Session) -> dict[str, Checkpoint]:
    """The catalogue with the visitor's own checkpoints."""
    return {**{one.id: one for one in own(sess)}, **catalog}


def picked(job: Job) -> dict[str, Any]:
    """A job as `chosen` has a selection: ids, prompt and the marked pieces of it."""
    marks = [{**asdict(s), "text": job.prompt[s.start : s.end]} for s in job.spans]
    return {"ids": [one.id for one, _ in job.checkpoints], "prompt": job.prompt, "marks": marks}
