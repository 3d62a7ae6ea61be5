"""Which reranker the settings name, what it needs, and who may see which key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub.inference._providers import CONVERSATIONAL_AUTO_ROUTER
from scripted_endpoint import KEY, Answer, Scripted, closed_port, scores, scripted

from personalq.checkin.rerank.chat import Chat
from personalq.checkin.rerank.choose import chosen
from personalq.errors import EndpointError, InvalidReplyError, RerankerError, SettingsError
from personalq.records import Candidate, Checkpoint, Intent
from personalq.settings import Settings

TOKEN = "hf_a_token_of_the_hub"
ASKED = Intent("a dog", "dog")
PAIR = [Candidate(Checkpoint(id="a", name="Biscuit")), Candidate(Checkpoint(id="b", name="Mochi"))]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path


def settings(cache: Path, **told: object) -> Settings:
    return Settings(cache=cache, **{"reranker": "chat", "llm_model": "m", "llm_seconds": 20.0, **told})  # type: ignore[arg-type]


def test_nothing_is_opted_into_by_default(cache: Path) -> None:
    assert chosen(Settings(cache=cache)) is None


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"llm_url": "http://localhost:1/v1", "llm_provider": "auto"},
        {"llm_url": "http://localhost:1/v1", "llm_model": None},
        {"llm_url": "file:///etc/passwd"},
        {"llm_url": "localhost:8000"},
        {"llm_url": "http://"},
        {"llm_url": "http://[bad"},
        {"llm_url": f"https://me:{KEY}@host/v1"},
        {"llm_provider": "auto"},
        {"reranker": "causal", "llm_model": None},
        {"reranker": "cross-encoder", "llm_model": ""},
    ],
)
def test_settings_that_do_not_go_together_say_what_to_set(cache: Path, told: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"PERSONALQ_|HF_TOKEN") as failed:
        chosen(settings(cache, **told))
    assert KEY not in str(failed.value)


@pytest.mark.parametrize(
    ("given", "path"),
    [("", "/v1/chat/completions"), ("/", "/v1/chat/completions"), ("/v1/", "/v1/chat/completions"),
     ("/api/v3", "/api/v3/chat/completions"), ("/x/chat/completions?a=b", "/x/chat/completions?a=b")],
)  # fmt: skip
def test_base_urls_are_completed(cache: Path, given: str, path: str) -> None:
    with scripted(Answer(scores([1, 2]))) as server:
        reranker = chosen(settings(cache, llm_url=f"http://{server.host}{given}"))
        assert isinstance(reranker, Chat)
        reranker.score(ASKED, PAIR)
        assert server.calls[0].path == path


def test_the_hub_token_goes_to_no_other_host(cache: Path) -> None:
    with scripted(Answer(scores([1, 2]))) as server:
        for key, sent in ((None, None), (KEY, f"Bearer {KEY}")):
            reranker = chosen(settings(cache, llm_url=server.url, hf_token=TOKEN, llm_key=key))
            assert reranker is not None
            reranker.score(ASKED, PAIR)
            assert server.calls[-1].headers.get("authorization") == sent


def test_settings_do_not_show_their_secrets(cache: Path) -> None:
    told = repr(settings(cache, llm_url="http://secret-host/v1", hf_token=TOKEN, llm_key=KEY))
    assert not any(secret in told for secret in (TOKEN, KEY, "secret-host"))


# --- Hugging Face providers, their router replaced by a server on this machine -----------------------


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with scripted(Answer(scores([7, 2], none=1))) as server:
        monkeypatch.setattr(CONVERSATIONAL_AUTO_ROUTER, "base_url", f"http://{server.host}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield server


def by_provider(cache: Path, seconds: float = 20.0) -> Chat:
    reranker = chosen(settings(cache, llm_provider="auto", hf_token=TOKEN, llm_seconds=seconds))
    assert isinstance(reranker, Chat)
    return reranker


def test_a_provider_is_sent_the_schema_and_the_token(router: Scripted, cache: Path) -> None:
    assert by_provider(cache).score(ASKED, PAIR)[0] == [6, 1]
    call = router.calls[0]
    assert call.headers["authorization"] == f"Bearer {TOKEN}"
    assert call.body["model"] == "m"
    schema = call.body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["scores"]["items"]["properties"]["index"]["enum"] == [0, 1]


@pytest.mark.parametrize(
    ("answers", "error", "says"),
    [
        ([Answer(status=401)], EndpointError, "key"),
        ([Answer(status=429, headers={"Retry-After": "900"})], EndpointError, "limit"),
        ([Answer(hang=True)], EndpointError, "within"),
        ([Answer(raw=b"<html>")], InvalidReplyError, "no chat completion"),
        ([Answer(raw=b'{"choices": []}')], InvalidReplyError, "no chat completion"),
        ([Answer("prose")], InvalidReplyError, "no JSON"),
    ],
    ids=["401", "429", "slow", "html", "empty", "prose"],
)
def test_failures_of_a_provider_are_the_same_errors(
    router: Scripted, cache: Path, answers: list[Answer], error: type[RerankerError], says: str
) -> None:
    router.answers(*answers)
    with pytest.raises(error, match=says) as failed:
        by_provider(cache, 0.5 if answers[0].hang else 20).score(ASKED, PAIR)
    assert TOKEN not in str(failed.value)
    assert router.host not in str(failed.value)


def test_a_provider_is_tried_again_after_its_limit(router: Scripted, cache: Path) -> None:
    router.answers(Answer(status=429, headers={"Retry-After": "0"}), Answer(scores([4, 2])))
    assert by_provider(cache).score(ASKED, PAIR)[0] == [4, 2]


def test_an_unreachable_or_offline_hub_is_an_endpoint_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONVERSATIONAL_AUTO_ROUTER, "base_url", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(EndpointError, match="cannot be reached"):
        by_provider(cache, 1.5).score(ASKED, PAIR)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EndpointError, match="HF_HUB_OFFLINE"):
        by_provider(cache).score(ASKED, PAIR)
