"""One typed settings object, from flags, then the environment, then defaults. It opens nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from personalq.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_REPO = ROOT / "sample_repo"
USUAL = {"hf_token": "HF_TOKEN", "host": "GRADIO_SERVER_NAME", "port": "GRADIO_SERVER_PORT"}
"""Environment variables that others have named; a Space sets the last two."""
RERANKERS = ("embedded", "chat", "causal", "cross-encoder")


@dataclass(frozen=True)
class Settings:
    """Where things are and how they run."""

    repo: Path = SAMPLE_REPO
    """Folder of checkpoints, `.jsonl` catalogue, or a name on the Hub such as `hub:owner/name`."""
    base: str | None = None
    """A diffusers folder or Hub id; None takes the one base of the repository."""
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    cache: Path = Path.home() / ".cache" / "personalq"
    """Where indexes are kept."""
    pictures: Path | None = None
    """Where every finished picture is kept as well; None keeps none beyond its visitor's session."""
    host: str = "127.0.0.1"
    port: int = 7860
    reranker: str = "embedded"
    """One of RERANKERS; all but the first are opt-in and need `llm_model`."""
    llm_model: str | None = None
    """A model's name at the endpoint, or a folder or Hub id for the local rerankers."""
    llm_url: str | None = field(default=None, repr=False)
    """Base URL of an OpenAI-compatible endpoint, for the chat reranker."""
    llm_provider: str | None = None
    """A Hugging Face inference provider, or "auto", instead of a URL."""
    llm_key: str | None = field(default=None, repr=False)
    hf_token: str | None = field(default=None, repr=False)
    """HF_TOKEN; sent to Hugging Face only."""
    llm_seconds: float = 30.0
    """Deadline of the chat reranker for a request, all its tries together."""
    encoder: str | None = None
    """A sentence-transformers folder or Hub id for retrieval; None is the packaged MiniLM."""
    store: str = "auto"
    """Where retrieval keeps its rows: "memory", "disk" (under `cache`), "qdrant", or "auto", by their number."""
    qdrant_url: str | None = field(default=None, repr=False)
    """The server of the store "qdrant", which several replicas may share."""
    qdrant_key: str | None = field(default=None, repr=False)
    qdrant_collection: str = "personalq"

    @classmethod
    def read(cls, **flags: object) -> Settings:
        """Flags that are not None win over the environment: `PERSONALQ_` and the field's name in capitals, then USUAL.

        Raises SettingsError for a repository that does not exist, a number that is none, or an unknown device or
        reranker.
        """
        values: dict[str, object] = {}
        for name in cls.__dataclass_fields__:
            given = flags.get(name)
            own, usual = os.environ.get(f"PERSONALQ_{name.upper()}"), os.environ.get(USUAL.get(name, ""))
            values[name] = given if given is not None else own or usual or None
        chosen = {name: value for name, value in values.items() if value is not None}
        if not str(chosen.get("repo", cls.repo)).strip():
            raise SettingsError("The repository's name is empty: pass --repo DIR, a catalog.jsonl or hub:owner/name.")
        for name in ("repo", "cache", "pictures"):
            if name in chosen:
                chosen[name] = Path(str(chosen[name])).expanduser()
        if "port" in chosen:
            chosen["port"] = _port(chosen["port"])
        if "llm_seconds" in chosen:
            chosen["llm_seconds"] = _seconds(chosen["llm_seconds"])
        settings = cls(**chosen)  # type: ignore[arg-type]
        if not settings.repo.as_posix().startswith("hub:") and not settings.repo.exists():
            raise SettingsError(
                f"There is no repository at {settings.repo}. Pass --repo DIR, a catalog.jsonl or hub:owner/name."
            )
        if settings.device not in ("auto", "cpu", "cuda"):
            raise SettingsError(f"Unknown device {settings.device!r}: choose auto, cpu or cuda.")
        if settings.reranker not in RERANKERS:
            raise SettingsError(f"Unknown reranker {settings.reranker!r}: choose one of {', '.join(RERANKERS)}.")
        return settings


def _port(value: object) -> int:
    try:
        port = int(str(value))
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise SettingsError(f"The port must be a number from 1 to 65535, not {value!r}.")
    return port


def _seconds(value: object) -> float:
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 600:
        raise SettingsError(f"PERSONALQ_LLM_SECONDS must be a number up to 600, not {value!r}.")
    return seconds
