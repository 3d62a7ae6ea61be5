"""A Check-in over a small catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_catalogue import CATALOGUE

from personalq.checkin.dialogue import CheckIn


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="session")
def checkin(cache: Path) -> CheckIn:
    return CheckIn(CATALOGUE, cache)
