"""Engines on the small random bases, in float32 so that equal means equal."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from personalq.backend.engine import Engine


@pytest.fixture
def engine(tiny_sd_folder: Path) -> Iterator[Engine]:
    engine = Engine(tiny_sd_folder, "cpu", dtype=torch.float32)
    yield engine
    engine.close()
