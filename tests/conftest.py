"""Fixtures that several folders share: small random pipelines of every family, saved as diffusers folders."""

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


@pytest.fixture(scope="session")
def tiny_sd21_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD 2.1-shaped pipeline: v-prediction, OpenCLIP's activation and padding."""
    from tiny_pipelines import save_sd21

    folder = tmp_path_factory.mktemp("bases") / "tiny-random-sd21"
    save_sd21(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD 3.5-shaped pipeline: joint attention over [picture | CLIP, T5], flow matching."""
    from tiny_pipelines import save_sd3

    folder = tmp_path_factory.mktemp("bases") / "tiny-random-sd3"
    save_sd3(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX-shaped pipeline with distilled guidance. It has no size of its own: ask for 16 pixels."""
    from tiny_pipelines import save_flux

    folder = tmp_path_factory.mktemp("bases") / "tiny-random-flux"
    save_flux(folder)
    return folder
