"""How long it takes to change the LoRA on one resident base, and how many LoRAs a gigabyte holds; diffusers beside us.

The adapters are random: time and bytes depend on shapes alone. Every contestant works on modules of its own that share
the base's tensors, and their turns alternate within one run.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil
import torch
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from personalq.bench.held import twin
from personalq.bench.intervals import quantiles
from personalq.bench.report import device_line, table
from personalq.diffusion.attach import attach, detach
from personalq.diffusion.load import FAMILIES, Pipeline, denoiser, short
from personalq.diffusion.lora import FOREIGN, identity, parts, read_lora
from personalq.diffusion.slots import Slots, home
from personalq.errors import BenchError
from personalq.records import Checkpoint

ENDS = ("to_q", "to_k", "to_v", "to_out.0")
"""The layers updated: the projections of attention."""
GB = 10**9
UNBOUNDED = 1 << 62
"""A budget of bytes that nothing reaches: here nothing is evicted."""
NAME = "swapped"

Progress = Callable[[int, int, str], None]
Turns = dict[str, Callable[[int], object]]
"""By the name of what is measured, how to go to the LoRA of an index."""


def swap(
    model: nn.Module,
    n: int = 8,
    rank: int = 16,
    device: torch.device | str = "cpu",
    rounds: int = 4,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Milliseconds, p50 and p95, from one of `n` LoRAs of `rank` on the attention to the next, n * `rounds` times.

    Ours: `slots_ms`, the LoRA being in memory; `attach_ms`, as the application does it, which takes one off, looks at
    the next one's file and puts it on; `read_ms`, the file being read. Diffusers': `hotswap_ms`,
    load_lora_weights(hotswap=True), the LoRA being in memory; `hotswap_file_ms`, from its file; `reload_ms`,
    unload_lora_weights and load_lora_weights from the file. `difference` is the largest relative distance of a layer's
    output from diffusers'. Where diffusers cannot update the model's layers `diffusers` says why and its values are
    None. Raises BenchError for a denoiser that none of our pipelines has, and for counts too small.
    """
    if n < 2 or rank < 1 or rounds < 1:
        raise BenchError("Swaps need two LoRAs or more, of rank 1 or more: pass another n or rank.")
    device = torch.device(device)
    with tempfile.TemporaryDirectory() as folder, _silent(), torch.no_grad():
        pipe = _pipeline(model)
        records = [_random_lora(pipe, rank, Path(folder) / f"{seed}.safetensors", seed) for seed in range(n)]
        ours = Ours(pipe, records, device)
        try:
            theirs = Diffusers(_pipeline(model), _pipeline(model), records, rank)
            why = None
        except FOREIGN as error:
            theirs, why = None, short(error)
        taken = _alternated(ours.turns() | (theirs.turns() if theirs else {}), n, rounds, device, on_progress)
        difference = theirs and _difference(ours, theirs)
    held = ours.slots.nbytes
    return {
        "device": device_line(device),
        "n": n,
        "rank": rank,
        "layers": len(ours.layers),
        "swap_ms": quantiles(taken["slots_ms"])["p50"],
        "read_ms": quantiles(ours.read_ms),
        **{name: quantiles(taken.get(name, [])) for name in (*ours.turns(), *Diffusers.MEASURED)},
        "hotswap_over_slots": theirs and round(median(taken["hotswap_ms"]) / median(taken["slots_ms"]), 1),
        "bytes_per_checkpoint": round(held / n),
        "grown_bytes_per_checkpoint": round(ours.grown),
        "checkpoints_per_gb": round(GB * n / held, 1),
        "difference": difference,
        "diffusers": why,
    }


def as_text(result: dict[str, Any]) -> str:
    """The result for people."""
    words = {
        "slots_ms": "ours: in memory",
        "attach_ms": "ours: in memory, by checkpoint, with its file looked at",
        "read_ms": "ours: file read",
        "hotswap_ms": "diffusers: hotswap, in memory",
        "hotswap_file_ms": "diffusers: hotswap, file read",
        "reload_ms": "diffusers: unload and load, file read",
    }
    rows = [{"swap": said, "ms p50": result[key]["p50"], "ms p95": result[key]["p95"]} for key, said in words.items()]
    lines = [
        f"{result['n']} LoRAs of rank {result['rank']} on {result['layers']} layers, {result['device']}",
        table(rows),
        f"A LoRA takes {result['bytes_per_checkpoint']:,} bytes (memory grew by "
        f"{result['grown_bytes_per_checkpoint']:,} each), so that a GB holds {result['checkpoints_per_gb']}.",
    ]
    if result["diffusers"]:
        lines.append(f"Diffusers cannot update these layers: {result['diffusers']}")
    else:
        lines.append(
            f"Hotswap takes {result['hotswap_over_slots']} times as long; the outputs of a layer differ by "
            f"{result['difference']:.1e} at most."
        )
    return "\n\n".join(lines)


class Ours:
    """LoRAs in slots on one base."""

    def __init__(self, pipe: Pipeline, records: Sequence[Checkpoint], device: torch.device) -> None:
        """Reads all of them, and notes the milliseconds each took and the bytes by which memory grew with the later."""
        self.pipe, self.records, self.slots = pipe, records, Slots(UNBOUNDED)
        self.keys = [identity(record) for record in records]
        self.slots.bind({part: getattr(pipe, part) for part in parts(pipe)})
        self.read_ms, before = list[float](), 0
        for at, (key, record) in enumerate(zip(self.keys, records, strict=True)):
            before = _held(device) if at == 1 else before  # the first one brings hooks and libraries along
            begun = perf_counter()
            branches = read_lora(pipe, record)
            self.slots.add(key, branches)
            self.read_ms.append(_since(begun, device))
        self.layers = tuple(branches)
        self.grown = (_held(device) - before) / (len(records) - 1)

    def turns(self) -> Turns:
        """In memory, and as the application does it."""
        return {
            "slots_ms": lambda at: self.slots.select([(self.keys[at], 1.0)]),
            "attach_ms": lambda at: detach(self.pipe, attach(self.pipe, [(self.records[at], 1.0)], self.slots)),
        }


class Diffusers:
    """One LoRA at a time on one base, swapped hot, and on another base, loaded anew."""

    MEASURED = ("hotswap_ms", "hotswap_file_ms", "reload_ms")

    def __init__(self, hot: Pipeline, cold: Pipeline, records: Sequence[Checkpoint], rank: int) -> None:
        """Raises whatever diffusers or PEFT raise for layers that they cannot update."""
        self.hot, self.cold, self.records = hot, cold, records
        self.states = [load_file(record.files[0]) for record in records]
        hot.enable_lora_hotswap(target_rank=rank)
        for pipe in (hot, cold):
            pipe.load_lora_weights(dict(self.states[0]), adapter_name=NAME)

    def turns(self) -> Turns:
        """Hot from memory and from a file, and off and on again."""
        return {
            "hotswap_ms": lambda at: self.hot.load_lora_weights(self.states[at], adapter_name=NAME, hotswap=True),
            "hotswap_file_ms": lambda at: self._file(self.hot, at, hotswap=True),
            "reload_ms": self._reload,
        }

    def _reload(self, at: int) -> None:
        self.cold.unload_lora_weights()
        self._file(self.cold, at)

    def _file(self, pipe: Pipeline, at: int, **options: bool) -> None:
        path = Path(self.records[at].files[0])
        where = {"weight_name": path.name, "use_safetensors": True, "local_files_only": True}
        pipe.load_lora_weights(str(path.parent), adapter_name=NAME, **where, **options)


def _pipeline(model: nn.Module) -> Pipeline:
    """A pipeline around modules of its own that share the model's tensors, and around nothing else."""
    for family in FAMILIES.values():
        if isinstance(model, family.denoiser):
            wanted = inspect.signature(family.pipeline.__init__).parameters.values()
            absent = {p.name: None for p in wanted if p.default is p.empty and p.name != "self"}
            pipe: Pipeline = family.pipeline(**{**absent, **family.without, family.part: twin(model)})
            return pipe
    raise BenchError(f"No pipeline takes a {type(model).__name__}: measure swaps on a UNet, SD3 or FLUX transformer.")


def _random_lora(pipe: Pipeline, rank: int, path: Path, seed: int) -> Checkpoint:
    """A file of updates that are small beside the layers, in the denoiser's 16 bits, in PEFT's naming."""
    model, drawn, state = denoiser(pipe), torch.Generator().manual_seed(seed), dict[str, Tensor]()
    for name, layer in model.named_modules():
        if name.endswith(ENDS) and hasattr(layer, "in_features"):
            sizes = {"A": (rank, layer.in_features), "B": (layer.out_features, rank)}
            for matrix, size in sizes.items():
                values = torch.randn(size, generator=drawn) * (0.3 * size[1] ** -0.5)
                state[f"{parts(pipe)[0]}.{name}.lora_{matrix}.weight"] = values.to(home(model)[1])
    save_file(state, path)
    return Checkpoint(path.stem, files=(str(path),))


def _alternated(
    turns: Turns, n: int, rounds: int, device: torch.device, on_progress: Progress | None
) -> dict[str, list[float]]:
    """Milliseconds of every turn; whoever begins changes. Reloading takes seconds and gets one round only."""
    taken: dict[str, list[float]] = {name: [] for name in turns}
    order = list(turns)
    for turn in range(n * rounds):
        for name in order:
            if name != "reload_ms" or turn < n:
                begun = perf_counter()
                turns[name]((turn + 1) % n)
                taken[name].append(_since(begun, device))
        order.append(order.pop(0))
        if on_progress:
            on_progress(turn + 1, n * rounds, "swaps")
    return taken


def _difference(ours: Ours, theirs: Diffusers) -> float:
    """The largest distance of a layer's output from diffusers', relative to it, all with the first LoRA."""
    ours.slots.select([(ours.keys[0], 1.0)])
    theirs.hot.load_lora_weights(theirs.states[0], adapter_name=NAME, hotswap=True)
    drawn, worst = torch.Generator().manual_seed(0), 0.0
    for name in ours.layers:
        path = name.partition(".")[2]
        layer, wrapped = (denoiser(pipe).get_submodule(path) for pipe in (ours.pipe, theirs.hot))
        device, dtype = home(denoiser(ours.pipe))
        x = torch.randn(16, layer.in_features, generator=drawn).to(device, dtype)
        wanted = wrapped(x).float()
        worst = max(worst, float((layer(x).float() - wanted).norm() / wanted.norm()))
    return worst


def _held(device: torch.device) -> int:
    """Bytes of memory in use, by the CUDA allocator or the process; what was freed goes back to the system first."""
    gc.collect()
    with suppress(AttributeError, OSError):  # elsewhere than on glibc it may stay with the process
        ctypes.CDLL(None).malloc_trim(0)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else int(psutil.Process().memory_info().rss)


def _since(begun: float, device: torch.device) -> float:
    """Milliseconds from `begun` until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (perf_counter() - begun)


@contextmanager
def _silent() -> Iterator[None]:
    """Without diffusers' warnings of the text encoders that are not there."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
