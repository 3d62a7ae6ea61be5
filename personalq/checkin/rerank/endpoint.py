"""One chat completion over the network, from any OpenAI-compatible URL or a Hugging Face provider.

It knows no catalogue and reads no reply's meaning. It logs nothing, and no message of its errors holds a key, a URL
or what a server wrote.
"""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from personalq.checkin.rerank.retry import late
from personalq.errors import EndpointError, InvalidReplyError, RerankerError, SettingsError

Message = dict[str, str]
LONGEST = 2**20
"""Bytes of the longest reply that is read."""
_PIECE = 2**14
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_TOLD = {
    400: "did not accept the request; the model may lack structured replies (json_schema)",
    401: "refused the key; set PERSONALQ_LLM_KEY",
    402: "wants to be paid first",
    403: "refused the key; set PERSONALQ_LLM_KEY",
    404: "knows no such model or path; check PERSONALQ_LLM_URL and PERSONALQ_LLM_MODEL",
    422: "did not accept the request; the model may lack structured replies (json_schema)",
    429: "is over its limit",
}


@dataclass(frozen=True)
class Completion:
    """The text of a reply, and why it ended ("stop", "length", ...)."""

    content: str
    finish: str


class Endpoint(Protocol):
    """Where chat completions come from."""

    def complete(self, messages: Sequence[Message], reply_format: Mapping[str, object], seconds: float) -> Completion:
        """One call of at most about `seconds`. Raises EndpointError, or InvalidReplyError for what is no completion."""
        ...


class Url:
    """An OpenAI-compatible endpoint: vLLM, llama.cpp, Ollama, LM Studio, OpenAI and others.

    Not through huggingface_hub's `InferenceClient(base_url=...)`: version 2.4 turns a JSON schema into TGI's own form,
    which other servers ignore, and without a key sends the user's saved Hugging Face token to that URL. Redirects are
    not followed: the request goes to the host that was chosen, or nowhere.
    """

    def __init__(self, url: str, model: str, key: str | None = None) -> None:
        """Raises SettingsError for what is no http(s) URL, or one with a key inside."""
        self._url = _completions(url)
        self._model = model
        self._key = key
        self._opener = urllib.request.build_opener(_NoRedirect)

    def complete(self, messages: Sequence[Message], reply_format: Mapping[str, object], seconds: float) -> Completion:
        """As `Endpoint.complete`; a server that accepts no `temperature` is asked once more without."""
        body = {"model": self._model, "messages": list(messages), "response_format": dict(reply_format)}
        until = time.monotonic() + seconds
        status, raw, wait = self._post({**body, "temperature": 0}, until)
        if status == 400:
            status, raw, wait = self._post(body, until)
        if status != 200:
            raise refusal(status, wait)
        return _completion(raw)

    def _post(self, body: Mapping[str, object], until: float) -> tuple[int, bytes, str | None]:
        """Status, body and the Retry-After header."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "personalq"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=max(until - time.monotonic(), 0.01)) as response:
                return response.status, _read(response, until), None
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, b"", answer.headers.get("Retry-After")


class Provider:
    """A Hugging Face inference provider, or the automatic choice among them ("auto")."""

    def __init__(self, provider: str, model: str, key: str | None) -> None:
        """Raises SettingsError without a key, or when the client cannot be made."""
        if not key:
            raise SettingsError("A Hugging Face provider needs a token; set HF_TOKEN or PERSONALQ_LLM_KEY.")
        self._provider, self._model, self._key = provider, model, key

    def complete(self, messages: Sequence[Message], reply_format: Mapping[str, object], seconds: float) -> Completion:
        """As `Endpoint.complete`."""
        from huggingface_hub import InferenceClient
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, InferenceTimeoutError, OfflineModeIsEnabled

        try:
            client = InferenceClient(provider=self._provider, token=self._key, timeout=seconds)
            made: Any = client.chat_completion(
                list(messages), model=self._model, response_format=dict(reply_format), temperature=0
            )
            return Completion(str(made.choices[0].message.content or ""), str(made.choices[0].finish_reason))
        except HfHubHTTPError as answer:
            found: RerankerError = refusal(answer.response.status_code, answer.response.headers.get("Retry-After"))
        except InferenceTimeoutError:
            found = late(seconds)
        except OfflineModeIsEnabled:
            found = EndpointError("Hugging Face cannot be asked in offline mode; unset HF_HUB_OFFLINE.")
        except HTTPError:
            found = EndpointError("The Hugging Face provider cannot be reached; check the connection.", again=True)
        except (LookupError, AttributeError, TypeError, json.JSONDecodeError):
            found = InvalidReplyError("The language model's reply is no chat completion.")
        except ValueError:
            found = EndpointError("The provider does not offer this model, or not with this token; choose another.")
        raise found


def refusal(status: int, retry_after: str | None = None) -> EndpointError:
    """What an HTTP status other than 200 means."""
    told = _TOLD.get(status, "failed" if status >= 500 else "did not accept the request")
    return EndpointError(f"The language model's server {told} (HTTP {status}).", status in _AGAIN, _wait(retry_after))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """None makes urllib raise the 3xx as HTTPError."""


def _completions(url: str) -> str:
    """The URL of chat completions under a base URL such as http://localhost:8000/v1."""
    try:
        parts = urllib.parse.urlsplit(url.strip())
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise SettingsError("PERSONALQ_LLM_URL must be an http(s) URL such as http://localhost:8000/v1.")
    if "@" in parts.netloc:
        raise SettingsError("PERSONALQ_LLM_URL must hold no name or key; put the key in PERSONALQ_LLM_KEY.")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return urllib.parse.urlunsplit(parts._replace(path=path, fragment=""))


def _read(response: http.client.HTTPResponse, until: float) -> bytes:
    """The body. Raises InvalidReplyError beyond LONGEST bytes, TimeoutError past `until`."""
    body = bytearray()
    while piece := response.read1(_PIECE):
        body += piece
        if len(body) > LONGEST:
            raise InvalidReplyError(f"The language model's reply is longer than {LONGEST} bytes.")
        if time.monotonic() > until:
            raise TimeoutError
    return bytes(body)


def _completion(raw: bytes) -> Completion:
    try:
        choice = json.loads(raw)["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        raise InvalidReplyError("The language model's reply is no chat completion.")
    return Completion(content, str(choice.get("finish_reason")))


def _wait(retry_after: str | None) -> float | None:
    """Seconds a Retry-After header asks for, written as a number or as an HTTP date; None for neither."""
    if not retry_after:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = (parsedate_to_datetime(retry_after) - datetime.now(timezone.utc)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(wait, 0.0) if math.isfinite(wait) else None
