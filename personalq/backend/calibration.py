"""Quantises a base to what its layers see on captions, and stores it. The same call takes up what was stopped.

It knows no arithmetic of rounding, no samplers and no file formats.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from personalq.backend.engine import Engine
from personalq.backend.memory import device_name
from personalq.backend.recording import digest, facts, read_recording, recorded
from personalq.diffusion.lazy import file_hashes, open_denoiser
from personalq.diffusion.load import denoiser
from personalq.errors import QuantizationError
from personalq.quant.apply import quantize_unet
from personalq.quant.calibrate import BUDGET, DEFAULT, calibrate, check_method, plan
from personalq.quant.observe import Observer
from personalq.quant.sidecar import FILE, Provenance, read_sidecar
from personalq.quant.store import save_quantized
from personalq.records import Job, Recipe

Progress = Callable[[int, int, str], None]
TIMESTEPS = 4
"""Steps of each caption's denoising that the layers are shown."""

TRIGGER_WEIGHT = 8.0
"""How often a trigger's row counts in layers that read text alone. On the embedded model at int4 it makes the error of
the keys and values of triggers that were shown a quarter less, of others no more, and of triggers never shown no other
(64 more than halves it, and begins to cost the other rows)."""

TEXT_ROWS = re.compile(r"(^|\.)(attn2\.to_[kv]|add_[kv]_proj)$")
"""Layers whose input rows are the text's tokens."""


def calibrate_base(
    engine: Engine,
    recipe: Recipe,
    folder: Path,
    captions: Sequence[Job],
    *,
    timesteps: int = TIMESTEPS,
    method: str = DEFAULT,
    trigger_weight: float = TRIGGER_WEIGHT,
    budget: int = BUDGET,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantise the engine's base by `recipe`, rounded to what it sees on `captions`, and store it in `folder`.

    What is unfinished lies in "<folder>.unfinished" and the same call goes on there; a folder that was finished from
    the same things is left as it is. In layers that read text alone the rows of triggers count `trigger_weight`
    times. The float base and `budget` bytes are held at a time, then the quantised base. The engine is closed.

    Raises QuantizationError, and what opening models and generating pictures raises.
    """
    check_method(method)
    if not captions or timesteps < 1:
        raise QuantizationError("There is nothing to calibrate on: give at least one caption and one timestep.")
    if alone := [item.id for job in captions for item, _ in job.checkpoints if item.kind == "dreambooth"]:
        raise QuantizationError(f"{alone[0]} has a denoiser of its own: calibrate with its folder as the base.")
    folder = folder.absolute()
    hashes = file_hashes(engine.base)
    float_base = [hashes, str(engine.dtype), engine.device.type]
    shown = {"captions": [facts(job) for job in captions], "timesteps": timesteps, "trigger_weight": trigger_weight}
    made_from = digest([float_base, shown])
    calibration = {"made_from": digest([made_from, method, str(recipe)]), "method": method, **shown}
    stored = _finished(folder, calibration)
    if stored is None:
        work = folder.with_name(f"{folder.name}.unfinished")
        bar = _Bar(len(captions), on_progress)
        files = []
        for number, job in enumerate(captions):
            bar.step("recording captions")
            path = work / f"caption-{number:04}.safetensors"
            files.append(recorded(engine, job, timesteps, path, digest([float_base, facts(job), timesteps])))
        model = _resident(engine)
        todo = plan(model, recipe, budget)
        bar.total += len(captions) * len(todo) + sum(len(names) for names in todo)

        def run(observer: Observer) -> None:
            for job, path in zip(captions, files, strict=True):
                bar.step("watching layers")
                _show(engine, model, observer, job, path, trigger_weight)

        rounded = calibrate(
            model, recipe, run, work, made_from, method=method, budget=budget, on_progress=lambda *at: bar.step(at[2])
        )
        del model
        engine.close()
        empty, materialize = open_denoiser(engine.base, engine.device, engine.dtype)
        report = quantize_unet(empty, recipe, materialize, rounded)
        name = Path(engine.base).name if Path(engine.base).is_dir() else str(engine.base)
        save_quantized(empty, report, recipe, folder, Provenance(name, hashes, calibration))
        stored = report.stored_bytes
        shutil.rmtree(work)
        bar.step("")
    return {
        "folder": str(folder),
        "recipe": recipe.name,
        "method": method,
        "captions": len(captions),
        "timesteps": timesteps,
        "device": device_name(engine.device),
        "stored_bytes": stored,
    }


def as_text(result: dict[str, Any]) -> str:
    """What `calibrate_base` returned, in a sentence."""
    return (
        f"{result['folder']}: {result['recipe']} rounded by {result['method']} on {result['captions']} captions at "
        f"{result['timesteps']} timesteps each, {result['stored_bytes'] / 1e6:.1f} MB ({result['device']})"
    )


class _Bar:
    """Counts the steps of the whole work, those that were done before included in the total alone."""

    def __init__(self, total: int, on_progress: Progress | None) -> None:
        self.done, self.total, self.on_progress = 0, total, on_progress

    def step(self, what: str) -> None:
        if self.on_progress:
            self.on_progress(self.done if what else self.total, self.total, what)
        self.done += 1


def _finished(folder: Path, calibration: dict[str, Any]) -> int | None:
    """Bytes of the model in a folder that was made from the same things; None where it is another or none."""
    if not (folder / FILE).is_file():
        return None
    sidecar = read_sidecar(folder)
    same = sidecar.provenance.calibration.get("made_from") == calibration["made_from"]
    return sidecar.stored_bytes if same else None


def _resident(engine: Engine) -> nn.Module:
    """The engine's float denoiser, which stays resident until another precision is asked for."""
    with engine.hold(Job(""), "reference") as session:
        model: nn.Module = denoiser(session.pipe)
        return model


def _show(engine: Engine, model: nn.Module, observer: Observer, job: Job, path: Path, trigger_weight: float) -> None:
    """Play one caption's recording with its checkpoints attached, the rows of its triggers weighted."""
    recording = read_recording(path)
    weights = 1 + (trigger_weight - 1) * recording.protected.float()
    text = (name for name in observer.layers if TEXT_ROWS.search(name))
    observer.row_weights = dict.fromkeys(text, weights) if trigger_weight != 1 else {}
    with engine.hold(job, "reference") as session:
        if denoiser(session.pipe) is not model:
            raise QuantizationError("The engine was used for another precision meanwhile: calibrate on its own.")
        recording.play(model)
