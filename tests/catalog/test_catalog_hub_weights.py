"""Fetching the weights of a checkpoint when it is loaded: only then, only what loading needs, only the commit read."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from catalog_files import PEFT, weights
from huggingface_hub import constants

from personalq.catalog.hub import Hub
from personalq.catalog.hub_catalog import load_hub
from personalq.catalog.hub_names import hub_name
from personalq.catalog.hub_weights import fetched
from personalq.catalog.memory import Memory
from personalq.errors import HubAccessError, HubError, HubUnavailableError
from personalq.records import Checkpoint


@pytest.fixture
def fox(hub, tmp_path):
    """A checkpoint of the made-up Hub, indexed and not yet fetched."""
    files = {
        "fox.safetensors": weights(tmp_path / "fox.safetensors", PEFT).read_bytes(),
        "README.md": "---\nlicense: mit\n---\n", "adapter_config.json": '{"peft_type": "LORA", "r": 2}',
        "fox_emb.pt": b"PK",
    }  # fmt: skip
    hub.add("lab/fox", files)
    catalog = load_hub(hub_name("hub:lab/fox"), Memory(tmp_path / "index.json"), hub=Hub(hub.address, pauses=()))
    hub.forget()
    return next(item for item in catalog.checkpoints if item.loadable)


def test_weights_are_fetched_once_from_the_commit_that_was_read(hub, fox):
    commit = hub.commit("lab/fox")
    hub.details["lab/fox"]["sha"] = "f" * 40  # The repository has moved on; nobody asks.
    found = fetched(fox, hub.address)
    assert [Path(file).name for file in found.files] == ["fox.safetensors", "adapter_config.json"]
    assert Path(found.files[0]).read_bytes() == hub.repos["lab/fox"]["fox.safetensors"]
    assert all(f"/resolve/{commit}/" in path for path in hub.paths())
    assert replace(found, files=fox.files) == fox
    hub.forget()
    assert fetched(fox, hub.address) == found and not hub.requests


def test_pickles_and_cards_are_never_fetched(hub, fox):
    fetched(fox, hub.address)
    assert not any(path.endswith((".pt", "README.md")) for path in hub.paths("HEAD") + hub.paths())
    assert fetched(replace(fox, loadable=False), hub.address).files == fox.files


def test_local_checkpoints_are_left_as_they_are(hub, tmp_path):
    for files in ((), (str(tmp_path / "a.safetensors"),), ("hub:lab/fox@main/../x.safetensors",)):
        checkpoint = Checkpoint("a", files=files)
        assert fetched(checkpoint, hub.address) is checkpoint
    assert not hub.requests


def test_what_is_fetched_stays_usable_offline(hub, fox, monkeypatch):
    found = fetched(fox, hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetched(fox, hub.address) == found


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda hub: hub.gated.add("lab/fox"), HubAccessError, "HF_TOKEN"),
        (lambda hub: hub.private.add("lab/fox"), HubAccessError, "HF_TOKEN"),
        (lambda hub: hub.trouble.update({"/lab/fox": 403}), HubAccessError, "HF_TOKEN"),
        (lambda hub: hub.trouble.update({"/lab/fox": 429}), HubUnavailableError, "Wait a little"),
        (lambda hub: hub.trouble.update({"/lab/fox": 404}), HubError, "index the repository again"),
        (lambda hub: hub.repos["lab/fox"].clear(), HubError, "index the repository again"),
    ],
)
def test_refusals_are_errors_that_say_what_to_do(hub, fox, monkeypatch, make, error, says):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub waits long between its tries.
    make(hub)
    with pytest.raises(error, match=says):
        fetched(fox, hub.address)


def test_no_connection_is_an_error_that_says_so(hub, fox, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailableError, match="HF_HUB_OFFLINE"):
        fetched(fox, hub.address)
