"""Puts LoRAs and textual inversions on a loaded base, and takes them off again leaving the base as it was.

It knows no precisions: a LoRA is a 16-bit branch beside whatever layer it finds. DreamBooth UNets are not attached;
they replace the denoiser (`load.load_unet`).
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from personalq.diffusion.load import Pipeline, short
from personalq.diffusion.text import tokenizers
from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.records import Checkpoint

FOREIGN = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError)
"""What diffusers and PEFT raise for adapters that do not fit; no narrower type is promised by either."""

PAIR = re.compile(r"[._]lora(?:_linear_layer)?[._](A|B|down|up)\.weight$")
"""The matrices of a LoRA layer, y = Wx + (alpha / r) B A x, in every naming that is read."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and its text encoder's token table before a textual inversion was added."""

    name: str
    tokenizer: Any
    table: Tensor


@dataclass(frozen=True)
class Attached:
    """What `attach` put on a pipeline, and what `detach` needs to restore it."""

    adapters: tuple[str, ...]
    vocabularies: tuple[Vocabulary, ...]


def attach(pipe: Pipeline, checkpoints: Sequence[tuple[Checkpoint, float]]) -> Attached:
    """Load LoRAs and textual inversions, each LoRA at its weight; all together on one base.

    Raises IncompatibleCheckpointError for weights that do not fit this base, wholly or in part, and ModelError for
    files that are not safetensors or kinds that cannot be attached. The base is then as it was.
    """
    loras = [(c, weight) for c, weight in checkpoints if c.kind == "lora"]
    inversions = [c for c, _ in checkpoints if c.kind == "ti"]
    if len(loras) + len(inversions) < len(checkpoints):
        raise ModelError("Only LoRAs and textual inversions are attached; a DreamBooth UNet replaces the denoiser.")
    names = tuple(f"lora_{i}" for i in range(len(loras)))
    attached = Attached(names, tuple(_vocabularies(pipe)) if inversions else ())
    try:
        for name, (checkpoint, _) in zip(names, loras, strict=True):
            load_lora(pipe, checkpoint, name)
        for checkpoint in inversions:
            load_inversion(pipe, checkpoint)
        if names:
            pipe.set_adapters(list(names), [weight for _, weight in loras])
            _to_compute_dtype(pipe)
    except ModelError:
        detach(pipe, attached)
        raise
    return attached


def detach(pipe: Pipeline, attached: Attached) -> None:
    """Take everything off: the layers, tokenizers and token tables are the ones that were there before."""
    if attached.adapters:
        pipe.unload_lora_weights()
    for before in attached.vocabularies:
        setattr(pipe, before.name, before.tokenizer)
        encoder = _encoder(pipe, before.name)
        table = encoder.get_input_embeddings()
        table.weight.data, table.num_embeddings = before.table, len(before.table)
        encoder.config.vocab_size = len(before.table)


def weights_file(checkpoint: Checkpoint) -> Path:
    """The safetensors file of a checkpoint. Raises ModelError for pickles, missing files and folders without one."""
    if not checkpoint.loadable or not checkpoint.files or not Path(checkpoint.files[0]).exists():
        raise ModelError(
            f"{checkpoint.id} has no weights that may be loaded. Only safetensors files are, never pickles."
        )
    path = Path(checkpoint.files[0])
    if path.is_dir():
        inside = sorted(path.glob("*.safetensors"))
        if len(inside) != 1:
            raise ModelError(f"{checkpoint.id}: {path} must hold exactly one .safetensors file, not {len(inside)}.")
        path = inside[0]
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{checkpoint.id} is stored as {path.suffix or 'a file of no type'}; convert it to safetensors."
        )
    return path


def load_lora(pipe: Pipeline, checkpoint: Checkpoint, name: str) -> None:
    """Load one LoRA, in diffusers, PEFT or kohya naming, as the adapter `name`.

    Raises IncompatibleCheckpointError when shapes differ or any of its layers found no place in the base.
    """
    path = weights_file(checkpoint)
    state = _read(path, checkpoint)
    strange = [key for key in state if not PAIR.search(key) and not key.endswith(".alpha")]
    if strange or not state:
        raise IncompatibleCheckpointError(
            f"{_called(checkpoint)} is not a plain LoRA: {(strange or ['nothing'])[0]!r} in it cannot be applied to "
            f"{_base(pipe)}. Save it as a LoRA of down and up matrices."
        )
    wanted = sum(match[1] in ("A", "down") for key in state if (match := PAIR.search(key)))
    source: dict[str, Any] = {"pretrained_model_name_or_path_or_dict": str(path.parent), "weight_name": path.name}
    if any(key.startswith("base_model.model.") for key in state):
        source = {"pretrained_model_name_or_path_or_dict": _from_peft(path, state)}
    try:
        with quiet("diffusers.loaders"):  # it warns of every model part that a LoRA leaves alone
            pipe.load_lora_weights(**source, adapter_name=name, use_safetensors=True, local_files_only=True)
    except FOREIGN as error:
        raise IncompatibleCheckpointError(
            f"{_called(checkpoint)} does not fit the base {_base(pipe)}: {short(error)}. "
            "Choose the base it was made for."
        ) from error
    loaded = sum(name in getattr(module, "lora_A", {}) for part in _parts(pipe) for module in part.modules())
    if loaded != wanted:
        raise IncompatibleCheckpointError(
            f"{_called(checkpoint)} does not fit the base {_base(pipe)}: {loaded} of its {wanted} LoRA layers found a "
            "place. Choose the base it was made for."
        )


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Keep a library's warnings to itself where what it warns of is checked here."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def load_inversion(pipe: Pipeline, checkpoint: Checkpoint) -> None:
    """Add a textual inversion's vectors as the token `triggers[0]`, or the token its file names.

    Reads diffusers files {token: [n, D]}, A1111 `emb_params` and SDXL `clip_l` + `clip_g`. Raises
    IncompatibleCheckpointError for vectors of another width, ModelError for a token that is a word already.
    """
    state = _read(weights_file(checkpoint), checkpoint)
    token = checkpoint.triggers[0] if checkpoint.triggers else next(iter(state)) if len(state) == 1 else checkpoint.name
    keys = {"tokenizer": ("clip_l", "emb_params", token), "tokenizer_2": ("clip_g",)}
    for place, tokenizer in zip(keys, tokenizers(pipe), strict=False):
        found = [state[key] for key in keys[place] if key in state] or ([*state.values()] if len(state) == 1 else [])
        encoder = _encoder(pipe, place)
        width = encoder.get_input_embeddings().embedding_dim
        if not found or found[0].shape[-1] != width:
            raise IncompatibleCheckpointError(
                f"{_called(checkpoint)} does not fit the base {_base(pipe)}: it has no vectors of width {width} for "
                f"its {place}. Choose the base it was made for."
            )
        try:
            pipe.load_textual_inversion(found[0], token=token, tokenizer=tokenizer, text_encoder=encoder)
        except FOREIGN as error:
            raise ModelError(f"{_called(checkpoint)} cannot be added as the token {token!r}: {short(error)}") from error


def _read(path: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{checkpoint.id}: {path.name} is not a safetensors file: {short(error)}") from error
    return state


def _from_peft(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A UNet adapter saved by PEFT itself, in diffusers naming, its alpha / r from adapter_config.json applied."""
    config = path.with_name("adapter_config.json")
    settings = json.loads(config.read_text()) if config.exists() else {}
    scale = settings.get("lora_alpha", 1) / settings.get("r", 1)
    renamed = {"unet." + key.removeprefix("base_model.model."): value for key, value in state.items()}
    return {key: value * scale if ".lora_B." in key else value for key, value in renamed.items()}


def _vocabularies(pipe: Pipeline) -> list[Vocabulary]:
    """Remember tokenizers and token tables, and put copies of the tokenizers in the pipeline to be changed."""
    kept = []
    for name, tokenizer in zip(("tokenizer", "tokenizer_2"), tokenizers(pipe), strict=False):
        kept.append(Vocabulary(name, tokenizer, _encoder(pipe, name).get_input_embeddings().weight.data))
        setattr(pipe, name, copy.deepcopy(tokenizer))
    return kept


def _to_compute_dtype(pipe: Pipeline) -> None:
    """Adapters in the dtype and on the device of the model they sit on, whatever their file holds."""
    encoder = pipe.text_encoder
    for part in _parts(pipe):
        for name, parameter in part.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(encoder.device, encoder.dtype)


def _parts(pipe: Pipeline) -> list[nn.Module]:
    parts = (pipe.unet, pipe.text_encoder, getattr(pipe, "text_encoder_2", None))
    return [part for part in parts if part is not None]


def _encoder(pipe: Pipeline, tokenizer: str) -> Any:
    return getattr(pipe, tokenizer.replace("tokenizer", "text_encoder"))


def _called(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.name or checkpoint.id} (made for {checkpoint.base or 'an unknown base'})"


def _base(pipe: Pipeline) -> str:
    return Path(str(pipe.config.get("_name_or_path") or type(pipe).__name__)).name
