"""What a checkpoint is of: class noun, category and role, from words already read. It opens no file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from personalq.catalog.nouns import CATEGORY_OF, STYLE_WORDS
from personalq.records import Kind, Role

VAGUE = frozenset({"animal", "pet", "character", "person", "man", "woman", "girl", "boy", "can", "map", "painting"})
SUBJECTS = frozenset({"animal", "person", "character", "clothing", "place", "object", "vehicle", "food"})
TOOL_NAME = re.compile(
    r"negative|bad[\s_-]?(?:hands?|prompt|artist|dream)|\bsliders?\b|lightning|\blcm\b|hyper-?sd"
    r"|noise[\s_-]?offset|detail[\s_-]?(?:er|tweaker)|upscal|fixer\b|enhancer",
    re.IGNORECASE,
)
NEGATIVE_NAME = re.compile(r"negative|bad[\s_-]?(?:hands?|prompt|artist|dream)|fixer\b", re.IGNORECASE)
TOOL_TAGS = frozenset({"negative", "negative embedding", "tool", "tools", "utility", "slider", "sliders", "utilities"})
TOOL_TEXT = re.compile(r"negative (?:prompt|embedding)|\bslider\b|fewer steps|\d-?\s?steps?\b|distill", re.IGNORECASE)


def words(text: str) -> list[str]:
    """The words of a name, split at camelCase, digits and separators, in lower case."""
    return [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+", text)]


def spoken_noun(triggers: Sequence[str]) -> str | None:
    """The noun that ends a trigger of several words, as in "zwx dog"."""
    for trigger in triggers:
        parts = trigger.casefold().split()
        if len(parts) in (2, 3) and parts[-1] in CATEGORY_OF:
            return parts[-1]
    return None


def implied_noun(name: str, tags: Iterable[str]) -> str | None:
    """The only everyday noun in the name, or else among the tags; None when there are several."""
    for found in (words(name), [tag.casefold() for tag in tags]):
        nouns = {word for word in found if word in CATEGORY_OF and word not in VAGUE}
        if len(nouns) == 1:
            return nouns.pop()
    return None


def is_style(name: str, triggers: Iterable[str], tags: Iterable[str]) -> bool:
    """Whether name, a trigger or a tag calls it a style."""
    ends = {trigger.casefold().split()[-1] for trigger in triggers if trigger.split()}
    return bool((ends | set(words(name)) | {tag.casefold() for tag in tags}) & STYLE_WORDS)


def is_utility(
    name: str, kind: Kind, triggers: Sequence[str], tags: Iterable[str], description: str, noun: str | None
) -> bool:
    """Whether it is a tool such as a negative embedding or slider: one word is no proof, two signs are needed."""
    named = bool(TOOL_NAME.search(name))
    tagged = bool({tag.casefold() for tag in tags} & TOOL_TAGS)
    told = bool(TOOL_TEXT.search(description))
    silent = not triggers and noun is None
    negative_embedding = kind == "ti" and bool(NEGATIVE_NAME.search(name))
    return (named or tagged) and named + tagged + told + silent + negative_embedding >= 2


def role_of(utility: bool, style: bool, spoken: str | None, thing: str | None) -> Role:
    """The role, the surest sign first: utility, a noun in the trigger, the word style, a noun or category elsewhere."""
    if utility:
        return "utility"
    if spoken:
        return "subject"
    if style:
        return "style"
    return "subject" if thing else "unknown"


def category_of(noun: str | None, tags: Iterable[str]) -> str | None:
    """A broad category of things: the noun's, or a tag that is one."""
    if noun in CATEGORY_OF:
        return CATEGORY_OF[noun]
    return next((tag.casefold() for tag in tags if tag.casefold() in SUBJECTS), None)
