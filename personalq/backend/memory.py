"""Reads memory and time as they are, never estimates them. Knows no models beyond the tensors they hold."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from personalq.quant.apply import stored_bytes
from personalq.records import MemoryReading, Precision

if TYPE_CHECKING:
    from personalq.backend.engine import Engine

PROC = Path("/proc/self")
NO_GPU = "no GPU: not measured"
RESET = "since the start of the picture"
NOT_RESET = "since the process started, it could not be reset"
MAY_BE_RESET = "since the process started, or since the latest picture began where the system lets it be reset"


class Meter:
    """Peaks and seconds from its construction on; the peaks are reset then, where the system can."""

    def __init__(self, device: torch.device, proc: Path = PROC) -> None:
        self.device, self.proc = device, proc
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        self.rss_is_reset = reset_peak_rss(proc)
        self.started = time.perf_counter()

    def skip(self, seconds: float) -> None:
        """Leave out time that was not spent on the picture: the caller's own."""
        self.started += seconds

    def reading(self, denoiser: nn.Module, kv_bytes: int) -> MemoryReading:
        """What was measured since the start; `kv_bytes` are the cached keys' and values' stored bytes."""
        allocated = reserved = total = None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            allocated = torch.cuda.max_memory_allocated(self.device)
            reserved = torch.cuda.max_memory_reserved(self.device)
            total = torch.cuda.mem_get_info(self.device)[1]
        seconds = time.perf_counter() - self.started
        rss, rss_how = peak_rss(self.proc, self.rss_is_reset)
        gpu = "CUDA allocator peaks since the start of the picture" if allocated is not None else NO_GPU
        return MemoryReading(
            device=device_name(self.device),
            weights_bytes=stored_bytes(denoiser),
            kv_bytes=kv_bytes,
            peak_allocated=allocated,
            peak_reserved=reserved,
            process_rss=rss,
            seconds=seconds,
            how_measured=f"weights and K/V: stored tensor bytes, each storage once; GPU memory: {gpu}; process memory: "
            f"{rss_how}; seconds: wall clock of encoding, steps, previews and decoding, without loading",
            device_total=total,
        )


@dataclass(frozen=True)
class Residence:
    """What an engine holds in memory, as of its last change."""

    precision: Precision | None = None
    """None while no denoiser is there."""
    denoiser_bytes: int = 0
    """Of its stored tensors, each storage once, without LoRAs."""
    loras: int = 0
    lora_bytes: int = 0
    """Of all LoRAs held, in use or not."""


def report(engine: Engine, proc: Path = PROC) -> dict[str, Any]:
    """What an engine and its process hold now, in bytes, as plain data. It waits for no job: "busy" says if one runs.

    LoRAs are counted, not named: a visitor's own are nobody else's business. What is not measured is None.
    """
    held, gpu = engine.residence, _gpu(engine.device)
    peak, peak_how = peak_rss(proc, is_reset=None)
    gpu_how = NO_GPU if gpu["total"] is None else "total and free by the driver, allocated and reserved by PyTorch, now"
    return {
        "device": engine.device.type,
        "busy": engine.is_busy,
        "gpu": gpu,
        "resident": {
            "base": Path(engine.base).name if held.precision else None,
            "precision": held.precision,
            "denoiser_bytes": held.denoiser_bytes,
            "loras": held.loras,
            "lora_bytes": held.lora_bytes,
        },
        "process": {"rss": status_bytes("VmRSS", proc), "rss_peak": peak},
        "how_measured": f"resident: stored tensor bytes, each storage once, as of the last change; GPU memory: "
        f"{gpu_how}; process memory: resident set now (VmRSS), and {peak_how}",
    }


def _gpu(device: torch.device) -> dict[str, Any]:
    """Name and memory of a GPU that is in use; all None for none, as asking would take some of its memory."""
    if device.type != "cuda" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return dict.fromkeys(("name", "total", "free", "allocated", "reserved"))
    free, total = torch.cuda.mem_get_info(device)
    return {
        "name": torch.cuda.get_device_name(device),
        "total": total,
        "free": free,
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
    }


def device_name(device: torch.device) -> str:
    """The words "cpu", or "cuda" with the card's name."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def reset_peak_rss(proc: Path = PROC) -> bool:
    """Let Linux count the resident peak (VmHWM) anew; False where that cannot be done."""
    try:
        (proc / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def status_bytes(key: str, proc: Path = PROC) -> int | None:
    """One of Linux's numbers about the process, such as VmRSS; None on other systems."""
    try:
        lines = (proc / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def peak_rss(proc: Path = PROC, is_reset: bool | None = False) -> tuple[int | None, str]:
    """The process's peak resident bytes, and in words what they span; None where the system does not say.

    `is_reset` says whether the peak was reset when the picture began; None, that a picture may have begun since.
    """
    since = RESET if is_reset else MAY_BE_RESET if is_reset is None else NOT_RESET
    peak = status_bytes("VmHWM", proc)
    if peak is not None:
        return peak, f"peak resident set {since} (VmHWM)"
    try:
        import resource  # absent on Windows
        import sys
    except ImportError:
        return None, "not measured on this system"
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak, f"peak resident set {NOT_RESET} (getrusage)"
