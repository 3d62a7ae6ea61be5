import pytest
from hub_stand_in import StandIn, serving
from huggingface_hub import constants

from personalq.catalog.hub import Hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A made-up Hub on this machine; nobody is logged in, and downloads go to a folder of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf_cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serving(StandIn()) as stand_in:
        yield stand_in


@pytest.fixture
def asked(hub):
    """A client of the made-up Hub that does not wait between tries."""
    return Hub(hub.address, pauses=(0, 0))
