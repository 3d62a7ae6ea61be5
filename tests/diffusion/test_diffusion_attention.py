"""Cross-attention through the cache: exact, projected once, gone afterwards."""

import gc
import weakref

import pytest
import torch
from tiny_pipelines import unet as make_unet
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from personalq.diffusion import attention as module
from personalq.diffusion.attention import (
    BlockedProcessor,
    CachedTextProcessor,
    FullKV,
    FullPrecision,
    blocked_attention,
    prompt_attention,
    text_layers,
)
from personalq.diffusion.load import Pipeline, load_base
from personalq.errors import ModelError


@pytest.fixture(scope="module", params=["tiny_sd_folder", "tiny_sdxl_folder"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return load_base(request.getfixturevalue(request.param), "cpu", torch.float32)


class Recording(FullPrecision):
    """Full precision that remembers what it was given."""

    def __init__(self) -> None:
        self.masks: list[Tensor] = []
        self.kept: list[weakref.ref[FullKV]] = []

    def project(self, key: Tensor, value: Tensor, protected: Tensor) -> FullKV:
        kv = super().project(key, value, protected)
        self.masks.append(protected)
        self.kept.append(weakref.ref(kv))
        return kv


@torch.no_grad()
def step(pipe: Pipeline, text: Tensor, seed: int = 0) -> Tensor:
    latents = torch.randn(len(text), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    added = {"text_embeds": torch.ones(len(text), 64), "time_ids": torch.ones(len(text), 6)}
    return pipe.unet(latents, 300, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]


def texts(pipe: Pipeline) -> Tensor:
    width = pipe.unet.config.cross_attention_dim
    return torch.randn(2, 77, width, generator=torch.Generator().manual_seed(5))


def test_the_cache_is_exact_and_the_own_processors_come_back(pipe: Pipeline) -> None:
    text, before = texts(pipe), dict(pipe.unet.attn_processors)
    plain = [step(pipe, text, seed) for seed in (0, 1)]
    with prompt_attention(pipe.unet, FullPrecision(), torch.zeros(2, 77, dtype=torch.bool)):
        for seed, expected in enumerate(plain):
            assert torch.allclose(step(pipe, text, seed), expected, atol=1e-5)
    assert pipe.unet.attn_processors == before
    assert torch.equal(step(pipe, text), plain[0])


def test_text_is_projected_once_for_all_steps(pipe: Pipeline) -> None:
    layers, calls = text_layers(pipe.unet), {}
    hooks = []
    for attn in layers.values():
        for part in (attn.to_k, attn.to_v):
            calls[part] = 0
            hooks.append(part.register_forward_hook(lambda module, *_: calls.__setitem__(module, calls[module] + 1)))
    mask = torch.zeros(2, 77, dtype=torch.bool)
    mask[1, 3] = True
    recording = Recording()
    try:
        with prompt_attention(pipe.unet, recording, mask) as cache:
            assert cache.nbytes == 0
            for seed in range(4):
                step(pipe, texts(pipe), seed)
            assert len(calls) == 2 * len(layers) > 0 and set(calls.values()) == {1}
            inner = [attn.to_k.out_features for attn in layers.values()]
            assert cache.nbytes == sum(2 * 2 * 77 * width * 4 for width in inner)
            assert all(torch.equal(seen, mask) for seen in recording.masks)
    finally:
        for hook in hooks:
            hook.remove()


def test_leaving_drops_keys_and_values_even_after_an_error(pipe: Pipeline) -> None:
    recording, before = Recording(), dict(pipe.unet.attn_processors)
    with (
        pytest.raises(RuntimeError, match="stop"),
        prompt_attention(pipe.unet, recording, torch.zeros(2, 77, dtype=torch.bool)),
    ):
        step(pipe, texts(pipe))
        assert recording.kept and all(ref() is not None for ref in recording.kept)
        raise RuntimeError("stop")
    gc.collect()
    assert all(ref() is None for ref in recording.kept)
    assert pipe.unet.attn_processors == before


def test_attention_of_another_kind_is_refused(pipe: Pipeline) -> None:
    attn = next(iter(text_layers(pipe.unet).values()))
    attn.residual_connection = True
    try:
        with pytest.raises(ModelError, match="Stable Diffusion kind"):
            text_layers(pipe.unet)
    finally:
        attn.residual_connection = False


@pytest.mark.parametrize("loud", [1.0, 40.0], ids=["quiet", "loud"])
@pytest.mark.parametrize("shape", [(2, 3, 300, 40), (1, 2, 256, 64), (2, 1, 90, 16)])
def test_attention_in_blocks_is_attention(shape: tuple[int, ...], loud: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 7000)  # several blocks, the last one short
    torch.manual_seed(0)
    query, key, value = (torch.randn(shape) for _ in range(3))
    plain = scaled_dot_product_attention(loud * query, loud * key, value)
    torch.testing.assert_close(blocked_attention(loud * query, loud * key, value), plain, rtol=1e-3, atol=1e-3)
    rounded = blocked_attention(*(x.bfloat16() for x in (query, key, value)))
    exact = scaled_dot_product_attention(query, key, value)
    assert rounded.dtype == torch.bfloat16 and float((rounded - exact).norm() / exact.norm()) < 0.02


def test_self_attention_in_blocks_leaves_the_unet_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT", 1)
    unet = make_unet(64)
    before = dict(unet.attn_processors)
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 64)
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    with torch.no_grad():
        plain = unet(x, 10, encoder_hidden_states=text).sample
        with prompt_attention(unet, FullPrecision(), nothing, blocked=True):
            assert {type(p) for p in unet.attn_processors.values()} == {BlockedProcessor, CachedTextProcessor}
            out = unet(x, 10, encoder_hidden_states=text).sample
    torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)
    assert unet.attn_processors == before


def test_text_projections_wait_in_host_memory_when_released(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[str, str]] = []
    names = {id(layer): name for name, layer in pipe.unet.named_modules()}
    own = torch.nn.Module.to

    def watched(module: torch.nn.Module, *where: object) -> torch.nn.Module:
        moves.append((names[id(module)], str(where[0])))
        return own(module, *where)

    text = torch.randn(2, 5, pipe.unet.config.cross_attention_dim)
    plain = step(pipe, text)
    monkeypatch.setattr(torch.nn.Module, "to", watched)
    with prompt_attention(pipe.unet, FullPrecision(), torch.zeros(2, 5, dtype=torch.bool), release=True):
        torch.testing.assert_close(step(pipe, text), plain)
        first = len(moves)
        step(pipe, text)
    projections = [f"{name}.{part}" for name in text_layers(pipe.unet) for part in ("to_k", "to_v")]
    assert sorted(moves) == sorted((name, "cpu") for name in projections for _ in range(2))  # there, and back
    assert len(moves) == first  # the second step needed none of them
