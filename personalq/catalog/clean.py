"""Descriptions as plain text: HTML, markdown and promotion removed. It does not decide which description to use."""

from __future__ import annotations

import html
import re

from personalq.catalog.untrusted import MAX_TEXT, UNSAFE

MAX_DESCRIPTION = 4000
INLINE = "a abbr b big cite code del em font i ins kbd mark s small span strike strong sub sup u"
BLOCK = (
    "article audio blockquote br center dd details div dl dt figure footer form gallery h1 h2 h3 h4 h5 h6 header hr "
    "iframe img li main nav ol p pre section source summary svg table tbody td th thead tr ul video"
)
# Repeats are bounded wherever hostile text could make them take quadratic time.
# Only known tags are tags: `<zwx>` is a trigger.
INLINE_TAG = re.compile(rf"</?(?:{INLINE.replace(' ', '|')})(?:\s[^<>]*)?/?>", re.IGNORECASE)
BLOCK_TAG = re.compile(rf"</?(?:{BLOCK.replace(' ', '|')})(?:\s[^<>]*)?/?>", re.IGNORECASE)
HIDDEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
FENCE = re.compile(r"^[ \t]{0,8}(?:```|~~~).*?(?:^[ \t]{0,8}(?:```|~~~)[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
IMAGE = re.compile(r"!\[[^\]\n]{0,300}\]\([^)\n]{0,1000}\)")
LINK = re.compile(r"\[([^\[\]\n]{0,300})\]\([^)\n]{0,1000}\)")
EMPHASIS = re.compile(r"(\*{1,3}|~~|`)(?=\S)([^*~`\n]+?)(?<=\S)\1")
LINE_MARK = re.compile(r"^[ \t]{0,20}(?:#{1,6}[ \t]+|[-*+][ \t]+|>[ \t]?|\|)|[ \t]{0,20}\|[ \t]*$", re.MULTILINE)
ADDRESS = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
PROMOTION = re.compile(
    r"patreon|ko-?fi\b|buy\s?me\s?a|coffee|discord|telegram|donat|paypal|afdian|爱发电|subscrib|commission|tip jar"
    r"|follow me|support (?:me|my|us|the creator)|(?:join|visit) (?:my|our|the)|my (?:channel|page|twitter|instagram)"
    r"|QQ\s*群|公众号|关注我|leave a (?:like|review|comment|rating)|don'?t forget to (?:like|rate)|five stars|5 stars"
    r"|please (?:like|rate|review|pay attention|give feedback)|early access|sponsor|crypto|giveaway"
    r"|buy me|tip me|do you like what|making models can be",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


def plain(stored: str, keep_code: bool = False) -> str:
    """Text without HTML and markdown, one line per paragraph or item; `<token>` and underscores stay.

    With `keep_code` the backticks stay too, which tell where a trigger of several words ends.
    """
    text = stored[:MAX_TEXT].replace("\r\n", "\n").replace("\r", "\n")
    text = FENCE.sub("\n", HIDDEN.sub(" ", text))
    text = INLINE_TAG.sub("", BLOCK_TAG.sub("\n", text))
    text = UNSAFE.sub("", html.unescape(text).replace("\xa0", " "))
    text = BLOCK_TAG.sub("\n", INLINE_TAG.sub("", HIDDEN.sub(" ", text)))
    text = LINE_MARK.sub("", LINK.sub(r"\1", IMAGE.sub("", text)))
    text = EMPHASIS.sub(lambda match: match[0] if keep_code and match[1] == "`" else match[2], text)
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if re.search(r"\w", line))


def without_tags(text: str) -> str:
    """A name or tag on one line without HTML; `<token>` and everything else stay."""
    if "<" in text:
        text = BLOCK_TAG.sub(" ", INLINE_TAG.sub("", HIDDEN.sub(" ", text)))
    return " ".join(text.split())


def without_promotion(text: str) -> str:
    """`text` without web addresses and without the sentences that advertise or beg."""
    kept: list[str] = []
    for line in text.splitlines():
        sentences = (ADDRESS.sub("", part).strip() for part in SENTENCE_END.split(line))
        good = [part for part in sentences if re.search(r"\w", part) and not PROMOTION.search(part)]
        if good:
            kept.append(" ".join(good))
    return "\n".join(kept)


def description(stored: str) -> str:
    """A stored description ready to show and search; at most 4000 characters."""
    return without_promotion(plain(stored))[:MAX_DESCRIPTION].rstrip()
