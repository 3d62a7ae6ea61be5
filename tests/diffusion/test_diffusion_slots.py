"""Many LoRAs in memory on one base: each gives what PEFT gives, a swap leaves no trace, old ones make room."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_pipelines import lora, lora_state, unet
from torch import Tensor, nn

from personalq.diffusion.branch import Branch
from personalq.diffusion.load import load_base
from personalq.diffusion.lora import read_lora
from personalq.diffusion.slots import Slots
from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.quant.apply import quantize_unet, stored_bytes
from personalq.quant.recipe import recipe_named

Branches = dict[str, Branch]
ENDS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv_shortcut",
    "proj_in",
    "linear_1",
)


def branches(model: nn.Module, seed: int = 0, rank: int = 4, ends: tuple[str, ...] = ENDS) -> Branches:
    """Random updates for every kind of layer, ranks differing between neighbours."""
    drawn, found = torch.Generator().manual_seed(seed), {}
    for at, (name, layer) in enumerate((n, m) for n, m in model.named_modules() if n.endswith(ends)):
        out, into, *kernel = layer.weight.shape
        r = rank + at % 3
        down = torch.randn(r, into, *kernel, generator=drawn) * (into * len(kernel or [0])) ** -0.5
        found[f"unet.{name}"] = Branch(down, torch.randn(out, r, *(1 for _ in kernel), generator=drawn) * 0.1)
    return found


def as_peft(found: Branches) -> dict[str, Tensor]:
    state = {f"{name}.lora_A.weight": branch.down for name, branch in found.items()}
    return state | {f"{name}.lora_B.weight": branch.up for name, branch in found.items()}


def model(dtype: torch.dtype = torch.float32, seed: int = 0, recipe: str = "") -> UNet2DConditionModel:
    torch.manual_seed(seed)
    made = unet(64).to(dtype)
    if recipe:
        quantize_unet(made, recipe_named(recipe))
    return made


@torch.no_grad()
def predict(denoiser: UNet2DConditionModel, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 4, 8, 8, generator=drawn), torch.randn(2, 7, 64, generator=drawn)
    return denoiser(latents.to(dtype), torch.tensor(500), text.to(dtype)).sample.float()


def bound(denoiser: nn.Module, *held: Branches, budget: int = 1 << 30) -> Slots:
    slots = Slots(budget)
    slots.bind({"unet": denoiser})
    for key, found in enumerate(held):
        slots.add(key, found)
    return slots


@torch.no_grad()
@pytest.mark.parametrize("recipe", ["", "taq-w8a8", "taq-w4a8", "nf4"])
def test_one_or_several_give_what_peft_gives(recipe: str) -> None:
    theirs, ours = model(recipe=recipe), model(recipe=recipe)
    one, two = branches(model(), 1, ends=("to_q", "to_k", "conv1")), branches(model(), 2, rank=7)
    slots, plain, drawn = bound(ours, one, two), predict(ours), torch.Generator().manual_seed(9)
    for name, found in (("one", one), ("two", two)):
        theirs.load_lora_adapter(as_peft(found), prefix="unet", adapter_name=name)
    for weights in ((1.0, 0.0), (0.0, 0.7), (-0.5, 1.5)):
        theirs.set_adapters(["one", "two"], list(weights))
        slots.select(list(enumerate(weights)))
        for name, branch in two.items():
            x = torch.randn(2, 9, branch.down.shape[1], generator=drawn)
            x = x if branch.down.ndim == 2 else x.mT.reshape(2, -1, 3, 3)
            got, wanted = (denoiser.get_submodule(name.removeprefix("unet."))(x) for denoiser in (ours, theirs))
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        got, wanted = predict(ours), predict(theirs)
        assert (got - wanted).norm() < (0.05 if recipe else 1e-6) * wanted.norm()  # int8 inputs may round apart
        assert (got - plain).norm() > 0.1 * plain.norm()


def test_in_16_bits_it_is_no_further_from_the_exact_result_than_peft() -> None:
    found = branches(model(), 3)
    exact, theirs, ours = model(), model(torch.bfloat16), model(torch.bfloat16)
    bound(exact, found).select([(0, 1.0)])
    bound(ours, found).select([(0, 1.0)])
    theirs.load_lora_adapter(as_peft(found), prefix="unet", adapter_name="l")
    theirs.to(torch.bfloat16)
    wanted = predict(exact)
    errors = [(predict(m, torch.bfloat16) - wanted).norm() for m in (ours, theirs)]
    assert 0 < errors[0] < 1.2 * errors[1]


@pytest.mark.parametrize("recipe", ["", "taq-w4a8"])
def test_a_swap_leaves_no_trace(recipe: str) -> None:
    base = model(recipe=recipe)
    before, plain, kinds = stored_bytes(base), predict(base), [type(m) for m in base.modules()]
    slots = bound(base, branches(base, 1), branches(base, 2))
    assert torch.equal(predict(base), plain)
    slots.select([(0, 1.0)])
    first = predict(base)
    slots.select([(1, 1.0)])
    second = predict(base)
    slots.select([(0, 1.0)])
    assert torch.equal(predict(base), first)
    assert not torch.allclose(first, second, atol=1e-2) and not torch.allclose(first, plain, atol=1e-2)
    slots.select([])
    assert torch.equal(predict(base), plain) and stored_bytes(base) == before
    slots.release()
    assert [type(m) for m in base.modules()] == kinds
    assert not any(m._forward_hooks for m in base.modules())


def test_bytes_are_those_of_the_matrices_and_count_while_selected() -> None:
    base = model(torch.bfloat16)
    found = branches(base)
    slots, before = bound(base, found), stored_bytes(base)
    exact = 2 * sum(branch.down.numel() + branch.up.numel() for branch in found.values())
    assert slots.nbytes == exact
    slots.select([(0, 1.0)])
    assert stored_bytes(base) == before + exact
    assert "lora_0" not in base.state_dict()


def test_the_least_recently_used_make_room_and_the_selected_stay() -> None:
    base = model()
    found = branches(base)
    size = bound(base, found).nbytes
    slots = bound(base, found, found, found, budget=3 * size + 10)
    slots.select([(0, 1.0)])
    slots.add(3, found)
    assert [key in slots for key in range(4)] == [True, False, True, True] and slots.nbytes == 3 * size
    slots.select([(3, 1.0), (2, 1.0)])
    slots.add(4, found, keep=[0])
    assert [key in slots for key in range(5)] == [True, False, True, True, True]  # all in use or kept: over the budget
    slots.select([(4, 1.0)])
    slots.add(5, found)
    assert [key in slots for key in range(6)] == [False, False, True, False, True, True]
    with pytest.raises(ModelError, match="in use"):
        slots.drop(4)
    with pytest.raises(KeyError):
        slots.select([(3, 1.0)])


def test_another_denoiser_takes_over_and_the_old_one_is_let_go() -> None:
    old, new = model(), model(recipe="taq-w8a8")
    slots = bound(old, branches(old))
    slots.select([(0, 1.0)])
    gone = weakref.ref(old)
    slots.bind({"unet": new})
    assert not any(m._forward_hooks for m in old.modules()) and "lora_0" not in dict(old.named_buffers())
    plain = predict(new)
    slots.select([(0, 1.0)])
    assert not torch.allclose(predict(new), plain, atol=1e-2)
    del old
    gc.collect()
    assert gone() is None
    slots.bind({"unet": model(torch.bfloat16)})
    assert 0 not in slots  # of another type: to be read again


def test_layers_that_were_replaced_in_the_model_are_found_again() -> None:
    base, fresh = model(), model(recipe="taq-w8a8")
    found = branches(base)
    slots = bound(base, found)
    slots.select([(0, 1.0)])
    slots.select([])
    quantize_unet(base, recipe_named("taq-w8a8"))
    slots.bind({"unet": base})
    slots.select([(0, 1.0)])
    bound(fresh, found).select([(0, 1.0)])
    assert torch.equal(predict(base), predict(fresh))


def test_a_denoiser_of_another_shape_is_refused() -> None:
    first = model()
    slots = bound(first, branches(first))
    other = unet(32)
    slots.bind({"unet": other})
    with pytest.raises(IncompatibleCheckpointError, match=r"attn2.to_k wants \[\d+, 32\]"):
        slots.select([(0, 1.0)])
    assert not any(m._forward_hooks for m in other.modules())


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("unet.mid_block.nowhere", None, "no linear or convolution"),
        ("text_encoder.fc1", None, "no linear or convolution"),
        ("unet.conv_norm_out", None, "no linear or convolution"),
        ("unet.conv_in", lambda: nn.Conv2d(4, 64, 3, padding=1, groups=4), "groups"),
        ("unet.conv_in", lambda: nn.Conv2d(4, 64, 3, padding=1, padding_mode="circular"), "padding"),
        ("unet.conv_in", lambda: nn.Conv2d(4, 64, 5, padding=2), r"wants \[4, 4, 5, 5\]"),
    ],
)
def test_layers_that_cannot_be_updated_are_named(name: str, layer: Callable[[], nn.Module] | None, said: str) -> None:
    base = model()
    if layer:
        base.conv_in = layer()
    found = branches(base, ends=("to_q",)) | {name: Branch(torch.randn(4, 4, 3, 3), torch.randn(64, 4, 1, 1))}
    slots = bound(base)
    with pytest.raises(IncompatibleCheckpointError, match=rf"{len(found) - 1} of its {len(found)} .*{name}.*{said}"):
        slots.add("bad", found)
    assert "bad" not in slots and slots.nbytes == 0


@pytest.mark.parametrize("folder", ["tiny_sd_folder", "tiny_sdxl_folder"])
def test_text_encoders_are_updated_too(folder: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(folder)
    ours, theirs = load_base(base, "cpu", torch.float32), load_base(base, "cpu", torch.float32)
    record = lora(tmp_path / "l.safetensors", lora_state(base, text=True))
    slots = Slots()
    slots.bind({"unet": ours.unet, "text_encoder": ours.text_encoder})
    slots.add("l", read_lora(ours, record))
    slots.select([("l", 0.8)])
    theirs.load_lora_weights(str(tmp_path), weight_name="l.safetensors", adapter_name="l")
    theirs.set_adapters(["l"], [0.8])
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.no_grad():
        got, wanted = (pipe.encode_prompt("photo dog", **options)[0] for pipe in (ours, theirs))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
