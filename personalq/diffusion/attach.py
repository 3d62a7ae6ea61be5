"""Puts LoRAs and textual inversions on a loaded base, and takes them off again leaving the base as it was.

It knows no precisions: a LoRA is a 16-bit branch beside whatever layer it finds. DreamBooth models are not attached;
they replace the denoiser (`load.load_denoiser`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from personalq.diffusion.load import Pipeline, short
from personalq.diffusion.lora import FOREIGN, called, identity, parts, read_lora, tensors, unfit, weights_file
from personalq.diffusion.slots import Slots
from personalq.diffusion.text import tokenizers
from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.records import Checkpoint


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and its text encoder's token table before a textual inversion was added."""

    name: str
    tokenizer: Any
    table: Tensor


@dataclass(frozen=True)
class Attached:
    """What `attach` put on a pipeline, and what `detach` needs to restore it."""

    slots: Slots
    kept: bool
    """The slots are the caller's, and hold their LoRAs on."""
    vocabularies: tuple[Vocabulary, ...]


def attach(
    pipe: Pipeline,
    checkpoints: Sequence[tuple[Checkpoint, float]],
    slots: Slots | None = None,
    merged: bool = False,
) -> Attached:
    """Put LoRAs and textual inversions on, each LoRA at its weight; all together on one base.

    With `slots` of the caller's, LoRAs stay in memory after they are taken off, and a file that has not changed is not
    read again. `merged` says that the denoiser has the LoRAs in its weights already: then only the text encoders get
    them here. Raises IncompatibleCheckpointError for weights that do not fit this base, wholly or in part, and
    ModelError for files that are damaged or not safetensors, or kinds that cannot be attached; the base is then as it
    was.
    """
    loras = [(c, weight) for c, weight in checkpoints if c.kind == "lora"]
    inversions = [c for c, _ in checkpoints if c.kind == "ti"]
    if len(loras) + len(inversions) < len(checkpoints):
        raise ModelError("Only LoRAs and textual inversions are attached; a DreamBooth model replaces the denoiser.")
    vocabularies = tuple(_vocabularies(pipe)) if inversions else ()
    attached = Attached(Slots(0) if slots is None else slots, slots is not None, vocabularies)
    try:
        if loras:
            select_loras(pipe, loras, attached.slots, merged)
        for checkpoint in inversions:
            load_inversion(pipe, checkpoint)
    except BaseException:
        detach(pipe, attached)
        raise
    return attached


def detach(pipe: Pipeline, attached: Attached) -> None:
    """Take everything off: the layers, tokenizers and token tables are the ones that were there before."""
    if attached.kept:
        attached.slots.select(())
    else:
        attached.slots.release()
    for before in attached.vocabularies:
        setattr(pipe, before.name, before.tokenizer)
        encoder = _encoder(pipe, before.name)
        table = encoder.get_input_embeddings()
        table.weight.data, table.num_embeddings = before.table, len(before.table)
        encoder.config.vocab_size = len(before.table)


def select_loras(pipe: Pipeline, loras: Sequence[tuple[Checkpoint, float]], slots: Slots, merged: bool = False) -> None:
    """Select these LoRAs and no others, reading the files that `slots` does not hold yet. Raises as `attach` does."""
    slots.bind({part: getattr(pipe, part) for part in parts(pipe)})
    keys = [("text", *identity(c)) if merged else identity(c) for c, _ in loras]
    for key, (checkpoint, _) in zip(keys, loras, strict=True):
        branches = None if key in slots else read_lora(pipe, checkpoint)
        if branches and merged:
            branches = {name: branch for name, branch in branches.items() if name.startswith("text_encoder")}
        try:
            if branches is None:
                slots.place(key)
            else:
                slots.add(key, branches, keep=keys)
        except IncompatibleCheckpointError as error:
            raise unfit(pipe, checkpoint, str(error)) from error
    slots.select([(key, weight) for key, (_, weight) in zip(keys, loras, strict=True)])


def load_inversion(pipe: Pipeline, checkpoint: Checkpoint) -> None:
    """Add a textual inversion's vectors as the token `triggers[0]`, or the token its file names.

    Reads diffusers files {token: [n, D]}, A1111 `emb_params` and SDXL `clip_l` + `clip_g`. Raises
    IncompatibleCheckpointError for vectors of another width, ModelError for a token that is a word already.
    """
    state = tensors(weights_file(checkpoint), checkpoint)
    token = checkpoint.triggers[0] if checkpoint.triggers else next(iter(state)) if len(state) == 1 else checkpoint.name
    keys = {"tokenizer": ("clip_l", "emb_params", token), "tokenizer_2": ("clip_g",)}
    for place, tokenizer in zip(keys, tokenizers(pipe), strict=False):
        found = [state[key] for key in keys[place] if key in state] or ([*state.values()] if len(state) == 1 else [])
        encoder = _encoder(pipe, place)
        width = encoder.get_input_embeddings().embedding_dim
        if not found or found[0].shape[-1] != width:
            raise unfit(pipe, checkpoint, f"it has no vectors of width {width} for its {place}.")
        try:
            pipe.load_textual_inversion(found[0], token=token, tokenizer=tokenizer, text_encoder=encoder)
        except FOREIGN as error:
            raise ModelError(f"{called(checkpoint)} cannot be added as the token {token!r}: {short(error)}") from error


def _vocabularies(pipe: Pipeline) -> list[Vocabulary]:
    """Remember tokenizers and token tables, and put copies of the tokenizers in the pipeline to be changed."""
    kept = []
    for name, tokenizer in zip(("tokenizer", "tokenizer_2"), tokenizers(pipe), strict=False):
        kept.append(Vocabulary(name, tokenizer, _encoder(pipe, name).get_input_embeddings().weight.data))
        setattr(pipe, name, copy.deepcopy(tokenizer))
    return kept


def _encoder(pipe: Pipeline, tokenizer: str) -> Any:
    return getattr(pipe, tokenizer.replace("tokenizer", "text_encoder"))
