"""Asking a Hub: every kind of refusal and trouble has its own error that says what to do."""

import json

import pytest
from hub_stand_in import DAY, StandIn
from huggingface_hub import constants

from personalq.catalog import hub as hub_module
from personalq.catalog.hub import Hub
from personalq.catalog.hub_names import Place
from personalq.errors import CatalogError, HubAccessError, HubError, HubUnavailableError

FILES = {"README.md": "# Fox", "fox.safetensors": b"x" * 1000}


def test_a_repository_is_described_with_sizes_and_hashes(hub, asked):
    hub.add("lab/fox", FILES, pipeline_tag="text-to-image")
    repo = asked.repo("lab/fox")
    assert (repo.id, repo.commit, repo.uploaded, repo.task) == ("lab/fox", hub.commit("lab/fox"), DAY, "text-to-image")
    assert [(file.path, file.size, len(file.digest or "")) for file in repo.files] == [
        ("README.md", 5, 0), ("fox.safetensors", 1000, 64),
    ]  # fmt: skip


def test_the_day_the_hub_gives_to_everything_old_is_no_day(hub, asked):
    hub.add("lab/fox", FILES, createdAt="2022-03-02T23:29:04.000Z")
    assert asked.repo("lab/fox").uploaded == ""


def test_only_the_start_of_a_file_is_asked_for_and_taken(hub, asked):
    hub.add("lab/fox", {"a.safetensors": bytes(range(256)) * 4000})
    at = Place("lab/fox", hub.commit("lab/fox"), "a.safetensors")
    assert asked.start_of(at, 10) == bytes(range(10))
    assert sum(hub.sent.values()) == 10
    assert len(asked.start_of(at, 10**9)) == 1_024_000


def test_a_server_that_ignores_ranges_is_cut_off(hub, asked):
    hub.ranges = False
    hub.add("lab/fox", {"a.safetensors": bytes(50_000_000)})
    at = Place("lab/fox", hub.commit("lab/fox"), "a.safetensors")
    assert asked.start_of(at, 10) == bytes(10)
    assert sum(hub.sent.values()) < 25_000_000


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, HubAccessError, "HF_TOKEN"),
        (403, HubAccessError, "ask for access"),
        (404, HubError, "no model lab/fox"),
        (429, HubUnavailableError, "more requests"),
        (500, HubError, "try again later"),
        (503, HubError, "try again later"),
        (418, HubError, "answered 418"),
        ((429, {"Retry-After": "77"}), HubUnavailableError, "in 77 seconds"),
        ((401, {"X-Error-Code": "GatedRepo"}), HubAccessError, "ask for access"),
        ((404, {"X-Error-Code": "RepoNotFound"}), HubError, "check the name"),
    ],
)
def test_every_status_is_an_error_that_says_what_to_do(hub, asked, status, error, says):
    hub.trouble["/api/models/lab/fox"] = status
    with pytest.raises(error, match=says) as caught:
        asked.repo("lab/fox")
    assert type(caught.value) is error and isinstance(caught.value, CatalogError)


def test_login_is_named_where_it_helps(hub, asked):
    for status in (401, 403, 429):
        hub.trouble["/api/models/lab/fox"] = status
        with pytest.raises(HubError, match="huggingface-cli login"):
            Hub(hub.address, pauses=()).repo("lab/fox")


def test_trouble_on_the_other_side_is_asked_again_refusals_are_not(hub, asked):
    for status, times in ((500, 3), (502, 3), (404, 1), (403, 1)):
        hub.forget()
        hub.trouble["/api/models/lab/fox"] = status
        with pytest.raises(HubError):
            asked.repo("lab/fox")
        assert len(hub.requests) == times


def test_silence_ends_in_a_time_out(hub):
    hub.add("lab/fox", FILES)
    hub.trouble["/api/models/lab/fox"] = 0.6
    asked = Hub(hub.address, timeout=0.1, pauses=(0,))
    with pytest.raises(HubUnavailableError, match="Timeout"):
        asked.repo("lab/fox")
    assert len(hub.requests) == 2


def test_a_trickle_ends_in_a_time_out(monkeypatch, hub):
    hub.add("lab/fox", {"a.safetensors": bytes(500_000)})
    times = iter(range(0, 10**6, 100))
    monkeypatch.setattr(hub_module.time, "monotonic", lambda: float(next(times)))
    with pytest.raises(HubUnavailableError, match="longer than 60 s"):
        Hub(hub.address, pauses=()).start_of(Place("lab/fox", hub.commit("lab/fox"), "a.safetensors"), 500_000)


def test_nobody_there_and_offline_are_told_apart(monkeypatch, hub):
    nobody = Hub("http://127.0.0.1:9", pauses=())
    with pytest.raises(HubUnavailableError, match="cannot be reached"):
        nobody.repo("lab/fox")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailableError, match="HF_HUB_OFFLINE"):
        Hub(hub.address).repo("lab/fox")
    assert not hub.requests


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://127.0.0.1", "http://", "http://[::1"])
def test_an_endpoint_that_is_none_is_an_error_of_ours(hub, endpoint):
    with pytest.raises(HubError):
        Hub(endpoint, pauses=()).repo("lab/fox")


def test_after_the_hub_is_gone_it_is_not_asked_again(hub, asked):
    hub.trouble["/api/models/"] = 429
    for _ in range(3):
        with pytest.raises(HubUnavailableError):
            asked.repo("lab/fox")
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [b"", b"<html>", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b"{}", b'{"sha": 5, "siblings": []}',
     json.dumps({"sha": "a" * 40, "siblings": {}}).encode(), b'{"sha": "../aaaaaaaaaaaaaaaaaaaaa", "siblings": []}'],
)  # fmt: skip
def test_nonsense_for_an_answer_is_an_error(hub, asked, reply):
    hub.trouble["/api/models/lab/fox"] = reply
    with pytest.raises(HubError, match="HF_ENDPOINT"):
        asked.repo("lab/fox")


def test_an_endless_answer_is_not_read(hub, asked, monkeypatch):
    monkeypatch.setattr(hub_module, "MAX_REPLY", 1000)
    hub.trouble["/api/models/lab/fox"] = b" " * 5000
    with pytest.raises(HubError, match="longer than 1000 bytes"):
        asked.repo("lab/fox")


def test_wrong_types_in_a_file_list_cost_only_their_entry(hub, asked):
    names = ["ok.safetensors", "../../etc/passwd", "/abs", "a/../b", 5, None, "x\u202ey", "nosize.json"]
    entries = [{"rfilename": name, "size": 5, "blobId": "b"} for name in names[:-1]]
    entries += [{"rfilename": "nosize.json"}, "text", {"rfilename": "neg.json", "size": -1}]
    hub.add("lab/fox", {}, siblings=entries)
    repo = asked.repo("lab/fox")
    assert [file.path for file in repo.files] == ["ok.safetensors"]
    assert len(repo.problems) == 9 and "etc/passwd" in repo.problems[0]


def test_a_list_of_models_has_pages(hub, asked, monkeypatch):
    monkeypatch.setattr(hub_module, "PAGE", 2)
    for number in range(5):
        hub.add(f"lab/fox{number}", FILES)
    hub.add("other/owl", FILES)
    assert [id_ for id_, _, _ in asked.models_of("lab")] == [f"lab/fox{number}" for number in range(5)]
    assert hub.paths() == ["/api/models"] * 3


def test_pages_that_never_end_do(hub, asked, monkeypatch):
    monkeypatch.setattr(hub_module, "MAX_PAGES", 3)
    again = f'<{hub.address}/api/models?author=lab&limit=1&cursor=0>; rel="next"'
    hub.add("lab/fox", FILES)
    hub.trouble["/api/models"] = (200, {"Link": again})
    with pytest.raises(HubError, match="more than 3 pages"):
        list(asked.models_of("lab"))
    assert len(hub.requests) == 3


def test_the_token_goes_to_this_hub_only(hub, asked, monkeypatch):
    """The address of a next page may name any machine; only its path counts."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.trouble["/api/models"] = (200, {"Link": '<http://127.0.0.1:9/api/stolen?cursor=1>; rel="next"'})
    hub.trouble["/api/stolen"] = b"[]"
    assert list(asked.models_of("lab")) == []
    assert [path for _, path, _ in hub.requests] == ["/api/models", "/api/stolen"]
    assert all(headers["authorization"] == f"Bearer {hub.token}" for _, _, headers in hub.requests)


def test_the_token_stays_out_of_messages(hub, asked, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    for status in (401, 403, 404, 500):
        hub.trouble["/api/models"] = status
        with pytest.raises(HubError) as caught:
            asked.repo("lab/fox")
        assert "secret" not in str(caught.value)


def test_nothing_is_asked_of_anyone_before_a_question(hub):
    assert isinstance(hub, StandIn)
    Hub(hub.address)
    assert not hub.requests
