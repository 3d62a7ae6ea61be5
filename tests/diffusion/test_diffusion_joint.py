"""Joint attention through our processors: diffusers' own numbers, the text's rows told apart, nothing left behind."""

import pytest
import torch
from tiny_pipelines import WIDE, WIDTH, flux_transformer, sd3_transformer, unet
from torch import Tensor, nn

from personalq.diffusion.joint import FullJoint, KeyValue, joint_attention, joint_layers
from personalq.errors import ModelError

TEXT = 12


@pytest.fixture(scope="module", params=["sd3", "sd35", "flux", "flux-schnell"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(3)
    made = {
        "sd3": lambda: sd3_transformer(dual_attention_layers=(), qk_norm=None),
        "sd35": sd3_transformer,
        "flux": flux_transformer,
        "flux-schnell": lambda: flux_transformer(guidance=False),
    }[request.param]()
    for name, parameter in made.named_parameters():
        if "norm" in name and parameter.ndim == 1:  # RMS norms start out as ones, which would hide a wrong one
            nn.init.uniform_(parameter, 0.5, 1.5)
    return made


@torch.no_grad()
def step(model: nn.Module, seed: int = 0, words: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(2, TEXT, WIDE, generator=generator) * words
    options = {"encoder_hidden_states": text, "timestep": torch.tensor([0.4, 0.4]), "return_dict": False}
    if hasattr(model, "x_embedder"):
        options["guidance"] = torch.tensor([3.5]) if model.config.guidance_embeds else None
        options |= {"txt_ids": torch.zeros(TEXT, 3), "img_ids": torch.arange(18.0).view(6, 3)}
        latents, pooled = torch.randn(2, 6, 64, generator=generator), torch.randn(2, WIDTH, generator=generator)
    else:
        latents = torch.randn(2, 16, 4, 6, generator=generator)
        pooled = torch.randn(2, 2 * WIDTH, generator=generator)
    return model(latents, pooled_projections=pooled, **options)[0]


class Watching(FullJoint):
    """Full precision that remembers what it was given."""

    def __init__(self) -> None:
        self.masks: list[Tensor] = []
        self.layers: list[nn.Module] = []
        self.seen: list[tuple[KeyValue, KeyValue]] = []

    def rows(self, protected: Tensor) -> Tensor:
        self.masks.append(protected)
        return protected

    def project(self, layer: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        self.layers.append(layer)
        return super().project(layer, x, rows)

    def attend(self, query: Tensor, picture: KeyValue, text: KeyValue, rows: Tensor) -> Tensor:
        self.seen.append((picture, text))
        return super().attend(query, picture, text, rows)


def nothing() -> Tensor:
    return torch.zeros(2, TEXT, dtype=torch.bool)


def test_full_precision_is_diffusers_own_and_its_processors_come_back(model: nn.Module) -> None:
    before, plain = dict(model.attn_processors), [step(model, seed) for seed in (0, 1)]
    with joint_attention(model, FullJoint(), nothing()) as joint:
        for seed, expected in enumerate(plain):
            torch.testing.assert_close(step(model, seed), expected, rtol=1e-4, atol=1e-5)
        assert joint.nbytes == 0
    assert model.attn_processors == before and torch.equal(step(model), plain[0])


def test_all_layers_that_see_text_are_reached_and_their_text_keys_and_values_projected(model: nn.Module) -> None:
    watching, mask = Watching(), nothing()
    mask[1, 3] = True
    with joint_attention(model, watching, mask):
        step(model)
    layers = joint_layers(model)
    own = [[a.add_k_proj, a.add_v_proj] if a.added_kv_proj_dim else [a.to_k, a.to_v] for a in layers.values()]
    assert watching.layers == [layer for pair in own for layer in pair]
    assert [tuple(part.shape) for _, text in watching.seen for part in text] == [(2, 2, TEXT, 32)] * 2 * len(layers)
    assert len(watching.masks) == 1 and torch.equal(watching.masks[0], mask)
    blocks = [*model.transformer_blocks, *getattr(model, "single_transformer_blocks", [])]
    assert len(layers) == len(blocks) and not any(name.endswith("attn2") for name in layers)


def test_what_is_handed_over_as_the_text_is_the_text(model: nn.Module) -> None:
    """In the first block other words change the text's keys and values, and the picture's not yet."""
    for denoiser in (model, flux_transformer(double=0)):
        firsts = []
        for words in (1.0, 0.5):
            watching = Watching()
            with joint_attention(denoiser, watching, nothing()):
                step(denoiser, words=words)
            firsts.append(watching.seen[0])
        (picture, text), (same, other) = firsts
        assert all(torch.equal(a, b) for a, b in zip(picture, same, strict=True))
        assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(text, other, strict=True))


def test_leaving_restores_even_after_an_error(model: nn.Module) -> None:
    before = dict(model.attn_processors)
    with pytest.raises(RuntimeError, match="stop"), joint_attention(model, FullJoint(), nothing()):
        raise RuntimeError("stop")
    assert model.attn_processors == before


def test_other_models_texts_and_fused_projections_are_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="SD3 or FLUX"):
        joint_layers(unet(WIDTH))
    with (
        pytest.raises(ModelError, match="text of 5 rows"),
        joint_attention(model, FullJoint(), torch.zeros(2, 5, dtype=torch.bool)),
    ):
        step(model)
    layer = next(iter(joint_layers(model).values()))
    layer.fused_projections = True
    try:
        with pytest.raises(ModelError, match="fused"):
            joint_layers(model)
    finally:
        layer.fused_projections = False
