"""Insertable triggers out of stored values. It knows neither files nor which source to believe."""

from __future__ import annotations

import re
from collections.abc import Iterable

from personalq.catalog.nouns import GENERIC
from personalq.catalog.untrusted import ABSENT, UNSAFE

LONG = 60
MAX_STORED = 4000
ALTERNATIVES = re.compile(r"\|\||\n")
# `<lora:name:0.7>` and `<name:1>` load a file in other programs; `<token>` is a trigger.
LOADER_TAG = re.compile(r"<[^<>:]{1,200}:[^<>]{0,200}>")
PLACEHOLDER = re.compile(
    r"\[[^\[\]]{0,60}\b(?:subject|your|prompt|image)\b[^\[\]]{0,60}\]|\{[^{}]{0,80}\}", re.IGNORECASE
)
PICTURE_OF = re.compile(
    r"(?:an?\s+|the\s+)?(?:photo|photograph|picture|image|3d model|render|rendering)\s+of\s+"
    r"(?:an?\s+|the\s+)?(?=\S)",
    re.IGNORECASE,
)
HANGING = re.compile(r"\s{1,3}(?:in the shape\s{1,3})?(?:of|with|in|on|at|the|a|an)$", re.IGNORECASE)
EDGES = " \t\r,;，、；"
QUOTES = (("'", "'"), ('"', '"'), ("`", "`"), ("“", "”"), ("‘", "’"), ("「", "」"))
STATED = re.compile(
    r"(?:trigger(?:ed)?[\s_-]{0,2}(?:word|phrase|token|tag|prompt)?s?|activation (?:word|token|text)s?"
    r"|触发词?|提示[詞词])"
    r"[^\S\n]{0,2}(?:is|are|by|with)?[^\S\n]{0,2}(?:\([^()\n]{1,20}\))?[^\S\n]{0,2}[:：=]\s{0,4}"
    r"(?:[`\"“'「](?P<quoted>[^`\"”'」\n]{2,60})[`\"”'」]|(?P<bare>[^\s,.;:，。；、|()（）\"`]{2,40}))",
    re.IGNORECASE,
)
YOU_SHOULD_USE = re.compile(
    r"(?:you should use|use the (?:token|word|phrase|trigger))\s+[`\"“](?P<quoted>[^`\"”\n]{2,60})", re.I
)
NOT_A_TRIGGER = frozenset(
    {"no", "not", "is", "are", "any", "all", "the", "you", "your", "see", "below", "optional", "n/a"}
)


def insertable(stored: str) -> tuple[str, ...]:
    """Every trigger in one stored value, each a contiguous piece of it.

    "a photo of zwx dog" gives "zwx dog"; loader tags, placeholders and words for "none" give nothing. A short comma
    list is one group and stays whole; of a list over 60 characters only the rarest item is taken.
    """
    found: list[str] = []
    for alternative in ALTERNATIVES.split(stored[:MAX_STORED]):
        if UNSAFE.search(alternative):
            continue
        pieces = [trimmed(part) for part in re.split(r"\0", _cut(alternative))]
        for piece in pieces:
            if len(piece) <= LONG or "," not in piece:
                found.append(piece)
            else:
                items = [trimmed(item) for item in piece.split(",")]
                found.append(min(filter(None, items), key=is_generic, default=""))
    return unique(piece for piece in found if piece.casefold() not in ABSENT and re.search(r"\w", piece))


def trimmed(text: str) -> str:
    """`text` without outer space, commas, quotes and the "a photo of" in front."""
    text = text.strip(EDGES)
    for left, right in QUOTES:
        if len(text) > 2 and text.startswith(left) and text.endswith(right):
            text = text[1:-1].strip(EDGES)
    match = PICTURE_OF.match(text)
    if match:
        text = HANGING.sub("", text[match.end() :])
    return text


def is_generic(trigger: str) -> bool:
    """Whether a trigger is an everyday word or common tag, which many checkpoints share."""
    return trigger.casefold().replace("_", " ") in GENERIC


def stated_in(text: str) -> tuple[str, ...]:
    """Triggers that plain text names in so many words ("Trigger word: zwx"); low trust."""
    matches = (*YOU_SHOULD_USE.finditer(text), *STATED.finditer(text))
    words = (match.groupdict().get("quoted") or match.groupdict().get("bare") or "" for match in matches)
    return unique(
        piece for word in words if word.casefold() not in NOT_A_TRIGGER for piece in insertable(word) if len(piece) > 1
    )


def unique(items: Iterable[str]) -> tuple[str, ...]:
    """The texts in `items` in order, once each whatever their case."""
    seen: dict[str, str] = {}
    for item in items:
        seen.setdefault(item.casefold(), item)
    return tuple(seen.values())


def _cut(text: str) -> str:
    return PLACEHOLDER.sub("\0", LOADER_TAG.sub("\0", text))
