"""Maxima of inputs, over captions on the denoiser's own base."""

from pathlib import Path

import pytest
import torch
from torch import nn

from personalq.bench.peers.seen import OnCaptions, captions_of, watched
from personalq.diffusion.load import load_denoiser
from personalq.errors import QuantizationError
from personalq.records import Job

SAMPLE = Path(__file__).resolve().parents[3] / "sample_repo"


@torch.no_grad()
def test_the_largest_of_each_channel_over_all_calls() -> None:
    model = nn.ModuleDict({"linear": nn.Linear(3, 2), "conv": nn.Conv2d(2, 1, 1)})
    with watched(model) as maxima:
        model["linear"](torch.tensor([[1.0, -5.0, 0.0], [2.0, 4.0, 0.0]]))
        model["linear"](torch.tensor([[[-3.0, 0.0, 0.5]]]))
        model["conv"](torch.tensor([[[[1.0, -7.0]], [[2.0, 0.0]]]]))
    model["linear"](torch.full((1, 3), 100.0))
    assert maxima["linear"].tolist() == [3.0, 5.0, 0.5] and maxima["conv"].tolist() == [7.0, 2.0]


def test_a_denoiser_is_run_on_its_own_base_once(tiny_sd_folder: Path) -> None:
    asked: list[Path] = []

    def captions(base: Path) -> list[Job]:
        asked.append(base)
        return [Job("photo dog", seed=1, steps=2)]

    calibration, model = OnCaptions(captions), load_denoiser(tiny_sd_folder, "cpu", torch.float32)
    maxima = calibration(model)
    layers = {name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert maxima.keys() == layers
    for name, largest in maxima.items():
        assert largest.shape == (model.get_submodule(name).weight.shape[1],) and bool((largest >= 0).all())
    assert calibration(model) is maxima and asked == [tiny_sd_folder]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_denoiser_of_no_base_cannot_be_calibrated() -> None:
    from tiny_pipelines import unet

    with pytest.raises(QuantizationError, match="open the denoiser from the folder"):
        OnCaptions()(unet(32))


def test_captions_are_the_repositorys_half_of_them_with_a_trigger(tiny_sd_folder: Path) -> None:
    jobs = captions_of(SAMPLE / "bases" / "tiny-sd")
    assert len(jobs) == 64 and sum(bool(job.checkpoints) for job in jobs) == 32
    assert all(not job.checkpoints for job in captions_of(tiny_sd_folder))
