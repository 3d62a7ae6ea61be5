"""One typed settings object, from flags, then the environment, then defaults. It opens nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from personalq.errors import SettingsError

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_REPO = ROOT / "sample_repo"


@dataclass(frozen=True)
class Settings:
    """Where things are and how they run."""

    repo: Path = SAMPLE_REPO
    """Folder of checkpoints, or a `.jsonl` catalogue."""
    base: str | None = None
    """A diffusers folder or Hub id; None takes the one base of the repository."""
    device: str = "auto"
    """"auto", "cpu" or "cuda"."""
    cache: Path = Path.home() / ".cache" / "personalq"
    """Where indexes are kept."""
    host: str = "127.0.0.1"
    port: int = 7860

    @classmethod
    def read(cls, **flags: object) -> Settings:
        """Flags that are not None win over `PERSONALQ_REPO`, `_BASE`, `_DEVICE`, `_CACHE`, `_HOST`, `_PORT`.

        Raises SettingsError for a repository that does not exist or a port that is no number.
        """
        values: dict[str, object] = {}
        for name in cls.__dataclass_fields__:
            given = flags.get(name)
            values[name] = given if given is not None else os.environ.get(f"PERSONALQ_{name.upper()}") or None
        chosen = {name: value for name, value in values.items() if value is not None}
        for name in ("repo", "cache"):
            if name in chosen:
                chosen[name] = Path(str(chosen[name])).expanduser()
        if "port" in chosen:
            try:
                chosen["port"] = int(str(chosen["port"]))
            except ValueError:
                raise SettingsError(f"The port must be a number, not {chosen['port']!r}.") from None
        settings = cls(**chosen)  # type: ignore[arg-type]
        if not settings.repo.exists():
            raise SettingsError(f"There is no repository at {settings.repo}. Pass --repo DIR or a catalog.jsonl.")
        if settings.device not in ("auto", "cpu", "cuda"):
            raise SettingsError(f"Unknown device {settings.device!r}: choose auto, cpu or cuda.")
        return settings
