"""Reads memory and time as they are, never estimates them. Knows no models beyond the tensors they hold."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from personalq.quant.apply import stored_bytes
from personalq.records import MemoryReading

PROC = Path("/proc/self")


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
        allocated = reserved = None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            allocated = torch.cuda.max_memory_allocated(self.device)
            reserved = torch.cuda.max_memory_reserved(self.device)
        seconds = time.perf_counter() - self.started
        rss, rss_how = peak_rss(self.proc, self.rss_is_reset)
        gpu = "CUDA allocator peaks since the start of the picture" if allocated is not None else "no GPU: not measured"
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
        )


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


def peak_rss(proc: Path = PROC, is_reset: bool = False) -> tuple[int | None, str]:
    """The process's peak resident bytes, and in words what they span; None where the system does not say."""
    since = "since the start of the picture" if is_reset else "since the process started, it could not be reset"
    try:
        for line in (proc / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024, f"peak resident set {since} (VmHWM)"
    except OSError:
        pass
    try:
        import resource  # absent on Windows
        import sys
    except ImportError:
        return None, "not measured on this system"
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak, "peak resident set since the process started, it could not be reset (getrusage)"
