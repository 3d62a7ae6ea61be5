"""The command line: check, write and push, as a person or a program runs them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_write_stand_in import SpaceHub
from typer.testing import CliRunner

from personalq.__main__ import app
from personalq.errors import DeployError

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["deploy", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("command", [[], ["check"], ["write"], ["push"]])
def test_every_command_has_help(command: list[str]) -> None:
    assert "Usage" in run(*command, "--help")


def test_check_and_write(project: Path) -> None:
    with pytest.raises(DeployError, match="no front matter"):
        run("check", "--project", str(project))
    assert json.loads(run("write", "--project", str(project), "--json")) == {"changed": True}
    assert json.loads(run("check", "--project", str(project), "--json"))["repo"] == "me/app"
    assert "as it should be" in run("write", "--project", str(project))
    assert "valid" in run("check")  # the project's own


def test_a_dry_run_prints_the_calls_and_opens_no_socket(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a socket was opened")

    run("write", "--project", str(project))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_TOKEN", "pushes-4d3")
    text = run("push", "--dry-run", "--project", str(project))
    names = [line.partition("(")[0] for line in text.splitlines()]
    assert names[:8] == [
        "create_repo",
        "space_info",
        "add_space_variable",
        "add_space_secret",
        "upload_file",
        "upload_folder",
        "request_space_hardware",
        "wait_for_space",
    ]
    assert "7 files" in text and "not set here and left alone: OTHER_KEY" in text
    assert "pushes-4d3" not in text and "value=<HF_TOKEN of the environment>" in text
    found = json.loads(run("push", "--dry-run", "--hardware", "t4-small", "--json", "--project", str(project)))
    assert found["hardware"] == "t4-small" and "space_hardware='t4-small'" in found["calls"][0]


def test_push_without_an_owner_says_how(project: Path) -> None:
    with pytest.raises(DeployError, match="--repo OWNER/NAME"):
        run("push", "--dry-run")
    with pytest.raises(DeployError, match="no hardware 'gpu'"):
        run("push", "--dry-run", "--repo", "me/app", "--hardware", "gpu")


def test_push_as_a_program_of_its_own(project: Path, hub: SpaceHub) -> None:
    run("write", "--project", str(project))
    command = [sys.executable, "-m", "personalq", "deploy", "push", "--project", str(project), "--json"]
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "SPACE_HF_TOKEN": "reads-1a2"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"] == f"{hub.address}/spaces/me/app"
    assert "reads-1a2" not in done.stdout + done.stderr
    assert hub.sent("/secrets") == [{"key": "HF_TOKEN", "value": "reads-1a2"}]
    assert "app.py" in hub.files
