"""Readings are what the system says, and words say how; what cannot be read is None."""

import json
import sys
from pathlib import Path

import pytest
import torch

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.backend.memory import Meter, peak_rss, report, reset_peak_rss
from personalq.quant.apply import stored_bytes
from personalq.records import Job

JOB = Job("photo of dog", steps=2)

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
    assert reading.device_total == torch.cuda.mem_get_info(device)[1]


# --- the report --------------------------------------------------------------------------------


def test_a_report_says_what_is_resident_and_measures_no_gpu_where_there_is_none(engine: Engine) -> None:
    before = report(engine)
    assert before["resident"] == {"base": None, "precision": None, "denoiser_bytes": 0, "loras": 0, "lora_bytes": 0}
    with engine.hold(JOB, "taq-w8a8") as session:
        held = stored_bytes(session.pipe.unet)
    said = report(engine)
    assert json.loads(json.dumps(said)) == said
    assert said["resident"]["base"] == "tiny-random-sd" and said["resident"]["precision"] == "taq-w8a8"
    assert said["resident"]["denoiser_bytes"] == held
    assert said["device"] == "cpu" and set(said["gpu"].values()) == {None} and "no GPU" in said["how_measured"]
    assert str(Path(engine.base).parent) not in json.dumps(said)
    engine.close()
    assert report(engine)["resident"] == before["resident"]


def test_a_report_does_not_wait_for_the_job_that_runs(engine: Engine) -> None:
    frames = generate(engine, JOB, "reference")
    next(frames)
    during = report(engine)
    frames.close()
    assert during["busy"] and during["resident"]["precision"] == "reference" and not report(engine)["busy"]


@LINUX
def test_a_report_reads_the_process(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert report(engine, tmp_path)["process"] == {"rss": 2**20, "rss_peak": 2**21}
    own = report(engine)["process"]
    assert 2**20 < own["rss"] <= own["rss_peak"] + 2**24  # pages are counted in batches


def test_a_report_leaves_out_what_the_system_does_not_say(engine: Engine, tmp_path: Path) -> None:
    said = report(engine, tmp_path / "no-proc")
    assert said["process"]["rss"] is None and "getrusage" in said["how_measured"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_report_reads_the_gpu(tiny_sd_folder: Path) -> None:
    engine = Engine(tiny_sd_folder, "cuda")
    engine.warm()
    gpu = report(engine)["gpu"]
    assert gpu["name"] and gpu["total"] >= gpu["free"] > 0 and gpu["reserved"] >= gpu["allocated"] > 0
    engine.close()
