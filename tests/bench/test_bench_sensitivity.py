"""Rounding is switched on where it is asked for alone, is that of the packed formats, and comes off whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from personalq.backend.engine import Engine
from personalq.bench.judged import Exam
from personalq.bench.points import THIRDS, Asked, points_of, relative, thirds
from personalq.bench.probe import HEADS, Probe
from personalq.bench.sensitivity import as_text, in_order, one_concept, sensitivity, summed
from personalq.bench.sites import (
    INSIDE,
    KINDS,
    Switch,
    SwitchedAttention,
    attended,
    int4,
    rounded,
    rounded_rows,
    rounding,
    sites,
    switched,
)
from personalq.bench.thirds import pictures_of, pictures_summed, plans, rounded_during
from personalq.bench.token_rows import CHANGES, CLASSES, UNIONS, classes, classes_at
from personalq.diffusion.load import load_base
from personalq.diffusion.text import encode
from personalq.errors import BenchError
from personalq.quant.formats import INT4, INT4_ACT, INT4_ROWS, INT8, LOG4
from personalq.quant.layers import QConv2d, QLinear
from personalq.quant.trigger import TriggerAware, quantize_probabilities
from personalq.records import Checkpoint, Job, Recipe, Rule, Span
from personalq.settings import SAMPLE_REPO

DOG = Checkpoint("dog", triggers=("corgi dog",))
JOB = Job("photo corgi dog beach", spans=(Span(6, 15, "trigger", "dog"), Span(12, 15, "concept", "dog")), steps=6)
ASKED = [Asked(Exam(JOB, "identity", "dog", "beach"), "photo a dog beach", "dog")]


@pytest.fixture(scope="module")
def engine(tiny_sd_folder: Path) -> Engine:
    return Engine(tiny_sd_folder, "cpu", torch.float32)


@torch.no_grad()
def predicted(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, 64, generator=generator)
    out: Tensor = unet(x, torch.tensor(500), encoder_hidden_states=text, return_dict=False)[0]
    return out


def test_every_place_is_found_in_its_kind_and_block(engine: Engine) -> None:
    with engine.hold(Job(""), "reference") as session, switched(session.pipe.unet) as attention:
        found = sites(session.pipe.unet, attention)
        packed = {id(layer) for site in found.values() for layer in site.layers}
        names = [name for name, m in session.pipe.unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        left = [name for name in names if id(session.pipe.unet.get_submodule(name)) not in packed]
    assert sorted(left) == ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
    assert {kind for kind, _ in found} == set(KINDS)
    assert in_order(list({block for _, block in found})) == ["down 0", "down 1", "mid", "up 0", "up 1"]
    assert ("text K", "down 0") not in found
    assert len(found["text probabilities", "up 0"].attention) == 2


def test_switched_attention_that_rounds_nothing_is_the_reference(engine: Engine) -> None:
    with engine.hold(Job(""), "reference") as session:
        unet = session.pipe.unet
        before, processors = predicted(unet), dict(unet.attn_processors)
        with switched(unet):
            assert torch.allclose(predicted(unet), before, atol=1e-5)
        assert unet.attn_processors == processors


def test_every_rounding_changes_the_prediction_and_comes_off_bit_for_bit(engine: Engine) -> None:
    with engine.hold(Job(""), "reference") as session, switched(session.pipe.unet) as attention:
        unet = session.pipe.unet
        before = predicted(unet)
        for (kind, block), site in sites(unet, attention).items():
            for weights, activations in ((True, False), (False, True)):
                with rounding([site], weights, activations):
                    changed = not torch.equal(predicted(unet), before)
                assert changed == (activations or bool(site.layers)), (kind, block)
                assert torch.equal(predicted(unet), before)
        assert all(processor.switch == Switch() for processor in attention.values())


def test_rounding_comes_off_when_something_fails(engine: Engine) -> None:
    with engine.hold(Job(""), "reference") as session, switched(session.pipe.unet) as attention:
        before = predicted(session.pipe.unet)
        every = sites(session.pipe.unet, attention).values()
        with pytest.raises(KeyboardInterrupt), rounding(every, True, True):
            raise KeyboardInterrupt
        assert torch.equal(predicted(session.pipe.unet), before)


@pytest.mark.parametrize("layer", [nn.Linear(70, 6), nn.Conv2d(5, 6, 3, padding=1)], ids=["linear", "convolution"])
def test_weights_are_those_of_the_packed_layers(layer: nn.Linear | nn.Conv2d) -> None:
    rule = Rule(".*", INT4, INT8, 64)
    if isinstance(layer, nn.Linear):
        expected = QLinear.from_float(layer, rule).dequantized()
    else:
        expected = QConv2d.from_float(layer, rule).dequantized().view(6, 3, 3, 5).permute(0, 3, 1, 2)
    assert torch.equal(int4(layer.weight), expected)


def test_rounded_values_have_fifteen_levels_and_keep_the_largest() -> None:
    x = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(1))
    found = rounded(x, INT4_ACT, (-1,))
    levels = found / x.abs().amax(-1, keepdim=True) * 7
    assert torch.allclose(levels, levels.round(), atol=1e-5)
    assert levels.abs().max() <= 7 + 1e-5
    assert (found - x).abs().max() <= x.abs().amax() / 14 + 1e-6


@pytest.mark.parametrize("format", [INT8, INT4_ROWS])
def test_rounded_rows_and_columns_are_those_that_trigger_aware_attention_packs(format: Any) -> None:
    """All rows but the protected ones are rounded: the same numbers in another order."""
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(2, 3, n, 8, generator=generator) for n in (10, 12, 12))
    value[:, :, 0] *= 30
    protected = torch.zeros(2, 12, dtype=torch.bool)
    protected[0, [0, 4]] = protected[1, [0, 7]] = True
    aware = TriggerAware(Recipe("r", (), format, LOG4))
    expected = aware.attend(query, aware.project(key, value, protected))
    switch = Switch({"keys": format, "values": format, "probabilities": LOG4}, ~protected)
    found = attended(query, *rounded_rows(key, value, switch), switch)
    assert torch.allclose(found, expected, atol=1e-4)


def test_columns_that_are_not_chosen_keep_their_probabilities() -> None:
    query, key = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 6, 8)
    chosen, mass = torch.tensor([[0, 1, 1, 0, 0, 0]]).bool(), torch.zeros(1, 6)
    weights = (query @ key.mT * 8**-0.5).softmax(-1)
    expected = weights.clone()
    expected[..., 1:3] = quantize_probabilities(weights[..., 1:3], LOG4)
    found = attended(query, key, torch.eye(6)[None, None], Switch({"probabilities": LOG4}, chosen, mass))
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(mass, weights.mean((0, 1, 2)), atol=1e-6)


def test_classes_part_the_rows_of_a_prompt() -> None:
    pipe = load_base(SAMPLE_REPO / "bases" / "tiny-sd", "cpu", torch.float32, with_denoiser=False)
    prompt = "a photo of zwx dog in the snow"
    found = classes(pipe, prompt, (Span(11, 18, "trigger", "z"), Span(15, 18, "concept", "z")))
    assert torch.stack([found[name] for name in CLASSES]).sum(0).eq(1).all()
    ids = pipe.tokenizer(prompt).input_ids
    words = {name: pipe.tokenizer.decode(torch.tensor(ids)[found[name][: len(ids)]]).strip() for name in CLASSES[:5]}
    assert words["noun"] == "dog"
    assert words["trigger"].replace(" ", "") == "zwx"
    assert words["words"] == "a photo of in the snow"
    assert int(found["padding"].sum()) == 77 - len(ids)
    assert torch.equal(found["trigger + noun"], found["trigger"] | found["noun"])
    empty = classes(pipe, "", ())
    assert [name for name in CLASSES if empty[name].any()] == ["start", "end", "padding"]


@torch.no_grad()
def test_points_lie_on_the_reference_trajectory_in_all_thirds(engine: Engine) -> None:
    with engine.hold(JOB, "reference") as session:
        points = points_of(session, ASKED, 2)
        answer = points.answer(session.pipe)
        text = encode(session.pipe, JOB.prompt)
    assert points.third.tolist() == [0, 0, 1, 1, 2, 2]
    assert points.t.tolist() == sorted(points.t.tolist(), reverse=True)
    assert torch.equal(points.text.embeds[6:12], text.embeds[1:].expand(6, -1, -1))
    assert answer.prediction.shape == answer.concept.shape == points.x.shape
    assert relative(answer.concept, 0 * answer.concept + answer.prediction) > 0
    errors = points.errors(answer, answer)
    assert errors == {"prediction": [0.0] * 3, "concept": [0.0] * 3}


def test_thirds_share_the_steps() -> None:
    assert [list(third) for third in thirds(7)] == [[0, 1], [2, 3, 4], [5, 6]]
    assert sum(len(third) for third in thirds(20)) == 20


@pytest.fixture(scope="module")
def found(engine: Engine) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """All that is measured of one concept, and the progress told."""
    told: list[tuple[int, int]] = []
    with engine.hold(JOB, "reference") as session:
        return one_concept(session, ASKED, 1, None, lambda done, of: told.append((done, of))), told


def test_fewer_bits_in_more_rows_cost_more(found: tuple[dict[str, Any], list[tuple[int, int]]]) -> None:
    rows = found[0]["rows"]
    assert set(rows["errors"]) == set(CHANGES)
    four, eight = rows["errors"]["K/V int4"]["all"], rows["errors"]["K/V int8"]["all"]
    assert 0 < 3 * eight["concept"] < four["concept"]
    assert sum(rows["mass"][name] for name in CLASSES if name in rows["mass"]) == pytest.approx(1, abs=1e-4)
    assert rows["count"]["noun"] == 1
    for name in UNIONS:
        assert rows["count"][name] == sum(rows["count"].get(part, 0) for part in UNIONS[name])
    alone = rows["errors"]["K/V int4"]["padding"]["alone"]
    assert 0 < alone["prediction"] <= 1.5 * four["prediction"]


def test_the_class_noun_is_in_the_prompt_and_in_the_plain_prompt(engine: Engine) -> None:
    with engine.hold(JOB, "reference") as session:
        rows = classes_at(session.pipe, ASKED, points_of(session, ASKED, 1))
    assert rows["noun"].any(1).tolist() == [False] * 3 + [True] * 6
    assert rows["trigger"].any(1).tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_all_that_is_measured_of_a_concept_is_summed_and_told(
    engine: Engine, found: tuple[dict[str, Any], list[tuple[int, int]]]
) -> None:
    one, told = found
    assert told[-1][0] <= told[-1][1] == told[0][1]
    result = summed(engine, {"dog": one, "again": one}) | {"prompts": 1, "per_third": 1, "steps": 6}
    place, block = result["kinds"].index("convolution"), result["blocks"].index("mid")
    cell = result["maps"]["weights"]["prediction"][place][block]
    assert cell == one["errors"]["weights"]["convolution", "mid"]["prediction"]
    assert all(0 < error < 1 for error in cell)
    assert result["maps"]["weights"]["prediction"][result["kinds"].index("text probabilities")][block] is None
    assert result["maps"]["activations"]["concept"][result["kinds"].index("text K")][0] is None
    lines = [line for line in result["rows"] if line["rows"] == "trigger" and line["part"] == "concept"]
    assert {line["change"] for line in lines} == set(CHANGES)
    assert all(line["saved"]["mean"] == pytest.approx(1 - line["others"] / line["all"]) for line in lines)
    text = as_text(result)
    assert "| convolution |" in text
    assert "| K/V int4 | trigger |" in text


@torch.no_grad()
def test_rounding_during_no_step_leaves_the_picture_as_it_is(engine: Engine) -> None:
    with engine.hold(JOB, "reference") as session, switched(session.pipe.unet) as attention:
        every = list(sites(session.pipe.unet, attention).values())
        text, noise = encode(session.pipe, JOB.prompt), torch.randn(1, 4, 8, 8)
        whole, early, late = (
            rounded_during(session, text, noise, JOB, every, (True, True), during)
            for during in (range(0), range(2), range(4, 6))
        )
        again = rounded_during(session, text, noise, JOB, [], (False, False), range(6))
    assert torch.equal(whole, again)
    assert not torch.equal(early, whole)
    assert not torch.equal(early, late)


def test_pictures_of_rounded_steps_are_judged(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding every activation costs more than rounding the weights of one kind; the probe's answers are shares."""
    some = [("weights", "time", "late"), ("activations", "all", "early")]
    monkeypatch.setattr("personalq.bench.thirds.plans", lambda _: some)
    probe = Probe({head: ["dog", "beach", "photo"] for head in HEADS}).eval()
    ticks: list[None] = []
    with engine.hold(JOB, "reference") as session, switched(session.pipe.unet) as attention:
        places = sites(session.pipe.unet, attention)
        asked = [ASKED[0]._replace(exam=replace(ASKED[0].exam, job=replace(JOB, checkpoints=((DOG, 1.0),))))]
        found = pictures_of(session, asked, places, probe, lambda: ticks.append(None))
    assert [(row["rounded"], row["kind"], row["third"]) for row in found] == some
    assert len(ticks) == 2
    assert found[0]["psnr"] > found[1]["psnr"]
    assert all(0 < row["probability"] < 1 for row in found)
    mean = pictures_summed([found, [row | {"psnr": 0.0} for row in found]])
    assert [row["psnr"] for row in mean] == [row["psnr"] / 2 for row in found]


def test_plans_name_every_kind_in_every_third(engine: Engine) -> None:
    with engine.hold(JOB, "reference") as session, switched(session.pipe.unet) as attention:
        found = plans(sites(session.pipe.unet, attention))
    assert len(found) == len(set(found))
    assert {third for *_, third in found} == set(THIRDS)
    assert ("weights", "text probabilities", "early") not in found
    assert {kind for what, kind, _ in found if what == "activations"} == {*KINDS, "all"}
    assert set(INSIDE) <= set(KINDS)


def test_a_repository_without_triggers_is_refused(engine: Engine) -> None:
    bare = replace(DOG, id="rose-robots", triggers=())
    with pytest.raises(BenchError, match="trigger"):
        sensitivity(engine, SAMPLE_REPO, (bare,))
    assert SwitchedAttention().switch == Switch()
