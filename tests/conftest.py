"""Fixtures that several folders share: small random pipelines of both families, saved as diffusers folders."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD 1.5-shaped pipeline: 16 px pictures, latents 4 x 8 x 8."""
    from tiny_pipelines import save_sd  # diffusers takes seconds to import, and most tests need none of it

    folder = tmp_path_factory.mktemp("bases") / "tiny-random-sd"
    save_sd(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL-shaped pipeline: two text encoders, pooled text and sizes, linear projections."""
    from tiny_pipelines import save_sdxl

    folder = tmp_path_factory.mktemp("bases") / "tiny-random-sdxl"
    save_sdxl(folder)
    return folder
