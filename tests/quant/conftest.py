"""A small random UNet with every kind of layer that the Stable Diffusion family has."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel

MakeUnet = Callable[..., UNet2DConditionModel]


@pytest.fixture
def make_unet() -> MakeUnet:
    def make(dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        return unet.to(dtype).eval()

    return make


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    return latents, torch.tensor(500), torch.randn(2, 7, 32, generator=generator)
