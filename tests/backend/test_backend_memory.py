"""Readings are what the system says, and words say how; what cannot be read is None."""

import sys
from pathlib import Path

import pytest
import torch

from personalq.backend.memory import Meter, peak_rss, reset_peak_rss

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")


@LINUX
def test_the_peak_is_reset_and_sees_what_is_touched() -> None:
    if not reset_peak_rss():
        pytest.skip("this kernel does not let the peak be reset")
    big = torch.ones(64 * 2**20, dtype=torch.uint8)
    high, how = peak_rss(is_reset=True)
    size = big.nbytes
    del big
    assert reset_peak_rss()
    low, _ = peak_rss(is_reset=True)
    assert high and low and high - low > 0.8 * size and "since the start of the picture" in how


def test_a_peak_that_cannot_be_reset_says_so(tmp_path: Path) -> None:
    assert not reset_peak_rss(tmp_path / "no-proc")
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t    2048 kB\n")
    assert peak_rss(tmp_path) == (
        2048 * 1024,
        "peak resident set since the process started, it could not be reset (VmHWM)",
    )
    assert peak_rss(tmp_path, is_reset=True)[1] == "peak resident set since the start of the picture (VmHWM)"


def test_without_proc_the_process_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    peak, how = peak_rss(tmp_path / "no-proc")
    assert peak and peak > 2**20 and "getrusage" in how and "could not be reset" in how


def test_tied_weights_count_once() -> None:
    tied = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False))
    tied[1].weight = tied[0].weight
    reading = Meter(torch.device("cpu")).reading(tied, 7)
    assert reading.weights_bytes == 8 * 8 * 4 and reading.kv_bytes == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_peaks_are_reset_and_read() -> None:
    device = torch.device("cuda")
    torch.zeros(256 * 2**20, dtype=torch.uint8, device=device)
    reading = Meter(device).reading(torch.nn.Linear(2, 2), 0)
    assert reading.peak_allocated is not None and reading.peak_allocated < 64 * 2**20
    assert reading.peak_reserved is not None and "CUDA allocator" in reading.how_measured
