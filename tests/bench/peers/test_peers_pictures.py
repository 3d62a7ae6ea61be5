"""Every kind of row makes a picture on small random bases."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.backend.variants import Variant
from personalq.bench.peers.levels import LEVELS
from personalq.bench.peers.registry import PEERS, ROWS, missing, rows
from personalq.bench.peers.seen import OnCaptions
from personalq.bench.peers.top_mass import MassMeter, MeteredJoint, MeteredText, TopMass
from personalq.diffusion.attention import FullKV
from personalq.diffusion.text import encode
from personalq.errors import QuantizationError
from personalq.quant.trigger import TriggerAware
from personalq.records import Frame, Job, Span

PROMPT = "photo zwx dog"  # start, photo, z, w, x, dog, end
JOB = Job(PROMPT, spans=(Span(6, 9, "trigger", "t"),), steps=2, seed=3)
KINDS = [
    *("rtn-w8a8", "taq-w4a4", "taq-w8attn4", "random-w8a4", "top-mass-w8a8", "all-w4attn4", "taq-w8a4-linear4"),
    *("nf4", "taq-nf4", "llm-int8", "smoothquant-w8a8", "svdquant-w4a8", "qdiffusion-w8a8-softmax16", "dgq-w4a4"),
    *("taq+seg+dual-w8a4", "rtn+dual-w8a8"),
]


@pytest.fixture(scope="module")
def variants() -> dict[str, Variant]:
    """The table, calibrated on two steps of one caption."""
    calibration = OnCaptions(lambda base: [Job(PROMPT, steps=2)])
    return {name: peer.variant for name, peer in rows(calibration).items()}


@pytest.fixture(scope="module")
def engine(tiny_sd_folder: Path, variants: dict[str, Variant]) -> Iterator[Engine]:
    engine = Engine(tiny_sd_folder, "cpu", torch.float32, variants)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(engine: Engine) -> Frame:
    return made(engine, "reference")


def made(engine: Engine, name: str, job: Job = JOB) -> Frame:
    return list(generate(engine, job, name, previews=False))[-1]


@pytest.mark.parametrize("name", KINDS)
def test_a_row_makes_a_picture_of_its_own_in_fewer_bytes(engine: Engine, reference: Frame, name: str) -> None:
    frame = made(engine, name)
    assert reference.memory is not None and frame.memory is not None
    assert frame.memory.weights_bytes < reference.memory.weights_bytes
    assert frame.image is not None
    assert not np.array_equal(np.asarray(frame.image), np.asarray(reference.image))
    again = made(engine, name)
    assert np.array_equal(np.asarray(frame.image), np.asarray(again.image))


def test_text_rows_are_really_stored_at_the_levels_bits(tiny_sd_folder: Path, variants: dict[str, Variant]) -> None:
    engine = Engine(tiny_sd_folder, "cpu", torch.float32, variants)
    held = {}
    for name in ("reference", "rtn-w8a8", "rtn-w8attn4"):
        memory = made(engine, name).memory
        assert memory is not None
        held[name] = memory.kv_bytes
    assert held["rtn-w8attn4"] < 0.7 * held["rtn-w8a8"] < 0.3 * held["reference"]


@pytest.mark.parametrize("name", ["svdquant-w4a8", "dgq-w4a4", "taq+seg+dual-w8a8", "llm-int8", "top-mass-w8a8"])
@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_other_families_are_packed_too(
    request: pytest.FixtureRequest, variants: dict[str, Variant], family: str, name: str
) -> None:
    engine = Engine(request.getfixturevalue(f"tiny_{family}_folder"), "cpu", torch.float32, variants)
    job = Job(PROMPT, spans=JOB.spans, steps=2, width=16, height=16)
    assert made(engine, name, job).image is not None


@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("torchao")])
def test_a_library_that_is_not_installed_says_so(
    tiny_sd_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personalq.bench.peers.ao.find_spec", lambda name: None)
    assert missing(name).startswith("torchao is not installed: pip install torchao==")
    with pytest.raises(QuantizationError, match="not installed"):
        made(Engine(tiny_sd_folder, "cpu", torch.float32, PEERS), name)


@pytest.mark.skipif(bool(missing("torchao-int8-dynamic")), reason="torchao is not installed")
@pytest.mark.parametrize("name", [name for name in PEERS if name.startswith("torchao")])
def test_torchao_packs_linears(tiny_sd_folder: Path, name: str) -> None:
    engine = Engine(tiny_sd_folder, "cpu", torch.float32, PEERS)
    reference, frame = made(engine, "reference"), made(engine, name)
    assert frame.memory and reference.memory and frame.memory.weights_bytes < reference.memory.weights_bytes


# --- the rows of the most mass -------------------------------------------------------------------


def test_mass_is_the_probability_of_each_row() -> None:
    meter, query, key = MassMeter(), torch.zeros(2, 3, 5, 8), torch.zeros(2, 3, 7, 8)
    query[..., 0] = 10
    key[-1, :, 4, 0] = 10
    text = MeteredText(meter)
    out = text.attend(query, FullKV(key, torch.randn(2, 3, 7, 8)))
    text.attend(query, FullKV(key, torch.randn(2, 3, 7, 8)))
    assert out.shape == query.shape and meter.mass is not None
    torch.testing.assert_close(meter.mass.sum(), torch.tensor(2.0 * 3 * 5))
    assert int(meter.mass.argmax()) == 4


def test_mass_beside_a_picture_is_what_the_text_gets_of_it() -> None:
    meter, query, pair = MassMeter(), torch.zeros(2, 3, 5, 8), (torch.zeros(2, 3, 7, 8),) * 2
    MeteredJoint(meter).attend(query, (torch.zeros(2, 3, 21, 8),) * 2, pair, torch.zeros(2, 7, dtype=torch.bool))
    assert meter.mass is not None
    torch.testing.assert_close(meter.mass, torch.full((7,), 3 * 5 / 28))


def test_as_many_rows_as_the_trigger_has_and_the_same_for_every_seed(engine: Engine) -> None:
    top = TopMass()
    with engine.hold(JOB, "rtn-w8a8") as session:
        text = encode(session.pipe, PROMPT, "", JOB.spans, ())
        mask = top(session, text, JOB)
        other = TopMass()(session, text, Job(PROMPT, spans=JOB.spans, steps=2, seed=9))
    assert mask.shape == text.protected.shape and mask[-1].sum() == 3 and not mask[0].any()
    assert torch.equal(mask, other)


def test_the_mask_of_a_control_is_what_its_attention_gets(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    project = TriggerAware.project

    def spy(self: TriggerAware, key: torch.Tensor, value: torch.Tensor, protected: torch.Tensor) -> object:
        seen.append(protected)
        return project(self, key, value, protected)

    monkeypatch.setattr(TriggerAware, "project", spy)
    made(engine, "top-mass-w8a8")
    assert seen and all(mask[-1].sum() == 3 and not mask[0].any() for mask in seen)


def test_every_level_has_its_control_of_most_mass() -> None:
    masks = {ROWS[f"top-mass-{level}"].variant.mask for level in LEVELS}
    assert len(masks) == 1 and None not in masks  # one, so that a prompt is run once for all of them
