"""Folds LoRAs into a base before it is quantised, stores the result, and says how much of them is left.

The alternative to a 16-bit branch on a shared base: nothing is added at run time, and rounding may undo small updates.
It knows no arithmetic of rounding and no file formats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from personalq.backend.engine import Engine
from personalq.backend.memory import device_name
from personalq.backend.variants import MERGED
from personalq.catalog.hub_weights import fetched
from personalq.diffusion.lazy import file_hashes, open_denoiser
from personalq.diffusion.load import denoiser_part, load_base, set_denoiser
from personalq.diffusion.lora import read_lora
from personalq.diffusion.merge import NOTHING, Merge, Survival, survival
from personalq.errors import QuantizationError
from personalq.quant.apply import quantize_unet
from personalq.quant.layers import PackedWeight
from personalq.quant.sidecar import Provenance
from personalq.quant.store import save_quantized
from personalq.records import Checkpoint, Recipe

Progress = Callable[[int, int, str], None]


def merge_base(
    engine: Engine,
    recipe: Recipe,
    folder: Path,
    checkpoints: Sequence[tuple[Checkpoint, float]],
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantise the engine's base with LoRAs at their weights folded in, and store it in `folder`.

    The float base is read layer by layer, twice for layers that have an update: with it and, to see what of it is
    left, without. Updates of text encoders are not folded, as those are not quantised. The engine is closed. Raises
    QuantizationError, and what opening models and reading LoRAs raises.
    """
    if strange := [item.id for item, _ in checkpoints if item.kind != "lora"]:
        raise QuantizationError(f"{strange[0]} is no LoRA: only those are folded into a base.")
    if not checkpoints:
        raise QuantizationError("There is nothing to fold in: name at least one LoRA.")
    engine.close()
    pipe = load_base(engine.base, engine.device, engine.dtype, with_denoiser=False)
    base, refill = open_denoiser(engine.base, engine.device, engine.dtype)
    model, materialize = open_denoiser(engine.base, engine.device, engine.dtype)
    set_denoiser(pipe, base)
    loras = [(read_lora(pipe, fetched(checkpoint)), weight) for checkpoint, weight in checkpoints]
    part = f"{denoiser_part(engine.base) or 'unet'}."
    left_out = sum(not name.startswith(part) for branches, _ in loras for name in branches)
    folding = Merge(loras, part.rstrip("."))

    def merged(name: str, layer: nn.Module) -> None:
        materialize(name, layer)
        folding.fold(name, layer)

    report = quantize_unet(model, recipe, merged, on_progress=on_progress)
    folding.check_complete()
    left = {}
    for line in report.layers:
        packed = model.get_submodule(line.name)
        delta = folding.delta_for(line.name, tuple(packed.weight.shape)) if isinstance(packed, PackedWeight) else None
        if delta is not None:
            alone = base.get_submodule(line.name)
            refill(line.name, alone)
            left[line.name] = _left(type(packed).from_float(alone, packed.rule, packed.segments), packed, delta)
            alone.to("meta")
    ids = [checkpoint.id for checkpoint, _ in checkpoints]
    origin = Provenance(Path(engine.base).name, file_hashes(engine.base), {MERGED: ids})
    save_quantized(model, report, recipe, folder, origin)
    return {
        "folder": str(folder),
        "recipe": recipe.name,
        "merged": ids,
        "text_encoder_updates_left_out": left_out,
        "device": device_name(engine.device),
        "stored_bytes": report.stored_bytes,
        "survival": sum(left.values(), NOTHING).as_row(),
        "layers": {name: each.as_row() for name, each in left.items()},
    }


def as_text(result: dict[str, Any]) -> str:
    """What was stored, and what is left of the update."""
    whole, layers = result["survival"], result["layers"]
    lines = [
        f"{', '.join(result['merged'])} folded into {result['folder']} at {result['recipe']}, "
        f"{result['stored_bytes'] / 1e6:.2f} MB.",
        f"Of the update {whole['share_above_half_step']:.1%} of the elements are above half a step; what is left has "
        f"{whole['norm_ratio']:.2f} of its size and a cosine of {whole['cosine']:.3f} with it.",
    ]
    if layers:
        worst = min(layers, key=lambda name: layers[name]["cosine"])
        lines.append(f"Least is left in {worst}: cosine {layers[worst]['cosine']:.3f}.")
    if result["text_encoder_updates_left_out"]:
        lines.append(f"{result['text_encoder_updates_left_out']} updates of text encoders were not folded.")
    return "\n".join(lines)


@torch.no_grad()
def _left(before: PackedWeight, after: PackedWeight, delta: Tensor) -> Survival:
    """What is left of an update in one layer; weights are compared with channels innermost, as they are packed."""
    rows = (delta if delta.ndim == 2 else delta.permute(0, 2, 3, 1)).flatten(1)
    steps = after.scale[:, None]
    if after.gamma is not None:
        steps = steps * after.gamma
    return survival(rows.to(steps.device), steps, before.dequantized(), after.dequantized())
