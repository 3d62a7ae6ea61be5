"""Prompts to text embeddings, and character spans to the token rows they occupy. Knows no checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from personalq.diffusion.load import Pipeline
from personalq.records import Span

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
    pipe: Pipeline, prompt: str, negative: str = "", spans: Sequence[Span] = (), *, start: bool = False
) -> TextEmbeddings:
    """Encode a prompt and its negative, and mark the rows of `spans` and of every other occurrence of their text.

    `start` protects the start token too, a constant outlier row of CLIP. With two tokenizers (SDXL) a row is
    protected when either says so.
    """
    device = pipe.text_encoder.device
    positive, unconditional, *pooled = pipe.encode_prompt(
        prompt,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative or None,
    )
    masks = [token_mask(pipe, tokenizer, prompt, spans) for tokenizer in tokenizers(pipe)]
    protected = torch.zeros(2, positive.shape[1], dtype=torch.bool)
    for mask, _, _ in masks:
        protected[1] |= torch.tensor(mask)
    protected[1, 0] |= start
    return TextEmbeddings(
        embeds=torch.cat([unconditional, positive]),
        pooled=torch.cat([pooled[1], pooled[0]]) if pooled else None,
        protected=protected.to(device),
        truncated=any(truncated for _, truncated, _ in masks),
        protected_lost=max(lost for _, _, lost in masks),
    )


def tokenizers(pipe: Pipeline) -> list[Any]:
    """The tokenizer of an SD pipeline, both of an SDXL one."""
    return [pipe.tokenizer, pipe.tokenizer_2] if isinstance(pipe, StableDiffusionXLPipeline) else [pipe.tokenizer]


def token_mask(pipe: Pipeline, tokenizer: Any, prompt: str, spans: Sequence[Span]) -> tuple[list[bool], bool, int]:
    """The protected rows of one tokenizer [L], whether the prompt was truncated, and how many protected rows that cost.

    A textual inversion of several vectors is written out by diffusers ("<t>" becomes "<t> <t>_1"), so spans are
    moved to the written-out prompt first.
    """
    written = pipe.maybe_convert_prompt(prompt, tokenizer)
    ranges = [
        (
            len(pipe.maybe_convert_prompt(prompt[: s.start], tokenizer)),
            len(pipe.maybe_convert_prompt(prompt[: s.end], tokenizer)),
        )
        for s in spans
    ]
    ranges = occurrences(written, ranges)
    limit = tokenizer.model_max_length
    kept = tokenizer(
        written, padding="max_length", max_length=limit, truncation=True, return_offsets_mapping=True
    ).offset_mapping
    whole = tokenizer(written, return_offsets_mapping=True, verbose=False).offset_mapping
    mask = span_mask(kept, ranges)
    return mask, len(whole) > limit, sum(span_mask(whole, ranges)) - sum(mask)


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
