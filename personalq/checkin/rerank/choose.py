"""From settings to the reranker they name. It is the only place that knows all of them."""

from __future__ import annotations

from urllib.parse import urlsplit

from personalq.checkin.rerank import calibration
from personalq.checkin.rerank.chat import Chat
from personalq.checkin.rerank.endpoint import Endpoint, Provider, Url
from personalq.checkin.rerank.protocol import OptedIn
from personalq.errors import SettingsError
from personalq.settings import Settings

_HUGGING_FACE = (".huggingface.co", ".huggingface.cloud", ".hf.space")
"""Hosts that may see HF_TOKEN."""


def chosen(settings: Settings) -> OptedIn | None:
    """The reranker that was opted into, loaded; None for the default, which `CheckIn` makes from its catalogue.

    Raises SettingsError for settings that do not go together, ModelError or RerankerError when a model cannot be used.
    """
    kind = settings.reranker
    if kind == "embedded":
        return None
    model = settings.llm_model
    if not model:
        raise SettingsError(
            f"The {kind} reranker needs a model; set PERSONALQ_LLM_MODEL or --llm-model, "
            "for instance Qwen/Qwen3-Reranker-0.6B for causal."
        )
    stored = calibration.read(settings.cache, kind, model)
    if kind == "chat":
        return Chat(endpoint(settings, model), model, stored, settings.llm_seconds)
    if kind == "causal":
        from personalq.checkin.rerank.causal import Causal, device_of

        return Causal(model, stored, device_of(settings.device))
    from personalq.checkin.rerank.cross_encoder import CrossEncoder

    return CrossEncoder(model, stored, settings.device)


def endpoint(settings: Settings, model: str) -> Endpoint:
    """Where the chat reranker asks. HF_TOKEN is sent to hosts of Hugging Face only, PERSONALQ_LLM_KEY to any.

    Raises SettingsError unless exactly one of a URL and a provider is set.
    """
    if bool(settings.llm_url) == bool(settings.llm_provider):
        raise SettingsError("The chat reranker needs either PERSONALQ_LLM_URL or PERSONALQ_LLM_PROVIDER, and not both.")
    if settings.llm_provider:
        return Provider(settings.llm_provider, model, settings.llm_key or settings.hf_token)
    url = str(settings.llm_url)
    return Url(url, model, settings.llm_key or (settings.hf_token if _of_hugging_face(url) else None))


def _of_hugging_face(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and f".{parts.hostname}".endswith(_HUGGING_FACE)
    except ValueError:
        return False
