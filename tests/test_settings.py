"""Flags win over the environment, the environment over defaults; what cannot be used says what to do."""

from pathlib import Path

import pytest

from personalq.errors import SettingsError
from personalq.settings import SAMPLE_REPO, Settings


def test_flags_then_environment_then_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.read().repo == SAMPLE_REPO
    monkeypatch.setenv("PERSONALQ_REPO", str(tmp_path))
    monkeypatch.setenv("PERSONALQ_PORT", "8123")
    assert (Settings.read().repo, Settings.read().port) == (tmp_path, 8123)
    assert Settings.read(repo=SAMPLE_REPO, port=9000) == Settings.read(repo=str(SAMPLE_REPO), port="9000")
    assert Settings.read(port=9000).port == 9000


def test_a_space_says_where_to_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7861")
    assert (Settings.read().host, Settings.read().port) == ("0.0.0.0", 7861)
    monkeypatch.setenv("PERSONALQ_HOST", "127.0.0.2")
    assert Settings.read().host == "127.0.0.2"


def test_rerankers_are_opted_into_by_flag_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERSONALQ_LLM_KEY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert (Settings.read().reranker, Settings.read().llm_key, Settings.read().hf_token) == ("embedded", None, None)
    monkeypatch.setenv("PERSONALQ_RERANKER", "chat")
    monkeypatch.setenv("PERSONALQ_LLM_URL", "http://localhost:8000/v1")
    monkeypatch.setenv("PERSONALQ_LLM_KEY", "sk-secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PERSONALQ_LLM_SECONDS", "12.5")
    monkeypatch.setenv("PERSONALQ_ENCODER", "some/encoder")
    read = Settings.read(llm_model="m")
    assert (read.reranker, read.llm_url, read.llm_model) == ("chat", "http://localhost:8000/v1", "m")
    assert (read.llm_key, read.hf_token, read.llm_seconds) == ("sk-secret", "hf_secret", 12.5)
    assert read.encoder == "some/encoder"
    assert "secret" not in repr(read)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"repo": "no/such/folder"}, "--repo"),
        ({"repo": " "}, "is empty"),
        ({"port": "eighty"}, "number"),
        ({"port": 0}, "65535"),
        ({"port": "65536"}, "65535"),
        ({"port": 10**20}, "65535"),
        ({"device": "tpu"}, "cpu or cuda"),
        ({"reranker": "oracle"}, "cross-encoder"),
        ({"llm_seconds": "soon"}, "LLM_SECONDS"),
        ({"llm_seconds": "-1"}, "LLM_SECONDS"),
    ],
)
def test_unusable_values_are_settings_errors(flags: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Settings.read(**flags)
