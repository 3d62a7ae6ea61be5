"""Pushing, with huggingface_hub itself against a Hub on this machine: what it is really sent, and what it refuses."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hub_write_stand_in import SpaceHub
from huggingface_hub import constants

from personalq.deploy.plan import planned
from personalq.deploy.push import push
from personalq.deploy.requirements import space_requirements
from personalq.deploy.write import written
from personalq.errors import DeployError

UP = ["README.md", "Spacefile", "app.py", "assets/icon.png", "personalq/a.py", "requirements.txt"]
UP += ["sample_repo/concepts/dog/dog.safetensors"]


@pytest.fixture(autouse=True)
def with_front_matter(project: Path) -> None:
    written(project)


def pushed(project: Path, **options: Any) -> list[str]:
    told: list[str] = []
    push(planned(project, os.environ, **options), os.environ, told.append)
    return told


def change(project: Path, there: str, instead: str) -> None:
    (project / "Spacefile").write_text((project / "Spacefile").read_text().replace(there, instead))


def test_a_space_is_made_configured_filled_and_started_in_this_order(project: Path, hub: SpaceHub) -> None:
    assert push(planned(project, os.environ), os.environ, print) == f"{hub.address}/spaces/me/app"
    order = ["/repos/create", "/variables", "/secrets", "/commit/main", "/hardware", "/runtime"]
    first = [min(k for k, path in enumerate(hub.paths()) if path.endswith(end)) for end in order]
    assert first == sorted(first)
    assert hub.sent("/repos/create") == [{"name": "app", "organization": "me", "type": "space", "sdk": "gradio"}]
    assert hub.sent("/variables") == [{"key": "GREETING", "value": "hello"}]
    assert hub.sent("/secrets") == [{"key": "HF_TOKEN", "value": hub.token}]  # OTHER_KEY is not set
    assert hub.sent("/hardware") == [{"flavor": "cpu-basic"}]
    assert sorted(hub.files) == UP
    for name in set(UP) - {"requirements.txt"}:
        assert hub.files[name] == (project / name).read_bytes()
    wanted = space_requirements((project / "requirements.txt").read_text(), "cpu-basic")
    assert hub.files["requirements.txt"].decode() == wanted


def test_a_space_that_is_there_is_updated(project: Path, hub: SpaceHub) -> None:
    hub.exists = True
    pushed(project)
    assert sorted(hub.files) == UP


def test_hardware_private_and_volumes_are_sent(project: Path, hub: SpaceHub) -> None:
    change(project, "volumes: []", "volumes: [{type: model, source: me/base, mount_path: /base, read_only: true}]")
    pushed(project, repo="you/app", hardware="zero-a10g", private=True)
    made = hub.sent("/repos/create")[0]
    assert (made["organization"], made["hardware"], made["visibility"]) == ("you", "zero-a10g", "private")
    assert hub.sent("/volumes")[0]["volumes"][0] == {
        "type": "model",
        "source": "me/base",
        "mountPath": "/base",
        "readOnly": True,
    }
    assert hub.sent("/hardware") == [{"flavor": "zero-a10g"}]
    assert b"torch>=2.8,<2.12" in hub.files["requirements.txt"]


def test_large_files_are_negotiated_and_stored_apart(
    project: Path, hub: SpaceHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    weights = project / "sample_repo" / "concepts" / "dog" / "dog.safetensors"
    weights.write_bytes(b"w" * 5000)
    hub.lfs_from = 4000
    pushed(project)
    assert hub.stored and hub.files["sample_repo/concepts/dog/dog.safetensors"] == b"w" * 5000


def test_the_spaces_token_may_be_another_and_none_is_ever_shown(
    project: Path, hub: SpaceHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPACE_HF_TOKEN", "only-reads-7c1")
    monkeypatch.setenv("OTHER_KEY", "other-9f2")
    told = "\n".join(pushed(project))
    assert {body["key"]: body["value"] for body in hub.sent("/secrets")} == {
        "HF_TOKEN": "only-reads-7c1",
        "OTHER_KEY": "other-9f2",
    }
    assert "value=<SPACE_HF_TOKEN of the environment>" in told
    printed = told + "".join(capfd.readouterr())
    assert not [value for value in ("only-reads-7c1", "other-9f2", hub.token) if value in printed]


@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        ("/repos/create", 402, "subscription .*--hardware"),
        ("/repos/create", 403, "may not do create_repo for me: .*settings/tokens"),
        ("/repos/create", 401, "does not accept the token"),
        ("/commit/main", 403, "may not do upload_file"),
        ("/preupload/main", 404, "does not find me/app"),
        ("/hardware", 402, "payment method"),
        ("/variables", 429, "a few minutes"),
        ("/variables", 500, "status 500"),
        ("/variables", 409, "--repo"),
    ],
)
def test_refusals_say_what_to_do(end: str, status: int, says: str, project: Path, hub: SpaceHub) -> None:
    hub.refuse[end] = (status, "because of the moon")
    if end == "/repos/create":
        hub.refuse["/api/spaces/me/app"] = (404, "because of the moon")
    with pytest.raises(DeployError, match=says) as told:
        pushed(project)
    assert "moon" in str(told.value)


def test_a_secret_that_the_hub_repeats_is_not_shown(
    project: Path, hub: SpaceHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "other-9f2")
    hub.refuse["/secrets"] = (400, "bad value other-9f2")
    with pytest.raises(DeployError) as told:
        pushed(project)
    assert "other-9f2" not in str(told.value)


def test_a_space_that_is_no_gradio_app_is_left_alone(project: Path, hub: SpaceHub) -> None:
    hub.exists, hub.sdk = True, "docker"
    with pytest.raises(DeployError, match=r"me/app is a Space already.*docker.*--repo"):
        pushed(project)
    assert hub.files == {} and hub.sent("/secrets") == []


def test_a_space_that_fails_shows_the_end_of_the_right_log(project: Path, hub: SpaceHub) -> None:
    hub.stages, hub.log = ["BUILD_ERROR"], [f"line {k}\n" for k in range(100)]
    with pytest.raises(DeployError, match=r"BUILD_ERROR.\n(line \d+\n)+line 99$") as told:
        pushed(project)
    assert "line 69\n" not in str(told.value)
    assert "/api/spaces/me/app/logs/build" in hub.paths()


def test_without_a_token_nothing_is_asked(
    project: Path, hub: SpaceHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(DeployError, match=r"settings/tokens.*HF_TOKEN.*hf auth login"):
        pushed(project)
    assert hub.requests == []


def test_no_network_and_the_offline_switch(project: Path, hub: SpaceHub, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(project, os.environ)
    with monkeypatch.context() as patch:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            patch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(DeployError, match=r"cannot be reached.*check the network"):
            push(plan, os.environ, print)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DeployError, match="unset HF_HUB_OFFLINE"):
        push(plan, os.environ, print)


def test_a_readme_that_differs_stops_before_anything_is_sent(project: Path, hub: SpaceHub) -> None:
    change(project, "title: An app", "title: Another")
    with pytest.raises(DeployError, match=r"differs in title.*deploy write"):
        pushed(project)
    assert hub.requests == []
