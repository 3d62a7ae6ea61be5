"""What is stored comes back bit for bit, and what nobody stored does not come back at all."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import store
from personalq.quant.apply import Report, quantize_unet, stored_bytes
from personalq.quant.formats import ASYM8, INT4, INT4_ACT, INT8, LOG4
from personalq.quant.layers import PackedWeight
from personalq.quant.recipe import recipe_named
from personalq.quant.sidecar import FILE, Provenance, read_sidecar
from personalq.quant.store import load_quantized, save_quantized
from personalq.records import QType, Recipe, Rule

Inputs = tuple[Tensor, Tensor, Tensor]
MakeUnet = Callable[..., UNet2DConditionModel]
Document = dict[str, Any]
Tensors = dict[str, Tensor]
WEIGHTS = "weights.safetensors"
ORIGIN = Provenance("tiny", {"unet.safetensors": "0" * 64}, {"captions": 64, "seed": 0})
LAYER = "mid_block.resnets.0.conv1"


PLAIN = "plain"
"""Three rules: edges and text are kept, all else is packed."""


def recipe(name: str, **rule: Any) -> Recipe:
    kept = (Rule(r"conv_(in|out)$", None, reason="edge"), Rule(r"attn2\.to_[kv]$", None, reason="text"))
    return Recipe(name, (*kept, Rule(r".*", **rule)), text_rows=INT8, probabilities=LOG4, protect=("trigger", "end"))


EVERY = {
    each.name: each
    for each in (
        *(recipe_named(name) for name in ("taq-w8a8", "taq-w4a8", "nf4")),
        recipe(PLAIN, weight=INT4, activation=INT8, group=64),
        recipe("weight-only", weight=INT4, group=32),
        recipe("four-bit inputs", weight=INT8, activation=INT4_ACT),
        recipe("zero points", weight=INT4, activation=ASYM8, group=64, segments=True),
        recipe("segments", weight=INT4, activation=INT8, group=64, segments=True, dual=True),
    )
}


Stored = tuple[nn.Module, Report, Path]


@pytest.fixture(scope="module")
def stored_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, torch.dtype], Stored]]:
    """Where models are stored once for all tests that only read or damage copies of them, and those that are."""
    return tmp_path_factory.mktemp("stored"), {}


@pytest.fixture
def made(
    make_unet: MakeUnet, tmp_path: Path, stored_once: tuple[Path, dict[tuple[str, torch.dtype], Stored]]
) -> Callable[..., Stored]:
    """A UNet quantised by a recipe's name, its report, and a copy of the folder it is stored in."""
    home, known = stored_once

    def make(name: str = PLAIN, dtype: torch.dtype = torch.bfloat16) -> Stored:
        if (name, dtype) not in known:
            unet = make_unet(dtype)
            report = quantize_unet(unet, EVERY[name])
            folder = save_quantized(unet, report, EVERY[name], home / str(len(known)), ORIGIN)
            known[name, dtype] = unet, report, folder
        unet, report, folder = known[name, dtype]
        return unet, report, Path(shutil.copytree(folder, tmp_path / "stored", dirs_exist_ok=True))

    return make


@pytest.fixture
def empty(make_unet: MakeUnet) -> Callable[..., nn.Module]:
    return lambda dtype=torch.bfloat16: make_unet(dtype).to("meta")


def output(unet: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Tensor:
    latents, step, text = inputs
    with torch.no_grad():
        return unet(latents.to(dtype), step, text.to(dtype)).sample


def same_bits(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = ([*m.named_parameters(), *m.named_buffers()] for m in (one, other))
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    for (name, a), (_, b) in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and a.stride() == b.stride(), name
        assert torch.equal(a, b) or name.endswith("stand_in"), name  # which is NaN


# --- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.bfloat16) for name in EVERY), (PLAIN, torch.float32), (PLAIN, torch.float16)]
)
def test_it_comes_back_bit_for_bit(
    made: Callable[..., Stored], empty: Callable[..., nn.Module], inputs: Inputs, name: str, dtype: torch.dtype
) -> None:
    unet, report, folder = made(name, dtype)
    loaded = empty(dtype)
    assert load_quantized(loaded, folder) == report
    same_bits(unet, loaded)
    assert stored_bytes(loaded) == stored_bytes(unet) == report.stored_bytes
    assert torch.equal(output(unet, inputs, dtype), output(loaded, inputs, dtype))
    for path, module in unet.named_modules():
        if isinstance(module, PackedWeight):
            other = loaded.get_submodule(path)
            assert (other.rule, other.segments) == (module.rule, module.segments), path


@pytest.mark.parametrize("name", EVERY)
def test_the_description_says_it_all(made: Callable[..., Stored], name: str) -> None:
    unet, report, folder = made(name)
    sidecar = read_sidecar(folder)
    assert sidecar.recipe == EVERY[name] and sidecar.provenance == ORIGIN and sidecar.dtype == "bfloat16"
    assert sidecar.stored_bytes == report.stored_bytes
    assert list(sidecar.layers) == [layer.name for layer in report.layers]
    assert sidecar.files == {WEIGHTS: hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
    again = UNet2DConditionModel.from_config(dict(sidecar.denoiser))
    assert {k: tuple(t.shape) for k, t in again.state_dict().items() if "norm" in k} == {
        k: tuple(t.shape) for k, t in unet.state_dict().items() if "norm" in k
    }
    assert sidecar.versions["torch"] == torch.__version__.split("+")[0] or "torch" in sidecar.versions
    assert ("bitsandbytes" in sidecar.versions) == (name == "nf4")


def test_smoothing_and_calibrated_codes_are_stored(
    make_unet: MakeUnet, empty: Callable[..., nn.Module], inputs: Inputs, tmp_path: Path
) -> None:
    plan, unet = recipe("r", weight=INT8, activation=INT8), make_unet()
    quantize_unet(other := make_unet(), plan)
    state = {**other.get_submodule(LAYER).tensors(), "codes": other.get_submodule(LAYER).codes.neg()}
    smoothing = {"time_embedding.linear_1": torch.linspace(0.5, 2, 32)[None]}
    report = quantize_unet(unet, plan, calibrated={LAYER: state}, smoothing=smoothing)
    loaded = empty(torch.float32)
    assert load_quantized(loaded, save_quantized(unet, report, plan, tmp_path / "s", ORIGIN)) == report
    same_bits(unet, loaded)
    assert torch.equal(loaded.get_submodule(LAYER).codes, state["codes"])
    assert torch.equal(output(unet, inputs, torch.float32), output(loaded, inputs, torch.float32))


def test_in_another_type_only_what_is_not_packed_is_cast(
    made: Callable[..., Stored], empty: Callable[..., nn.Module], inputs: Inputs
) -> None:
    unet, _, folder = made(PLAIN, torch.float32)
    load_quantized(loaded := empty(torch.bfloat16), folder)
    cast = copy.deepcopy(unet).to(torch.bfloat16)
    same_bits(cast, loaded)
    assert torch.equal(output(cast, inputs, torch.bfloat16), output(loaded, inputs, torch.bfloat16))


@pytest.mark.parametrize("name", [PLAIN, "nf4"])
def test_shards_hold_whole_layers(
    made: Callable[..., Stored],
    empty: Callable[..., nn.Module],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unet, report, _ = made(name)
    monkeypatch.setattr(store, "SHARD_BYTES", 60_000)
    folder = save_quantized(unet, report, EVERY[name], tmp_path / "shards", ORIGIN)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 5 and files[0].name == f"weights-00001-of-{len(files):05}.safetensors"
    layers = [{key.rpartition(".")[0] for key in load_file(file)} for file in files]
    assert sum(map(len, layers)) == len(set().union(*layers)) == len(report.layers)
    load_quantized(loaded := empty(), folder)
    same_bits(unet, loaded)


def test_a_model_that_was_stored_is_replaced_and_nothing_else(made: Callable[..., Stored], tmp_path: Path) -> None:
    _, _, folder = made(PLAIN)
    unet, report, _ = made("weight-only")
    (folder / "leftover.safetensors").touch()
    save_quantized(unet, report, EVERY["weight-only"], folder, ORIGIN)
    assert read_sidecar(folder).recipe.name == "weight-only"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stored"]
    assert sorted(path.name for path in folder.iterdir()) == [FILE, WEIGHTS]
    (folder / FILE).unlink()
    with pytest.raises(QuantizationError, match="holds something else"):
        save_quantized(unet, report, EVERY["weight-only"], folder, ORIGIN)
    assert (folder / WEIGHTS).exists()


def test_a_full_disk_leaves_what_was_there(
    made: Callable[..., Stored], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, report, folder = made(PLAIN)
    before = (folder / FILE).read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(QuantizationError, match=r"cannot be written \(No space.*make room"):
        save_quantized(unet, report, EVERY[PLAIN], folder, ORIGIN)
    assert [path.name for path in tmp_path.iterdir()] == ["stored"]
    assert (folder / FILE).read_bytes() == before


# --- what is not stored ------------------------------------------------------------------------


def test_what_does_not_belong_together_is_not_stored(make_unet: MakeUnet, tmp_path: Path) -> None:
    unet, plan = make_unet(), recipe_named("taq-w8a8")
    report = quantize_unet(unet, plan)
    other = recipe_named("taq-w4a8")
    strange = QType("int5", 5, signed=True, qmin=-15, qmax=15, storage="int8")
    for given, described, message in (
        (report, other, "another model or recipe"),
        (replace(report, recipe=other.name), other, "follows no rule"),
        (replace(report, layers=report.layers[1:]), plan, "another model or recipe"),
        (report, replace(plan, text_rows=strange), "int5 is not one of"),
    ):
        with pytest.raises(QuantizationError, match=message):
            save_quantized(unet, given, described, tmp_path / "s", ORIGIN)
    with pytest.raises(QuantizationError, match="as JSON"):
        save_quantized(unet, report, plan, tmp_path / "s", replace(ORIGIN, calibration={"x": object()}))
    unet.conv_in.to(torch.bfloat16)
    with pytest.raises(QuantizationError, match="bfloat16, float32: cast it"):
        save_quantized(unet, report, plan, tmp_path / "s", ORIGIN)
    unet.conv_in.float()
    unet.mid_block.resnets[0].conv1 = nn.Conv2d(64, 64, 3)  # as a library's own quantised layer would be
    with pytest.raises(QuantizationError, match=f"{LAYER} is a Conv2d, whose tensors cannot be stored"):
        save_quantized(unet, report, plan, tmp_path / "s", ORIGIN)
    assert not any(tmp_path.iterdir())


def test_an_nf4_layer_that_bitsandbytes_rearranged_is_not_stored(make_unet: MakeUnet, tmp_path: Path) -> None:
    unet, plan = make_unet(torch.bfloat16), recipe_named("nf4")
    report = quantize_unet(unet, plan)
    unet.get_submodule("time_embedding.linear_1").weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(QuantizationError, match="save before running"):
        save_quantized(unet, report, plan, tmp_path / "s", ORIGIN)


# --- what nobody vouches for -------------------------------------------------------------------


def rehash(folder: Path) -> None:
    """Make the description fit the files, as whoever forges both would."""
    document = json.loads((folder / FILE).read_text())
    document["files"] = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.safetensors")}
    (folder / FILE).write_text(json.dumps(document))


def scaled(value: float) -> Callable[[Tensors], None]:
    return lambda tensors: tensors[f"{LAYER}.scale"].__setitem__(0, value)


TAMPERED: dict[str, tuple[str, Callable[[Tensors], object], str]] = {
    "a code below the range": (
        "four-bit inputs",
        lambda t: t[f"{LAYER}.codes"][0].fill_(-128),
        "none that packing makes",
    ),
    "a multiplier of zero": (PLAIN, lambda t: t[f"{LAYER}.gamma"].fill_(0), "none that packing makes"),
    "values that wrap": (PLAIN, lambda t: t[f"{LAYER}.gamma"][0].fill_(18), "none that packing makes"),
    "offsets that wrap": (PLAIN, lambda t: t[f"{LAYER}.offset"][0].fill_(127), "none that packing makes"),
    "a scale that is NaN": (PLAIN, scaled(float("nan")), "none that packing makes"),
    "a scale without end": ("four-bit inputs", scaled(float("inf")), "none that packing makes"),
    "a scale of zero": ("four-bit inputs", scaled(0.0), "none that packing makes"),
    "a scale below zero": ("four-bit inputs", scaled(-1.0), "none that packing makes"),
    "statistics below zero": (
        "nf4",
        lambda t: t["time_embedding.linear_1.absmax"].neg_(),
        "none that packing makes",
    ),
    "sums of other codes": ("zero points", lambda t: t[f"{LAYER}.sums"].add_(1), "not those of its codes"),
    "other segments": (
        "segments",
        lambda t: t["up_blocks.0.resnets.0.conv1.widths"].copy_(t["up_blocks.0.resnets.0.conv1.widths"].flip(0) + 1),
        "other segments",
    ),
    "a tensor less": ("four-bit inputs", lambda t: t.pop(f"{LAYER}.codes"), "not as its description says"),
    "a tensor more": ("four-bit inputs", lambda t: t.update(more=torch.zeros(1)), "not as its description says"),
    "a smoothing that does not fit": (
        "four-bit inputs",
        lambda t: t.update({f"{LAYER}.smoothing": torch.ones(3, 5)}),
        "not as its description says",
    ),
    "another shape": (
        "four-bit inputs",
        lambda t: t.update({f"{LAYER}.codes": t[f"{LAYER}.codes"].flatten()}),
        "not as its description says",
    ),
    "another type": (
        "four-bit inputs",
        lambda t: t.update({f"{LAYER}.codes": t[f"{LAYER}.codes"].to(torch.uint8)}),
        "not as its description says",
    ),
    "a type of no tensor of ours": (
        "four-bit inputs",
        lambda t: t.update({f"{LAYER}.codes": t[f"{LAYER}.codes"].long()}),
        "is of no stored layer",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tensors_that_were_tampered_with(
    made: Callable[..., Stored], empty: Callable[..., nn.Module], what: str
) -> None:
    name, tamper, message = TAMPERED[what]
    _, _, folder = made(name)
    tensors = load_file(folder / WEIGHTS)
    tamper(tensors)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(QuantizationError, match="missing or damaged"):
        load_quantized(empty(), folder)
    rehash(folder)
    with pytest.raises(QuantizationError, match=message):
        load_quantized(empty(), folder)


def test_files_that_are_cut_off_or_gone(made: Callable[..., Stored], empty: Callable[..., nn.Module]) -> None:
    _, _, folder = made()
    data = (folder / WEIGHTS).read_bytes()
    for broken in (data[: len(data) // 2], b"", data[:8] + b"{" * 100):
        (folder / WEIGHTS).write_bytes(broken)
        with pytest.raises(QuantizationError, match="missing or damaged"):
            load_quantized(empty(), folder)
        rehash(folder)
        with pytest.raises(QuantizationError, match="cannot be read as safetensors"):
            load_quantized(empty(), folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(QuantizationError, match="missing or damaged"):
        load_quantized(empty(), folder)


def test_a_description_that_leads_out_of_the_folder(
    made: Callable[..., Stored], empty: Callable[..., nn.Module], tmp_path: Path
) -> None:
    _, _, folder = made(PLAIN)
    (folder / WEIGHTS).rename(tmp_path / WEIGHTS)
    document = json.loads((folder / FILE).read_text())
    document["files"] = {f"../{WEIGHTS}": document["files"][WEIGHTS]}
    (folder / FILE).write_text(json.dumps(document))
    with pytest.raises(QuantizationError, match="missing or damaged"):
        load_quantized(empty(), folder)


def put(*path: str | int, value: object) -> Callable[[Document], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


FORGED: dict[str, Callable[[Document], object]] = {
    "another format": put("format", value="other"),
    "a version to come": put("version", value=2),
    "no recipe": lambda d: d.pop("recipe"),
    "a recipe that is a list": put("recipe", value=[]),
    "a field too many": put("recipe", "more", value=1),
    "a rule with a field too few": lambda d: d["recipe"]["rules"][0].pop("dual"),
    "an unknown format": put("recipe", "rules", 2, "weight", value="int3"),
    "a format that is a number": put("recipe", "text_rows", value=8),
    "a format that is a list": put("recipe", "text_rows", value=["int8"]),
    "an unknown row": put("recipe", "protect", value=["everything"]),
    "a flag that is text": put("recipe", "rules", 2, "segments", value="true"),
    "a group below zero": put("recipe", "rules", 2, "group", value=-64),
    "a group that is true": put("recipe", "rules", 2, "group", value=True),
    "a group of another size": put("recipe", "rules", 2, "group", value=32),
    "no group": put("recipe", "rules", 2, "group", value=None),
    "other weights": put("recipe", "rules", 2, "weight", value="int8"),
    "control characters": put("recipe", "name", value="a\x1b[2Jb"),
    "an endless name": put("recipe", "name", value="a" * 100_000),
    "a layer less": lambda d: d["layers"].pop(LAYER),
    "a layer more": put("layers", "more", value={"rule": 2}),
    "a layer that is text": put("layers", LAYER, value="rule"),
    "a rule that there is not": put("layers", LAYER, "rule", value=3),
    "a rule before the first": put("layers", LAYER, "rule", value=-1),
    "no rule for a convolution": put("layers", LAYER, "rule", value=None),
    "a rule for a norm": put("layers", "conv_norm_out", "rule", value=2),
    "a packed layer under a rule that keeps it": put("layers", LAYER, "rule", value=0),
    "segments that do not add up": put("layers", LAYER, "inputs", value=[1, 2]),
    "segments that are text": put("layers", LAYER, "inputs", value="64"),
    "an unknown activation": put("layers", LAYER, "after", value="tanh"),
    "an unknown type": put("dtype", value="float8"),
    "another type": put("dtype", value="float16"),
    "another class": put("denoiser", "_class_name", value="FluxTransformer2DModel"),
    "other bytes": put("stored_bytes", value=1),
    "bytes that are no number": put("stored_bytes", value="many"),
    "no files": put("files", value={}),
    "files without hashes": put("files", WEIGHTS, value=None),
    "a hash of something else": put("files", WEIGHTS, value="0" * 64),
    "versions that are a list": put("versions", value=["2.13"]),
    "calibration that is text": put("provenance", "calibration", value="64 captions"),
    "no base": put("provenance", "base", value=None),
}


@pytest.mark.parametrize("what", FORGED)
def test_descriptions_that_were_forged(made: Callable[..., Stored], empty: Callable[..., nn.Module], what: str) -> None:
    _, _, folder = made(PLAIN)
    document = json.loads((folder / FILE).read_text())
    FORGED[what](document)
    (folder / FILE).write_text(json.dumps(document))
    with pytest.raises(QuantizationError):
        load_quantized(empty(), folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": "x"}', "\xff", " " * (17 << 20)])
def test_descriptions_that_are_none(made: Callable[..., Stored], empty: Callable[..., nn.Module], text: str) -> None:
    _, _, folder = made(PLAIN)
    (folder / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(QuantizationError, match=FILE):
        load_quantized(empty(), folder)


def test_patterns_that_are_read_are_never_matched(made: Callable[..., Stored], empty: Callable[..., nn.Module]) -> None:
    unet, _, folder = made(PLAIN)
    document = json.loads((folder / FILE).read_text())
    document["recipe"]["rules"][2]["pattern"] = "(a|a)*(("  # which no regular expression engine takes
    (folder / FILE).write_text(json.dumps(document))
    load_quantized(loaded := empty(), folder)
    same_bits(unet, loaded)


def test_another_model_is_not_filled(made: Callable[..., Stored], make_unet: MakeUnet) -> None:
    _, _, folder = made(PLAIN)
    smaller = make_unet(torch.bfloat16)
    smaller.mid_block = None
    other = make_unet(torch.bfloat16)
    other.conv_in = nn.Conv2d(4, 32, 5)
    for model, message in (
        (smaller, "another one"),
        (other, "conv_in.weight in .* is not as its description says"),
        (nn.ModuleDict({"a": nn.Linear(2, 2)}), "another one"),
    ):
        with pytest.raises(QuantizationError, match=message):
            load_quantized(copy.deepcopy(model).to("meta"), folder)


def test_no_folder(empty: Callable[..., nn.Module], tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="No quantised model"):
        load_quantized(empty(), tmp_path / "nowhere")
