"""Bytes and seconds of a denoiser in its real shape, each precision measured in a process of its own.

Weights are random: nothing here says anything of quality, and nothing is downloaded. Steps of the 16-bit reference and
of every precision alternate in one process where memory allows, so that their ratios hold on a busy machine too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from personalq.bench.footprint_process import OWN, STOCK, interleaved, reloading, residence
from personalq.bench.held import Setting, fp16_bytes, variant_known
from personalq.bench.intervals import quantiles
from personalq.bench.peers.registry import TAGS
from personalq.bench.report import table
from personalq.bench.shapes import inputs, shape_named, skeleton
from personalq.errors import BenchError

Progress = Callable[[int, int, str], None]
Result = TypeVar("Result")
STEPS = 5
RANK = 16
SPARE = 1.1
"""Memory asked for beyond the sum of what was measured, before denoisers are held together."""


def footprint(
    architecture: str,
    precision: str,
    device: str = "auto",
    steps: int = STEPS,
    latent: int | None = None,
    rank: int = RANK,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """One row for a precision, or {"device", "architecture", "rows"} for several with commas between them.

    `steps` counted steps of each contestant, 0 measures memory alone; `latent` is the side of the latent picture, by
    default what the model was trained for; `rank` is that of the LoRAs swapped, 0 leaves swaps out. What was not
    measured is None, with the reason in "notes". Raises BenchError or QuantizationError.
    """
    names = [name.strip() for name in precision.split(",") if name.strip()]
    setting = _setting(architecture, names, device, steps, latent, rank, seed)
    whole, rows = fp16_bytes(skeleton(shape_named(architecture), setting.place, setting.dtype)), {}
    times: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as root:
        for done, name in enumerate(names):
            if on_progress:
                on_progress(done, len(names) + 1, f"{name}: loading and memory")
            rows[name] = _resident(setting, name, steps > 0, f"{root}/{name}")
        folders = {name: row["folder"] for name, row in rows.items() if "folder" in row}
        for group, reference in groups(rows, whole) if steps else ():
            if on_progress:
                on_progress(len(names), len(names) + 1, f"steps: {', '.join(group)}")
            measured = in_fresh_process(interleaved, setting, group, reference, steps, folders)
            times |= dict.fromkeys(group, measured)
    made = [_row(setting, name, rows[name], times.get(name), whole, steps) for name in names]
    if len(made) == 1:
        return made[0]
    return {"device": made[0]["device"], "architecture": architecture, "rows": made}


def _resident(setting: Setting, name: str, run: bool, folder: str) -> dict[str, Any]:
    """What one precision takes: loaded from 16 bits layer by layer, and from what that stored, each in a process."""
    row = in_fresh_process(residence, setting, name, run, folder)
    if "folder" in row:
        row["phases"].insert(1, in_fresh_process(reloading, setting, name, folder))
    return row


def _setting(
    architecture: str, names: Sequence[str], device: str, steps: int, latent: int | None, rank: int, seed: int
) -> Setting:
    """What was asked for, checked before anything is built."""
    shape = shape_named(architecture)
    if not names or len(set(names)) < len(names) or steps < 0 or rank < 0:
        raise BenchError("Name one or more different precisions, and steps and a rank of zero or more.")
    for name in names:
        variant_known(name)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if chosen not in ("cpu", "cuda") or (chosen == "cuda" and not torch.cuda.is_available()):
        raise BenchError(f"There is no device {device!r} here: choose cpu" + (" or cuda." if chosen != "cuda" else "."))
    side = shape.latent if latent is None else latent
    inputs(shape, side, torch.device("cpu"), torch.float32)
    return Setting(architecture, chosen, side, seed, rank)


def in_fresh_process(work: Callable[..., Result], *given: Any) -> Result:
    """What `work` returns or raises in a new interpreter that ends with it. Raises BenchError when that dies."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work, *given).result()
        except BrokenProcessPool as error:
            raise BenchError(
                "A measuring process died, most likely for want of memory: pass a smaller --latent or fewer precisions."
            ) from error


def groups(rows: dict[str, dict[str, Any]], whole: int) -> list[tuple[list[str], bool]]:
    """Which precisions run their steps in one process, and whether the reference of `whole` bytes does too.

    All together where they fit in the memory that was free, else each with the reference, else each alone.
    """
    free = min(row["available_bytes"] for row in rows.values())
    names = [name for name in rows if name != STOCK]
    working = max(max(0, _peak(row, "step") - row["stored_bytes"]) for row in rows.values())

    def fits(*held: int) -> bool:
        return bool(SPARE * (sum(held) + working) <= free)

    if fits(whole, *(rows[name]["stored_bytes"] for name in names)):
        return [(list(rows), True)]
    if STOCK in rows:
        names.append(STOCK)
    return [([name], name == STOCK or fits(whole, rows[name]["stored_bytes"])) for name in names]


# --- rows --------------------------------------------------------------------------------------


def _row(
    setting: Setting, name: str, held: dict[str, Any], times: dict[str, Any] | None, whole: int, steps: int
) -> dict[str, Any]:
    shape, stored, load = shape_named(setting.architecture), held["stored_bytes"], _peak(held, "load")
    reload, swaps = _peak(held, "load stored"), held["swap"] or {}
    row = {
        "device": held["device"],
        "architecture": setting.architecture,
        "precision": name,
        "simulated": TAGS[name].simulated if name in TAGS else "",
        "stored_bytes": stored,
        "fp16_bytes": whole,
        "compression": round(whole / stored, 3),
        "coverage": round(held["coverage"], 4),
        "peak_load_bytes": load,
        "peak_load_ratio": round(load / stored, 3),
        "peak_load_stored_bytes": reload or None,
        "peak_load_stored_ratio": round(reload / stored, 3) if reload else None,
        "kv_bytes": held["kv_bytes"],
        "phases": held["phases"],
        **_times(name, times),
        "swap_ms": swaps.get("swap_ms"),
        "checkpoints_per_gb": swaps.get("checkpoints_per_gb"),
        "swap": held["swap"],
        "latent": setting.latent,
        "batch": shape.batch,
        "text_rows": shape.rows,
        "steps": steps,
        "seed": setting.seed,
        "layer_kernels": held["layer_kernels"],
        "operations": held.get("operations"),
        "full_precision_layers": held["full_precision_layers"],
        "notes": [],
    }
    if not steps:
        row["notes"].append("no steps were asked for: no times, and no peak of a step")
    elif row["reference_step_seconds"]["p50"] is None:
        row["notes"].append(
            f"no reference: {whole / 1e9:.1f} GB at 16 bits do not fit beside it in the "
            f"{held['available_bytes'] / 1e9:.1f} GB that were free"
        )
    if row["simulated"]:
        row["notes"].append(f"simulated, so that its time means nothing: {row['simulated']}")
    return row


def _times(name: str, times: dict[str, Any] | None) -> dict[str, Any]:
    """Seconds, and the medians of each round's ratio to the reference, on the wall and of the processor."""
    wall, busy = (times["wall"], times["processor"]) if times else ({}, {})
    return {
        "step_seconds": _seconds(wall.get(name)),
        "reference_step_seconds": _seconds(wall.get(STOCK)),
        "own_attention_step_seconds": _seconds(wall.get(OWN)),
        "step_ratio": _ratio(wall, name, STOCK),
        "own_attention_ratio": _ratio(wall, OWN, STOCK),
        "same_attention_ratio": _ratio(wall, name, OWN),
        "step_processor_ratio": _ratio(busy, name, STOCK),
        "output_error": times["errors"].get(name) if times else None,
    }


def _seconds(values: Sequence[float] | None) -> dict[str, float | None]:
    found = quantiles([1e3 * value for value in values or ()])
    return {key: None if value is None else round(value / 1e3, 6) for key, value in found.items()}


def _ratio(spent: dict[str, list[float]], name: str, base: str) -> float | None:
    if name not in spent or base not in spent:
        return None
    return round(median(ours / theirs for ours, theirs in zip(spent[name], spent[base], strict=True)), 3)


def _peak(row: dict[str, Any], phase: str) -> int:
    """Zero where the phase was not run."""
    return next((each["peak_bytes"] or 0 for each in row["phases"] if each["phase"] == phase), 0)


# --- for people --------------------------------------------------------------------------------


def as_text(result: dict[str, Any]) -> str:
    """A table of all rows, then the layers left in full precision by reason, and what was not measured and why."""
    rows = result.get("rows", [result])
    first = rows[0]
    head = (
        f"{first['architecture']} with random weights, latents {first['latent']} x {first['latent']}, batch "
        f"{first['batch']}, {first['text_rows']} text tokens, {first['steps']} steps of each, taking turns\n"
        f"{first['device']}"
    )
    lines = [head, table([_cells(row) for row in rows])]
    for row in rows:
        lines += [f"{row['precision']}: {note}" for note in row["notes"]]
        by = ", ".join(f"{count} by {kernel}" for kernel, count in row["layer_kernels"].items())
        lines += [f"{row['precision']}: packed layers multiplied {by}"] if by else []
        most = ", ".join(f"{each['name']} {each['share']:.0%}" for each in (row["operations"] or ())[:3])
        lines += [f"{row['precision']}: most of a step is {most}"] if most else []
        kept, sizes = Counter[str](), Counter[str]()
        for layer in row["full_precision_layers"]:
            kept[layer["reason"]] += 1
            sizes[layer["reason"]] += layer["bytes"]
        lines += [
            f"{row['precision']}: {kept[why]} layers stay at 16 bits, {sizes[why]:,} bytes: {why}" for why in kept
        ]
    return "\n\n".join(lines[:2]) + "".join(f"\n{line}" for line in ["", *lines[2:]])


def _cells(row: dict[str, Any]) -> dict[str, object]:
    return {
        "precision": row["precision"] + " (simulated)" * bool(row["simulated"]),
        "MB stored": round(row["stored_bytes"] / 1e6),
        "times smaller than fp16": row["compression"],
        "of parameters": row["coverage"],
        "peak loading / stored": row["peak_load_ratio"],
        "peak loading what was stored": row["peak_load_stored_ratio"],
        "MB peak of a step": round(_peak(row, "step") / 1e6) or None,
        "s a step, p50 / p95": _both(row["step_seconds"]),
        "reference": _both(row["reference_step_seconds"]),
        "ratio": row["step_ratio"],
        "reference with our attention, ratio": row["own_attention_ratio"],
        "output error": row["output_error"],
        "ms a swap": row["swap_ms"],
        "checkpoints a GB": row["checkpoints_per_gb"],
    }


def _both(seconds: dict[str, float | None]) -> str | None:
    return None if seconds["p50"] is None else f"{seconds['p50']:.3f} / {seconds['p95']:.3f}"
