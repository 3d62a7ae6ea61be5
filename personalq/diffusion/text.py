"""Prompts to text embeddings, and character spans to the token rows they occupy. Knows no checkpoints.

Every family lays its text rows out differently: SD has CLIP's, SDXL two CLIPs' side by side, SD3 those and then T5's,
FLUX T5's alone, with CLIP only in the pooled vector.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor

from personalq.diffusion.load import Pipeline
from personalq.records import Protected, Span

Range = tuple[int, int]

SD3_T5_ROWS, FLUX_T5_ROWS = 256, 512
"""Rows of T5 that diffusers gives these models unless told otherwise."""


class Stretch(NamedTuple):
    """Consecutive text rows that the same tokens fill; with no rows, tokens that reach the pooled vector alone."""

    tokenizers: list[Any]
    rows: int


@dataclass(frozen=True)
class TextEmbeddings:
    """A prompt and its negative, encoded: row 0 is unconditional and the last conditional.

    Models whose guidance is distilled (FLUX) have the conditional row alone, B = 1; the others B = 2.
    """

    embeds: Tensor
    """[B, L, D]"""
    pooled: Tensor | None
    """[B, P]; None where the model reads none (SD)."""
    protected: Tensor
    """[B, L] bool: the rows of the protected spans."""
    truncated: bool
    """The prompt is longer than a text encoder reads."""
    protected_lost: int
    """Tokens of protected spans that were cut off with the rest, by the encoder that cut off most."""
    notes: tuple[str, ...] = ()
    """What the user should know of how the prompt was read."""

    @property
    def protected_count(self) -> int:
        """How many token rows are protected."""
        return int(self.protected.sum())

    @property
    def warning(self) -> str | None:
        """What the user should know, such as a trigger that was cut off."""
        return " ".join(self.notes) or None

    def rows(self, guided: bool) -> TextEmbeddings:
        """Both rows under guidance, else the conditional row alone (B is then 1)."""
        if guided:
            return self
        pooled = None if self.pooled is None else self.pooled[-1:]
        return replace(self, embeds=self.embeds[-1:], pooled=pooled, protected=self.protected[-1:])


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
    becomes "start", CLIP's constant outlier row; T5 has no such token. Only "start" and "all" reach the negative's
    rows. Where two tokenizers fill the same rows a row is protected when either says so.
    """
    if "trigger" in rows and all(span.role == "concept" for span in spans):
        rows = [*rows, "start"]
    embeds, pooled = embedded(pipe, prompt, negative)
    protected = torch.full(embeds.shape[:2], "all" in rows)
    marked, first = [], 0
    for stretch in stretches(pipe):
        here = protected[:, first : first + stretch.rows]
        for tokenizer in stretch.tokenizers:
            limit = stretch.rows or tokenizer.model_max_length
            marked.append(mark(pipe, tokenizer, prompt, spans, rows, limit))
            if stretch.rows:
                here[-1] |= torch.tensor(marked[-1].mask)
                here[:, 0] |= "start" in rows and tokenizer.bos_token is not None
        first += stretch.rows
    unread = [DISTILLED] if negative and len(embeds) == 1 else []
    return TextEmbeddings(
        embeds=embeds,
        pooled=pooled,
        protected=protected.to(embeds.device),
        truncated=any(each.truncated for each in marked),
        protected_lost=max(each.lost for each in marked),
        notes=tuple(dict.fromkeys([each.note for each in marked if each.note] + unread)),
    )


DISTILLED = "This model's guidance is distilled: it does not read the negative prompt."


def embedded(pipe: Pipeline, prompt: str, negative: str) -> tuple[Tensor, Tensor | None]:
    """Rows [B, L, D] and pooled vectors [B, P], unconditional first; without it for a model of distilled guidance."""
    device = pipe.text_encoder.device
    if isinstance(pipe, FluxPipeline):
        embeds, pooled, _ = pipe.encode_prompt(prompt, device=device, max_sequence_length=FLUX_T5_ROWS)
        return embeds, pooled
    others = {"prompt_2": None, "prompt_3": None} if isinstance(pipe, StableDiffusion3Pipeline) else {}
    positive, unconditional, *both = pipe.encode_prompt(
        prompt,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative or None,
        **others,
    )
    return torch.cat([unconditional, positive]), torch.cat([both[1], both[0]]) if both else None


def tokenizers(pipe: Pipeline) -> list[Any]:
    """The tokenizers of a pipeline in their order: one of SD, two of SDXL and FLUX, three of SD3 if its T5 is there."""
    found = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3"))
    return [tokenizer for tokenizer in found if tokenizer is not None]


def stretches(pipe: Pipeline) -> list[Stretch]:
    """How the text rows of a pipeline are laid out, first to last."""
    if isinstance(pipe, FluxPipeline):
        return [Stretch([pipe.tokenizer], 0), Stretch([pipe.tokenizer_2], FLUX_T5_ROWS)]
    rows = pipe.tokenizer.model_max_length
    if isinstance(pipe, StableDiffusion3Pipeline):
        t5 = [pipe.tokenizer_3] if pipe.text_encoder_3 is not None else []  # without it diffusers fills in zeros
        return [Stretch([pipe.tokenizer, pipe.tokenizer_2], rows), Stretch(t5, SD3_T5_ROWS)]
    return [Stretch(tokenizers(pipe) if isinstance(pipe, StableDiffusionXLPipeline) else [pipe.tokenizer], rows)]


class Marked(NamedTuple):
    """What one tokenizer makes of a prompt's protected pieces."""

    mask: list[bool]
    """[L]"""
    truncated: bool
    lost: int
    """Rows of triggers and styles that were cut off."""
    note: str | None
    """That in words."""


def mark(
    pipe: Pipeline, tokenizer: Any, prompt: str, spans: Sequence[Span], rows: Sequence[Protected], limit: int
) -> Marked:
    """The rows of one tokenizer that `rows` asks for, of the `limit` that its encoder reads.

    A textual inversion of several vectors is written out by diffusers ("<t>" becomes "<t> <t>_1"), so spans are
    moved to the written-out prompt first.
    """
    written = written_out(pipe, tokenizer, prompt)
    nouns, triggers = (
        occurrences(written, [_moved(pipe, tokenizer, prompt, s) for s in spans if (s.role == "concept") == concept])
        for concept in (True, False)
    )
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
        others = [row for row in range(int(tokenizer.bos_token is not None), limit) if not trigger[row]]
        words = [row for row in others if row < end]
        draw = random.Random(written)  # the same rows for every seed and precision of one prompt
        for row in draw.sample(words if len(words) >= sum(trigger) else others, sum(trigger)):
            mask[row] = True
    name = "T5" if tokenizer.bos_token is None else "CLIP"
    note = f"The prompt is too long for {name} ({limit} tokens): {lost} of the trigger were cut off. Shorten it."
    return Marked(mask, len(whole) > limit, lost, note if lost else None)


def written_out(pipe: Pipeline, tokenizer: Any, prompt: str) -> str:
    """The prompt with the tokens of textual inversions of several vectors spelt out, where the pipeline reads any."""
    if not isinstance(pipe, TextualInversionLoaderMixin):
        return prompt
    written: str = pipe.maybe_convert_prompt(prompt, tokenizer)
    return written


def _moved(pipe: Pipeline, tokenizer: Any, prompt: str, span: Span) -> Range:
    """A span's characters in the prompt as diffusers writes it out for this tokenizer."""
    start, end = (len(written_out(pipe, tokenizer, prompt[:at])) for at in (span.start, span.end))
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
