"""Flags win over the environment, the environment over defaults; what cannot be used says what to do."""

from pathlib import Path

import pytest
import yaml

from personalq.errors import SettingsError
from personalq.settings import ROOT, SAMPLE_REPO, Settings


def test_flags_then_environment_then_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.read().repo == SAMPLE_REPO
    monkeypatch.setenv("PERSONALQ_REPO", str(tmp_path))
    monkeypatch.setenv("PERSONALQ_PORT", "8123")
    assert (Settings.read().repo, Settings.read().port) == (tmp_path, 8123)
    assert Settings.read(repo=SAMPLE_REPO, port=9000) == Settings.read(repo=str(SAMPLE_REPO), port="9000")
    assert Settings.read(port=9000).port == 9000


@pytest.mark.parametrize(
    ("flags", "says"),
    [({"repo": "no/such/folder"}, "--repo"), ({"port": "eighty"}, "number"), ({"device": "tpu"}, "cpu or cuda")],
)
def test_unusable_values_are_settings_errors(flags: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Settings.read(**flags)


def test_the_spacefile_agrees_with_the_requirements() -> None:
    front = yaml.safe_load((ROOT / "Spacefile").read_text())["huggingface"]["front_matter"]
    assert f"gradio=={front['sdk_version']}" in (ROOT / "requirements.txt").read_text()
    assert (ROOT / front["app_file"]).exists()
    assert len(front["short_description"]) <= 60
