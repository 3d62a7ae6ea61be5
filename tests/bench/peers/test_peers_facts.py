"""Coverage is read off the packed model, and multiply-accumulates are those that a forward makes."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from personalq.backend.engine import Engine
from personalq.bench.peers.facts import ATTENTION, counted, facts, summed
from personalq.bench.peers.registry import PEERS, TAGS
from personalq.quant.apply import LayerReport, Report
from personalq.quant.formats import INT8
from personalq.records import Job

JOB = Job("photo dog", steps=3)


@pytest.fixture(scope="module")
def engine(tiny_sd_folder: Path) -> Engine:
    return Engine(tiny_sd_folder, "cpu", torch.float32, PEERS)


@torch.no_grad()
def test_all_products_of_a_forward_are_counted() -> None:
    from tiny_pipelines import unet

    torch.manual_seed(0)
    model = unet(32)
    with counted(model) as macs, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        model(torch.randn(2, 4, 8, 8), 5, torch.randn(2, 7, 32))
    assert sum(macs.values()) == flops.get_total_flops() // 2
    assert 0 < macs[ATTENTION] < sum(macs.values())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd3_transformer", "flux_transformer"])
def test_joint_attention_is_counted(family: str) -> None:
    import tiny_pipelines
    from tiny_pipelines import WIDE, WIDTH

    model = getattr(tiny_pipelines, family)()
    text = {"encoder_hidden_states": torch.randn(1, 9, WIDE)}
    if family == "sd3_transformer":
        args = {"hidden_states": torch.randn(1, 16, 8, 8), "timestep": torch.tensor([5.0]), **text}
        args["pooled_projections"] = torch.randn(1, 2 * WIDTH)
    else:
        args = {"hidden_states": torch.randn(1, 16, 64), "timestep": torch.tensor([0.5]), **text}
        args |= {"pooled_projections": torch.randn(1, WIDTH), "guidance": torch.tensor([3.5])}
        args |= {"txt_ids": torch.zeros(9, 3), "img_ids": torch.zeros(16, 3)}
    with counted(model) as macs, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
        model(**args)
    assert sum(macs.values()) == flops.get_total_flops() // 2


def test_coverage_of_our_rows_and_of_linears_only(engine: Engine) -> None:
    ours, theirs = (facts(engine, name, JOB, TAGS[name]) for name in ("taq-w8a8", "nf4"))
    assert ours.covers == ("Conv2d", "Linear") and theirs.covers == ("Linear",)
    assert 0.9 < ours.parameters < 1 and 0.5 < ours.macs < 1
    assert theirs.parameters < 0.6 * ours.parameters and theirs.macs < ours.macs
    assert ours.packed_bits is not None and 8 < ours.packed_bits < 9
    assert theirs.packed_bits is not None and 4.4 < theirs.packed_bits < 5
    assert ours.packed_bits < ours.weight_bits < theirs.weight_bits < 32


def test_the_reference_covers_nothing(engine: Engine) -> None:
    reference = facts(engine, "reference", JOB, TAGS["reference"])
    assert (reference.covers, reference.parameters, reference.macs) == ((), 0.0, 0.0)
    assert reference.weight_bits == 32 and reference.packed_bits is None


def test_shares_are_weighed_by_parameters_and_products() -> None:
    layers = (
        LayerReport("a", "Linear", INT8, 300, 330, 600),
        LayerReport("b", "Conv2d", None, 100, 200, 200, "kept"),
    )
    found = summed("x", TAGS["rtn-w8a8"], Report("x", layers, 530, 800), {"a": 60, "b": 20, ATTENTION: 20})
    assert (found.parameters, found.macs, found.covers) == (0.75, 0.6, ("Linear",))
    assert found.weight_bits == 530 * 8 / 400 and found.packed_bits == 330 * 8 / 300
