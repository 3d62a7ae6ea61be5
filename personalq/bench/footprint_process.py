"""What one fresh process measures: one denoiser's loading, phases and swaps, or the steps of several, interleaved.

Both functions are run by `footprint`, each call in a process of its own, so that no peak holds what another left. They
know no tables and choose no contestants.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter, process_time
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from personalq.backend.memory import peak_rss, reset_peak_rss
from personalq.bench.held import Setting, by_layer, free_bytes, hold, prefill, twin
from personalq.bench.report import device_line
from personalq.bench.shapes import shape_named
from personalq.bench.swap import swap
from personalq.diffusion.attention import PromptCache
from personalq.errors import BenchError
from personalq.quant.apply import stored_bytes
from personalq.quant.scratch import Scratch
from personalq.quant.sidecar import Provenance
from personalq.quant.store import save_quantized

STOCK, OWN = "reference", "reference with our attention"
"""The 16-bit denoiser as diffusers runs it, and with the attention processors that the product gives it."""
OPERATIONS = 8
"""Operations named, those that take the most time."""
SWAPS = 8
NOWHERE: Mapping[str, str] = {}


# --- one denoiser ------------------------------------------------------------------------------


def residence(setting: Setting, name: str, run: bool, folder: str | None = None) -> dict[str, Any]:
    """One denoiser alone in this process: bytes held, and the peaks of loading, prefill and, where `run`, a step.

    A precision that is one of our recipes is stored in `folder`, if there is one. Swaps come last, as they leave
    adapters on the denoiser. Raises as `hold` does.
    """
    device = setting.place
    _warm_up(setting, name)
    available, baseline, phases = free_bytes(device), _held(device), list[dict[str, Any]]()
    with _phase("load", device, baseline, phases):
        held = hold(setting, name)
    row: dict[str, Any] = {
        "device": device_line(device),
        "available_bytes": available,
        "stored_bytes": stored_bytes(held.model),
        "coverage": held.report.coverage if held.report else 0.0,
        "layer_kernels": dict(held.kernels),
        "full_precision_layers": [
            {"name": layer.name, "kind": layer.kind, "bytes": layer.stored_bytes, "reason": layer.reason}
            for layer in (held.report.full_precision if held.report else ())
        ],
    }
    given = setting.inputs()
    step = partial(held.model, **given, return_dict=False)
    with torch.no_grad(), held.attention() as cache:
        if isinstance(cache, PromptCache):
            with _phase("prefill", device, baseline, phases):
                prefill(held.model, cache, given["encoder_hidden_states"])
        row["kv_bytes"] = cache.nbytes
        if run:
            with _phase("step", device, baseline, phases):
                step()
            row["operations"] = operations(step, device)
    recipe = held.variant.recipe
    if folder and held.report and recipe and by_layer(held.variant):
        save_quantized(held.model, held.report, recipe, folder, Provenance(f"{setting.architecture}, random weights"))
        row["folder"] = folder
    row["swap"] = swap(held.model, SWAPS, setting.rank, device) if setting.rank else None
    return row | {"phases": phases}


def reloading(setting: Setting, name: str, folder: str) -> dict[str, Any]:
    """The phase of loading what `residence` stored."""
    device, phases = setting.place, list[dict[str, Any]]()
    _warm_up(setting, name)
    baseline = _held(device)
    with _phase("load stored", device, baseline, phases):
        hold(setting, name, folder)
    return phases[0]


# --- several denoisers -------------------------------------------------------------------------


def interleaved(
    setting: Setting, names: Sequence[str], reference: bool, rounds: int, folders: Mapping[str, str] = NOWHERE
) -> dict[str, Any]:
    """Seconds of every contestant's steps, one step of each a round; whoever begins changes with the round.

    The contestants are resident together: the precisions and, where `reference`, the 16-bit denoiser, run as
    diffusers runs it and with the product's attention. Those that were stored are read from `folders`. One step of
    each is not counted. `errors` are the relative distances of the outputs from the reference's. Raises BenchError
    when an output is not finite.
    """
    device, given, models = setting.place, setting.inputs(), dict[str, nn.Module]()
    with torch.no_grad(), ExitStack() as stack:
        if reference:
            stock = hold(setting, STOCK)
            ours = replace(stock, model=twin(stock.model))
            models |= {STOCK: stock.model, OWN: ours.model}
            stack.enter_context(ours.our_attention())
        for name in names:
            if name != STOCK:
                held = hold(setting, name, folders.get(name))
                models[name] = held.model
                stack.enter_context(held.attention())
        outputs = {name: model(**given, return_dict=False)[0].float() for name, model in models.items()}
        broken = [name for name, out in outputs.items() if not bool(torch.isfinite(out).all())]
        if broken:
            raise BenchError(f"{', '.join(broken)}: the output of a step is not finite, so its time means nothing.")
        wall: dict[str, list[float]] = {name: [] for name in models}
        busy: dict[str, list[float]] = {name: [] for name in models}
        order = list(models)
        for _ in range(rounds):
            for name in order:
                seconds, processor = _timed(partial(models[name], **given, return_dict=False), device)
                wall[name].append(seconds)
                busy[name].append(processor)
            order.append(order.pop(0))
    exact = outputs.get(STOCK)
    return {
        "wall": wall,
        "processor": busy,
        "errors": {} if exact is None else {name: _distance(out, exact) for name, out in outputs.items()},
    }


def operations(step: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """The operations in which a step spends most of its own time, on CUDA kernels, with their shares of it.

    By torch's profiler.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler says on stderr that it starts and stops
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        step()
    which = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    spent = {event.key: float(getattr(event, which)) for event in profiler.key_averages()}
    total = sum(spent.values()) or 1.0
    most = sorted(spent, key=lambda name: -spent[name])[:OPERATIONS]
    return [{"name": name, "share": round(spent[name] / total, 3)} for name in most]


# --- memory and time ---------------------------------------------------------------------------


def _warm_up(setting: Setting, name: str) -> None:
    """One step of a tiny model, so that libraries, threads and workspaces are there before anything is measured."""
    tiny = shape_named(shape_named(setting.architecture).tiny)
    small = setting._replace(architecture=tiny.name, latent=tiny.latent)
    held = hold(small, name)
    with torch.no_grad(), held.attention():
        held.model(**small.inputs(), return_dict=False)
    del held
    gc.collect()
    Scratch().give_back()  # or what is measured would begin in memory that is already counted


def _held(device: torch.device) -> int:
    """Bytes held now, of the kind that `_phase` takes the peak of."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else int(psutil.Process().memory_info().rss)


@contextmanager
def _phase(name: str, device: torch.device, baseline: int, phases: list[dict[str, Any]]) -> Iterator[None]:
    """Append what was held beyond `baseline`, at most in the block and at its end, and the block's seconds."""
    reset = True
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset = reset_peak_rss()
    begun = perf_counter()
    yield
    _wait(device)
    seconds = perf_counter() - begun
    if device.type == "cuda":
        peak: int | None = torch.cuda.max_memory_allocated(device)
        how = "peak of the CUDA allocator"
    else:
        peak, _ = peak_rss()
        how = "peak resident set (VmHWM)" if reset else "peak resident set since the process began"
    phases.append(
        {
            "phase": name,
            "peak_bytes": None if peak is None else peak - baseline,
            "held_bytes": _held(device) - baseline,
            "seconds": round(seconds, 4),
            "how_measured": f"{how}, minus {baseline:,} bytes held before loading",
        }
    )


def _timed(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    _wait(device)
    begun, busy = perf_counter(), process_time()
    step()
    _wait(device)
    return perf_counter() - begun, process_time() - busy


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _distance(out: Tensor, exact: Tensor) -> float:
    return round(float((out - exact).norm() / exact.norm()), 4)
