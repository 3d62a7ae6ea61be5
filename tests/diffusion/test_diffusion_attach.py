"""Checkpoints on a base: they change the picture, they leave no trace, and what does not fit is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import WIDTH, frozen_tensors, kohya, lora, lora_state

from personalq.diffusion.attach import attach, detach
from personalq.diffusion.load import Pipeline, load_base
from personalq.diffusion.lora import tensors
from personalq.diffusion.slots import Slots
from personalq.errors import IncompatibleCheckpointError, ModelError
from personalq.records import Checkpoint


@pytest.fixture(scope="module")
def pipe(tiny_sd_folder: Path) -> Pipeline:
    return load_base(tiny_sd_folder, "cpu", torch.float32)


@torch.no_grad()
def predict(pipe: Pipeline, words: str = "photo dog") -> torch.Tensor:
    """The denoiser's output for fixed latents and a prompt: text encoder and UNet in one number field."""
    text, _ = pipe.encode_prompt(words, "cpu", 1, False)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe.unet(latents, 500, encoder_hidden_states=text, return_dict=False)[0]


def test_lora_changes_the_prediction_and_detaching_restores_every_tensor(
    pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    before, unet, text = predict(pipe), frozen_tensors(pipe.unet), frozen_tensors(pipe.text_encoder)
    names = [type(m) for m in pipe.unet.modules()]
    with_text = lora(tmp_path / "a.safetensors", lora_state(tiny_sd_folder, text=True))
    attached = attach(pipe, [(with_text, 1.0)])
    assert not torch.allclose(predict(pipe), before, atol=1e-3)
    detach(pipe, attached)
    assert torch.equal(predict(pipe), before)
    for now, then in ((frozen_tensors(pipe.unet), unet), (frozen_tensors(pipe.text_encoder), text)):
        assert now.keys() == then.keys() and all(torch.equal(now[k], then[k]) for k in then)
    assert [type(m) for m in pipe.unet.modules()] == names


def test_weight_zero_is_the_base_and_two_loras_add(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    base = predict(pipe)
    one = lora(tmp_path / "one.safetensors", lora_state(tiny_sd_folder, seed=3))
    two = lora(tmp_path / "two.safetensors", lora_state(tiny_sd_folder, seed=4, rank=8, text=True))
    seen = {}
    for weights in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        attached = attach(pipe, [(one, weights[0]), (two, weights[1])])
        seen[weights] = predict(pipe)
        detach(pipe, attached)
    assert torch.allclose(seen[0.0, 0.0], base, atol=1e-6)
    alone = attach(pipe, [(two, 1.0)])
    assert torch.allclose(seen[0.0, 1.0], predict(pipe), atol=1e-6)
    detach(pipe, alone)
    pictures = list(seen.values())
    for i, a in enumerate(pictures):
        assert not any(torch.allclose(a, b, atol=1e-3) for b in pictures[i + 1 :])


def test_kohya_naming_and_alpha_give_what_peft_naming_gives(
    pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    state = lora_state(tiny_sd_folder, rank=4, text=True)
    attached = attach(pipe, [(lora(tmp_path / "peft.safetensors", state), 0.5)])
    expected = predict(pipe)
    detach(pipe, attached)
    attached = attach(pipe, [(lora(tmp_path / "kohya.safetensors", kohya(state, alpha=2.0)), 1.0)])
    assert torch.allclose(predict(pipe), expected, atol=1e-5)
    detach(pipe, attached)


def test_adapters_saved_by_peft_itself_keep_their_alpha(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    state = lora_state(tiny_sd_folder, rank=4)
    attached = attach(pipe, [(lora(tmp_path / "plain.safetensors", state), 0.5)])
    expected = predict(pipe)
    detach(pipe, attached)
    own = {key.replace("unet.", "base_model.model.", 1): value for key, value in state.items()}
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 2}')
    attached = attach(pipe, [(lora(tmp_path / "adapter_model.safetensors", own), 1.0)])
    assert torch.allclose(predict(pipe), expected, atol=1e-5)
    detach(pipe, attached)


def test_half_precision_files_become_the_dtype_of_the_base(
    pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    state = {key: value.half() for key, value in lora_state(tiny_sd_folder, text=True).items()}
    attached = attach(pipe, [(lora(tmp_path / "half.safetensors", state), 1.0)])
    kinds = {b.dtype for part in (pipe.unet, pipe.text_encoder) for n, b in part.named_buffers() if n == "lora_0"}
    detach(pipe, attached)
    assert kinds == {torch.float32}


def wrong_width(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value[:, ::2].contiguous() if ".lora_A." in key else value for key, value in state.items()}


def partly_unknown(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    extra = {
        key.replace("mid_block", "mid_block.of_another_model"): v.clone() for key, v in state.items() if "mid" in key
    }
    assert extra
    return {**state, **extra}


def nothing(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"unrelated.weight": torch.zeros(2, 2)}


def with_magnitudes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A DoRA, whose scales a LoRA loader would drop in silence."""
    return {**state, "unet.mid_block.resnets.0.conv1.dora_scale": torch.ones(4)}


@pytest.mark.parametrize("spoil", [wrong_width, partly_unknown, nothing, with_magnitudes])
def test_a_lora_that_does_not_fit_is_named_with_its_base_and_leaves_no_trace(
    pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path, spoil: object
) -> None:
    before = predict(pipe)
    good = lora(tmp_path / "good.safetensors", lora_state(tiny_sd_folder))
    bad = lora(tmp_path / "my-corgi.safetensors", spoil(lora_state(tiny_sd_folder, text=True)), base="SDXL 1.0")
    with pytest.raises(IncompatibleCheckpointError, match=r"my-corgi.*SDXL 1\.0.*tiny-random-sd"):
        attach(pipe, [(good, 1.0), (bad, 1.0)])
    assert torch.equal(predict(pipe), before)


def test_an_sd_lora_does_not_fit_sdxl(tiny_sd_folder: Path, tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    big = load_base(tiny_sdxl_folder, "cpu", torch.float32)
    for name in ("peft", "kohya"):
        state = lora_state(tiny_sd_folder)
        state = state if name == "peft" else kohya(state, 1.0)
        with pytest.raises(IncompatibleCheckpointError, match="tiny-random-sdxl"):
            attach(big, [(lora(tmp_path / f"{name}.safetensors", state), 1.0)])


def test_sdxl_takes_its_own_loras(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    big = load_base(tiny_sdxl_folder, "cpu", torch.float32)
    before = frozen_tensors(big.unet)
    attached = attach(big, [(lora(tmp_path / "xl.safetensors", lora_state(tiny_sdxl_folder, text=True)), 1.0)])
    assert {"unet", "text_encoder"} == {
        n for n in big.components if "lora_0" in getattr(getattr(big, n), "_buffers", ())
    }
    detach(big, attached)
    assert frozen_tensors(big.unet).keys() == before.keys()


def test_pickles_and_broken_files_are_refused(pipe: Pipeline, tmp_path: Path) -> None:
    broken, pickle = tmp_path / "broken.safetensors", tmp_path / "old.ckpt"
    broken.write_bytes(b"not a header")
    torch.save({}, pickle)
    for record in (
        Checkpoint("broken", files=(str(broken),)),
        Checkpoint("pickle", files=(str(pickle),)),
        Checkpoint("listed", files=(str(broken),), loadable=False),
        Checkpoint("missing", files=(str(tmp_path / "gone.safetensors"),)),
        Checkpoint("whole", kind="dreambooth", files=(str(broken),)),
    ):
        with pytest.raises(ModelError):
            attach(pipe, [(record, 1.0)])


def inversion(path: Path, state: dict[str, torch.Tensor], *triggers: str) -> Checkpoint:
    return replace(lora(path, state), kind="ti", triggers=triggers)


def test_textual_inversion_adds_its_vectors_and_leaves_no_trace(pipe: Pipeline, tmp_path: Path) -> None:
    words = "photo <bear-v4> dog"
    before, ids, text = predict(pipe, words), pipe.tokenizer(words).input_ids, frozen_tensors(pipe.text_encoder)
    vectors = torch.randn(3, WIDTH)
    attached = attach(pipe, [(inversion(tmp_path / "t.safetensors", {"<bear-v4>": vectors}, "<bear-v4>"), 1.0)])
    added = pipe.tokenizer.convert_tokens_to_ids(["<bear-v4>", "<bear-v4>_1", "<bear-v4>_2"])
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[added], vectors)
    assert not torch.allclose(predict(pipe, words), before, atol=1e-4)
    detach(pipe, attached)
    assert pipe.tokenizer(words).input_ids == ids
    now = frozen_tensors(pipe.text_encoder)
    assert now.keys() == text.keys() and all(torch.equal(now[k], text[k]) for k in text)
    assert torch.equal(predict(pipe, words), before)


def test_textual_inversion_of_another_width_or_an_existing_word(pipe: Pipeline, tmp_path: Path) -> None:
    wide = inversion(tmp_path / "wide.safetensors", {"emb_params": torch.randn(1, WIDTH + 1)}, "<w>")
    with pytest.raises(IncompatibleCheckpointError, match="width 64"):
        attach(pipe, [(wide, 1.0)])
    taken = inversion(tmp_path / "taken.safetensors", {"emb_params": torch.randn(1, WIDTH)}, "dog</w>")
    with pytest.raises(ModelError, match="dog"):
        attach(pipe, [(taken, 1.0)])


def test_sdxl_textual_inversion_fills_both_encoders(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    big = load_base(tiny_sdxl_folder, "cpu", torch.float32)
    state = {"clip_l": torch.randn(2, WIDTH), "clip_g": torch.randn(2, WIDTH)}
    save_file(state, tmp_path / "xl.safetensors")
    attached = attach(big, [(inversion(tmp_path / "xl.safetensors", state, "<xl>"), 1.0)])
    for words, encoder, key in (
        (big.tokenizer, big.text_encoder, "clip_l"),
        (big.tokenizer_2, big.text_encoder_2, "clip_g"),
    ):
        at = words.convert_tokens_to_ids(["<xl>", "<xl>_1"])
        assert torch.equal(encoder.get_input_embeddings().weight[at], state[key])
    detach(big, attached)
    assert "<xl>" not in big.tokenizer_2.get_vocab()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from here on."""
    seen: list[str] = []

    def reading(path: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        seen.append(path.name)
        return tensors(path, checkpoint)

    monkeypatch.setattr("personalq.diffusion.lora.tensors", reading)
    return seen


def test_kept_loras_are_not_read_again_until_their_file_changes(
    pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, slots, base, pictures = counted(monkeypatch), Slots(), predict(pipe), []
    one = lora(tmp_path / "one.safetensors", lora_state(tiny_sd_folder, seed=3, text=True))
    two = lora(tmp_path / "two.safetensors", lora_state(tiny_sd_folder, seed=4))
    for chosen in ([(one, 1.0)], [(two, 0.5)], [(one, 1.0)], [(one, 1.0), (two, 0.5)], [(two, 0.5), (one, 1.0)]):
        attached = attach(pipe, chosen, slots)
        pictures.append(predict(pipe))
        detach(pipe, attached)
        assert torch.equal(predict(pipe), base)
    assert seen == ["one.safetensors", "two.safetensors"]
    assert torch.equal(pictures[0], pictures[2]) and torch.allclose(pictures[3], pictures[4], atol=1e-5)
    lora(tmp_path / "one.safetensors", lora_state(tiny_sd_folder, seed=5, text=True))
    attached = attach(pipe, [(one, 1.0)], slots)
    assert not torch.allclose(predict(pipe), pictures[0], atol=1e-3)
    detach(pipe, attached)
    assert seen[2:] == ["one.safetensors"]
    slots.release()


def test_merged_loras_are_put_on_the_text_encoder_alone(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    record, slots = lora(tmp_path / "l.safetensors", lora_state(tiny_sd_folder, text=True)), Slots()
    whole = attach(pipe, [(record, 1.0)], slots)
    assert "lora_0" in dict(pipe.unet.named_buffers())
    detach(pipe, whole)
    attached = attach(pipe, [(record, 1.0)], slots, merged=True)
    assert "lora_0" not in dict(pipe.unet.named_buffers()) and "lora_0" in dict(pipe.text_encoder.named_buffers())
    detach(pipe, attached)
    slots.release()


def not_a_number(state: dict[str, torch.Tensor]) -> None:
    next(iter(state.values()))[0, 0] = torch.nan


def endless(state: dict[str, torch.Tensor]) -> None:
    next(v for k, v in state.items() if "lora_B" in k)[0, 0] = torch.inf


def without_rank(state: dict[str, torch.Tensor]) -> None:
    name = next(key for key in state if "to_q.lora_A" in key)
    state[name] = state[name][:0]
    state[name.replace("_A", "_B")] = state[name.replace("_A", "_B")][:, :0].contiguous()


def half_a_pair(state: dict[str, torch.Tensor]) -> None:
    del state[next(key for key in state if "lora_B" in key)]


def unequal_ranks(state: dict[str, torch.Tensor]) -> None:
    name = next(key for key in state if "lora_B" in key)
    state[name] = state[name][:, :-1].contiguous()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (not_a_number, "NaN"), (endless, "infinite"), (without_rank, "rank 0"), (half_a_pair, "pair"),
        (unequal_ranks, "pair"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("naming", ["peft", "kohya"])
def test_damaged_loras_are_refused(
    pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path, spoil: Callable[..., None], said: str, naming: str
) -> None:
    before, state = predict(pipe), lora_state(tiny_sd_folder)
    spoil(state)
    state = state if naming == "peft" else kohya(state, 1.0)
    with pytest.raises(ModelError, match=rf"bad .*{said}"):
        attach(pipe, [(lora(tmp_path / "bad.safetensors", state), 1.0)])
    assert torch.equal(predict(pipe), before)


def test_ranks_may_differ_from_layer_to_layer(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    small, large = lora_state(tiny_sd_folder, 2, seed=8), lora_state(tiny_sd_folder, 6, seed=9)
    layers = sorted({key.split(".lora_")[0] for key in small})
    mixed = {k: (small if layers.index(k.split(".lora_")[0]) % 2 else large)[k] for k in small}
    halves = [{k: v for k, v in mixed.items() if (v.shape["lora_B" in k] == 2) == low} for low in (True, False)]
    attached = attach(pipe, [(lora(tmp_path / "mixed.safetensors", mixed), 1.0)])
    got = predict(pipe)
    detach(pipe, attached)
    attached = attach(pipe, [(lora(tmp_path / f"{at}.safetensors", half), 1.0) for at, half in enumerate(halves)])
    torch.testing.assert_close(got, predict(pipe), rtol=1e-4, atol=1e-4)
    detach(pipe, attached)


def scaled(pipe: Pipeline, state: dict[str, torch.Tensor], path: Path, scale: float) -> torch.Tensor:
    """The prediction with every B of `state` multiplied."""
    state = {key: value * scale if "lora_B" in key else value for key, value in state.items()}
    attached = attach(pipe, [(lora(path, state), 1.0)])
    got = predict(pipe)
    detach(pipe, attached)
    return got


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"r": 4, "lora_alpha": 6}, 1.5),
        ({"r": 4, "lora_alpha": 6, "use_rslora": True}, 3.0),
        ({"r": 4, "lora_alpha": 99, "alpha_pattern": {"to_q": 6, "^mid_block.resnets.0.conv1": 6, "conv1": 6,
                                                     "to_k": 6, "to_out.0": 6}}, 1.5),
    ],
)  # fmt: skip
def test_settings_in_the_header_or_beside_the_file_scale_the_update(
    pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path, settings: dict[str, object], scale: float
) -> None:
    state = lora_state(tiny_sd_folder, rank=4)
    wanted = scaled(pipe, state, tmp_path / "plain.safetensors", scale)
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}
    within, beside = tmp_path / "within.safetensors", tmp_path / "beside" / "adapter_model.safetensors"
    save_file(state, within, metadata=header)
    beside.parent.mkdir()
    save_file({key.replace("unet.", "base_model.model.", 1): value for key, value in state.items()}, beside)
    (beside.parent / "adapter_config.json").write_text(json.dumps(settings))
    for path in (within, beside):
        attached = attach(pipe, [(Checkpoint(path.stem, files=(str(path),)), 1.0)])
        torch.testing.assert_close(predict(pipe), wanted, rtol=1e-4, atol=1e-4)
        detach(pipe, attached)


@pytest.mark.parametrize(
    "settings",
    [b"{", b"[" * 100_000, b"[1]", b'{"lora_alpha": "9"}', b'{"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 2}}',
     b'{"lora_alpha": NaN}', b'{"lora_alpha": 1, "alpha_pattern": [2]}'],
)  # fmt: skip
def test_settings_that_cannot_be_read_are_refused(
    pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path, settings: bytes
) -> None:
    state = {k.replace("unet.", "base_model.model.", 1): v for k, v in lora_state(tiny_sd_folder, rank=4).items()}
    (tmp_path / "adapter_config.json").write_bytes(settings)
    with pytest.raises(ModelError, match="adapter_model"):
        attach(pipe, [(lora(tmp_path / "adapter_model.safetensors", state), 1.0)])


def test_diffusers_older_namings(pipe: Pipeline, tiny_sd_folder: Path, tmp_path: Path) -> None:
    state = lora_state(tiny_sd_folder, text=True)
    wanted = scaled(pipe, state, tmp_path / "peft.safetensors", 1.0)
    older = {}
    for key, value in state.items():
        new = key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
        for part in ("q", "k", "v"):
            new = new.replace(f".to_{part}.lora.", f".processor.to_{part}_lora.")
        new = new.replace(".to_out.0.lora.", ".processor.to_out_lora.")
        if new.startswith("text_encoder."):
            new = new.replace("text_encoder.", "text_encoder.text_model.").replace(".lora.", ".lora_linear_layer.")
        older[new] = value
    torch.testing.assert_close(scaled(pipe, older, tmp_path / "old.safetensors", 1.0), wanted)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_transformers_take_loras_as_diffusers_does(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    big = load_base(request.getfixturevalue(f"tiny_{family}_folder"), "cpu", torch.float32)
    drawn, state = torch.Generator().manual_seed(0), {}
    ends = ("to_q", "to_v", "add_k_proj", "to_out.0", "proj_out")
    layers = {n: m for n, m in big.transformer.named_modules() if n.endswith(ends) and hasattr(m, "weight")}
    for name, layer in layers.items():
        out, into = layer.weight.shape
        state[f"transformer.{name}.lora_A.weight"] = torch.randn(4, into, generator=drawn)
        state[f"transformer.{name}.lora_B.weight"] = torch.randn(out, 4, generator=drawn)
    attached = attach(big, [(lora(tmp_path / "l.safetensors", state), 0.5)])
    xs = {name: torch.randn(2, 3, layer.in_features, generator=drawn) for name, layer in layers.items()}
    got = {name: layer(xs[name]) for name, layer in layers.items()}
    detach(big, attached)
    big.load_lora_weights(str(tmp_path), weight_name="l.safetensors", adapter_name="l")
    big.set_adapters(["l"], [0.5])
    for name, x in xs.items():
        torch.testing.assert_close(got[name], big.transformer.get_submodule(name)(x), rtol=1e-4, atol=1e-4)
    assert len(layers) > 4
