"""Prompts to text embeddings, and character spans to the token rows they occupy. Knows no checkpoints."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from personalq.diffusion.load import Pipeline
from personalq.records import Protected, Span

Range = tuple[int, int]


@dataclass(frozen=True)
class TextEmbeddings:
    """A prompt and its negative, encoded; row 0 is unconditional, row 1 conditional."""

    embeds: Tensor
    """[2, L, D]"""
    pooled: Tensor | None
    """[2, P] for SDXL, else None."""
    protected: Tensor
    """[2, L] bool: the rows of the protected spans; row 0 is all False."""
    truncated: bool
    """The prompt is longer than the text encoder reads."""
    protected_lost: int
    """Tokens of protected spans that were cut off with the rest."""

    @property
    def protected_count(self) -> int:
        """How many token rows are protected."""
        return int(self.protected.sum())

    @property
    def warning(self) -> str | None:
        """What the user should know: the trigger, or part of it, was cut off."""
        if not self.protected_lost:
            return None
        return f"The prompt is too long: {self.protected_lost} token(s) of the trigger were cut off. Shorten it."

    def rows(self, guided: bool) -> TextEmbeddings:
        """Both rows under guidance, else the conditional row alone (B is then 1)."""
        if guided:
            return self
        pooled = None if self.pooled is None else self.pooled[1:]
        return TextEmbeddings(self.embeds[1:], pooled, self.protected[1:], self.truncated, self.protected_lost)


@torch.no_grad()
def encode(
    pipe: Pipeline,
    prompt: str,
    negative: str = "",
    spans: Sequence[Span] = (),
    rows: Sequence[Protected] = ("trigger",),
) -> TextEmbeddings:
    """Encode a prompt and its negative, and mark the rows asked for by `rows`.

    A span protects every other occurrence of its text too. "trigger" without a trigger or style among the spans
    becomes "start", CLIP's constant outlier row. Only "start" and "all" reach the negative's rows. With two
    tokenizers (SDXL) a row is protected when either says so.
    """
    if "trigger" in rows and all(span.role == "concept" for span in spans):
        rows = [*rows, "start"]
    device = pipe.text_encoder.device
    positive, unconditional, *pooled = pipe.encode_prompt(
        prompt,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative or None,
    )
    marked = [mark(pipe, tokenizer, prompt, spans, rows) for tokenizer in tokenizers(pipe)]
    protected = torch.zeros(2, positive.shape[1], dtype=torch.bool)
    protected[:, 0] = "start" in rows
    protected |= "all" in rows
    for each in marked:
        protected[1] |= torch.tensor(each.mask)
    return TextEmbeddings(
        embeds=torch.cat([unconditional, positive]),
        pooled=torch.cat([pooled[1], pooled[0]]) if pooled else None,
        protected=protected.to(device),
        truncated=any(each.truncated for each in marked),
        protected_lost=max(each.lost for each in marked),
    )


def tokenizers(pipe: Pipeline) -> list[Any]:
    """The tokenizer of an SD pipeline, both of an SDXL one."""
    return [pipe.tokenizer, pipe.tokenizer_2] if isinstance(pipe, StableDiffusionXLPipeline) else [pipe.tokenizer]


class Marked(NamedTuple):
    """What one tokenizer makes of a prompt's protected pieces."""

    mask: list[bool]
    """[L]"""
    truncated: bool
    lost: int
    """Rows of triggers and styles that were cut off."""


def mark(
    pipe: Pipeline, tokenizer: Any, prompt: str, spans: Sequence[Span], rows: Sequence[Protected] = ("trigger",)
) -> Marked:
    """The rows of one tokenizer that `rows` asks for.

    A textual inversion of several vectors is written out by diffusers ("<t>" becomes "<t> <t>_1"), so spans are
    moved to the written-out prompt first.
    """
    written = pipe.maybe_convert_prompt(prompt, tokenizer)
    nouns, triggers = (
        occurrences(written, [_moved(pipe, tokenizer, prompt, s) for s in spans if (s.role == "concept") == concept])
        for concept in (True, False)
    )
    limit = tokenizer.model_max_length
    kept = tokenizer(
        written, padding="max_length", max_length=limit, truncation=True, return_offsets_mapping=True
    ).offset_mapping
    whole = tokenizer(written, return_offsets_mapping=True, verbose=False).offset_mapping
    trigger, end = span_mask(kept, triggers), min(len(whole), limit) - 1
    lost = sum(span_mask(whole, triggers)) - sum(trigger)
    mask = span_mask(kept, (triggers if "trigger" in rows else []) + (nouns if "noun" in rows else []))
    if "end" in rows:
        mask[end] = True
    if "suffix" in rows and any(trigger):
        mask[trigger.index(True) :] = [True] * (limit - trigger.index(True))
    if "random" in rows:
        others = [row for row in range(1, limit) if not trigger[row]]
        words = [row for row in others if row < end]
        draw = random.Random(written)  # the same rows for every seed and precision of one prompt
        for row in draw.sample(words if len(words) >= sum(trigger) else others, sum(trigger)):
            mask[row] = True
    return Marked(mask, len(whole) > limit, lost)


def _moved(pipe: Pipeline, tokenizer: Any, prompt: str, span: Span) -> Range:
    """A span's characters in the prompt as diffusers writes it out for this tokenizer."""
    start, end = (len(pipe.maybe_convert_prompt(prompt[:at], tokenizer)) for at in (span.start, span.end))
    return start, end


def occurrences(text: str, ranges: Sequence[Range]) -> list[Range]:
    """The ranges given, and every other byte-exact occurrence of their texts that stands at word boundaries."""
    found = {r for r in ranges if r[0] < r[1]}
    for piece in {text[start:end].strip() for start, end in found} - {""}:
        at = text.find(piece)
        while at >= 0:
            if whole_word(text, at, at + len(piece)):
                found.add((at, at + len(piece)))
            at = text.find(piece, at + 1)
    return sorted(found)


def whole_word(text: str, start: int, end: int) -> bool:
    """Whether `text[start:end]` does not continue a word on either side."""
    before = start > 0 and text[start].isalnum() and text[start - 1].isalnum()
    after = end < len(text) and text[end - 1].isalnum() and text[end].isalnum()
    return not before and not after


def span_mask(offsets: Sequence[Range], ranges: Sequence[Range]) -> list[bool]:
    """For each token, given by its character offsets, whether it overlaps any range; empty tokens never do."""
    return [any(max(a, start) < min(b, end) for start, end in ranges) for a, b in offsets]
