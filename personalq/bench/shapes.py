"""The denoisers that artists use, in their real shapes and with seeded random weights: nothing is downloaded.

Time and bytes depend on shapes alone, quality on trained weights; so nothing made here says anything of quality.
It knows no number formats, and neither clocks nor memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from personalq.diffusion.lazy import Materialize, empty_denoiser
from personalq.errors import BenchError

_UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
_SD3 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
_FLUX = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}


@dataclass(frozen=True)
class Shape:
    """One architecture: a diffusers class, its public configuration, and what one step of it is given."""

    name: str
    model: str
    """Name of the diffusers class."""
    config: Mapping[str, Any]
    latent: int
    """Side of the latent picture at the size the model was trained for."""
    rows: int
    """Text tokens."""
    batch: int = 2
    """2 under classifier-free guidance, 1 for models that take the guidance as an input."""

    @property
    def cached(self) -> bool:
        """Whether the text's keys and values stay the same through the steps: in UNets, not in joint attention."""
        return self.model == "UNet2DConditionModel"

    @property
    def tiny(self) -> str:
        """The tiny shape of the same class."""
        return next(name for name, shape in SHAPES.items() if name.startswith("tiny") and shape.model == self.model)

    @property
    def multiple(self) -> int:
        """What the side of a latent picture must be a multiple of, so that it can be halved as often as it is."""
        return int(2 ** (len(self.config.get("block_out_channels", (0, 0))) - 1))


SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            "sd15",
            "UNet2DConditionModel",
            _UNET
            | {
                "sample_size": 64,
                "block_out_channels": (320, 640, 1280, 1280),
                "cross_attention_dim": 768,
                "attention_head_dim": 8,
            },
            latent=64,
            rows=77,
        ),
        Shape(
            "sdxl",
            "UNet2DConditionModel",
            _UNET
            | {
                "sample_size": 128,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "cross_attention_dim": 2048,
                "attention_head_dim": (5, 10, 20),
                "transformer_layers_per_block": (1, 2, 10),
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
            latent=128,
            rows=77,
        ),
        Shape("sd3", "SD3Transformer2DModel", _SD3, latent=128, rows=77 + 256),
        Shape(
            "sd3.5",
            "SD3Transformer2DModel",
            _SD3 | {"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
            latent=128,
            rows=77 + 256,
        ),
        Shape("flux", "FluxTransformer2DModel", _FLUX, latent=128, rows=512, batch=1),
        Shape(
            "tiny",
            "UNet2DConditionModel",
            _UNET
            | {
                "sample_size": 8,
                "layers_per_block": 1,
                "block_out_channels": (64, 64),
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                "cross_attention_dim": 64,
                "attention_head_dim": 4,
                "norm_num_groups": 16,
            },
            latent=8,
            rows=77,
        ),
        Shape(
            "tiny-sd3",
            "SD3Transformer2DModel",
            _SD3
            | {
                "sample_size": 8,
                "num_layers": 2,
                "attention_head_dim": 32,
                "num_attention_heads": 2,
                "joint_attention_dim": 64,
                "caption_projection_dim": 64,
                "pooled_projection_dim": 64,
                "pos_embed_max_size": 12,
            },
            latent=8,
            rows=77 + 16,
        ),
        Shape(
            "tiny-flux",
            "FluxTransformer2DModel",
            _FLUX
            | {
                "num_layers": 1,
                "num_single_layers": 2,
                "attention_head_dim": 32,
                "num_attention_heads": 2,
                "joint_attention_dim": 64,
                "pooled_projection_dim": 64,
                "axes_dims_rope": (8, 12, 12),
            },
            latent=8,
            rows=32,
            batch=1,
        ),
    )
}
"""SD 1.5, SDXL 1.0, SD 3 medium, SD 3.5 medium and FLUX.1-dev as published; the tiny ones try a benchmark out."""


def shape_named(name: str) -> Shape:
    """The architecture called `name`. Raises BenchError when there is none."""
    try:
        return SHAPES[name]
    except KeyError:
        raise BenchError(f"No architecture is called {name!r}: choose one of {', '.join(SHAPES)}.") from None


def skeleton(shape: Shape, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The whole model on the meta device: every layer and shape, no memory."""
    model: nn.Module = empty_denoiser({"_class_name": shape.model, **shape.config}, device, dtype)
    return model.requires_grad_(False)


def filling(device: torch.device, seed: int = 0) -> Materialize:
    """What fills one layer of a skeleton with seeded random values on `device`, the same in whatever order.

    Matrices and kernels get the standard deviation 1/sqrt(inputs), so that activations keep their size through the
    model; norms get ones, biases and the like 0.02, position tables the range -1 to 1.
    """

    def materialize(name: str, module: nn.Module) -> None:
        drawn = torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        for key, parameter in module.named_parameters(recurse=False):
            fresh = torch.empty_like(parameter, device=device)
            if key == "weight" and fresh.ndim == 1:
                fresh.fill_(1)
            else:
                fresh.normal_(0, fresh[0].numel() ** -0.5 if key == "weight" else 0.02, generator=drawn)
            setattr(module, key, nn.Parameter(fresh, requires_grad=False))
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, torch.empty_like(buffer, device=device).uniform_(-1, 1, generator=drawn))

    return materialize


# --- what one step is given --------------------------------------------------------------------


def inputs(shape: Shape, latent: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    """Seeded keyword arguments of one forward pass in the middle of a schedule; the text is `encoder_hidden_states`.

    Raises BenchError for a latent side that the model cannot halve as often as it does.
    """
    if latent < 1 or latent % shape.multiple:
        raise BenchError(f"{shape.name} takes latents whose side is a multiple of {shape.multiple}, not {latent}.")
    drawn, config, batch = torch.Generator().manual_seed(seed), shape.config, shape.batch

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=drawn).to(device, dtype)

    if shape.model == "UNet2DConditionModel":
        given: dict[str, Any] = {
            "sample": normal(batch, config["in_channels"], latent, latent),
            "timestep": torch.tensor(500, device=device),
            "encoder_hidden_states": normal(batch, shape.rows, config["cross_attention_dim"]),
        }
        if "addition_embed_type" in config:
            side = 8 * latent
            sizes = torch.tensor([[side, side, 0, 0, side, side]] * batch).to(device, dtype)
            pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
            given["added_cond_kwargs"] = {"text_embeds": normal(batch, pooled), "time_ids": sizes}
        return given
    given = {
        "encoder_hidden_states": normal(batch, shape.rows, config["joint_attention_dim"]),
        "pooled_projections": normal(batch, config["pooled_projection_dim"]),
    }
    if shape.model == "SD3Transformer2DModel":
        picture = normal(batch, config["in_channels"], latent, latent)
        return given | {"hidden_states": picture, "timestep": torch.full((batch,), 500.0, device=device)}
    tokens = torch.cartesian_prod(torch.arange(1), torch.arange(latent // 2), torch.arange(latent // 2))
    return given | {
        "hidden_states": normal(batch, len(tokens), config["in_channels"]),  # 2 x 2 latent pixels fold into a token
        "timestep": torch.full((batch,), 0.5, device=device, dtype=dtype),
        "guidance": torch.full((batch,), 3.5, device=device, dtype=dtype),
        "img_ids": tokens.to(device, dtype),
        "txt_ids": torch.zeros(shape.rows, 3, device=device, dtype=dtype),
    }
