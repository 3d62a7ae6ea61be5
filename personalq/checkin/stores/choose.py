"""Which store a catalogue gets. It knows sizes, names and settings, not what a store does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from personalq.checkin.stores.memory import MemoryStore
from personalq.checkin.stores.protocol import Store
from personalq.errors import SettingsError
from personalq.settings import Settings

STORES = ("auto", "memory", "disk")
IN_MEMORY = 10_000
"""Checkpoints up to which "auto" keeps everything in memory."""


@dataclass(frozen=True)
class Server:
    """A Qdrant server's URL, or a folder (None for memory) for the small engine that comes with its client."""

    url: str | None = None
    key: str | None = field(default=None, repr=False)
    collection: str = "personalq"
    folder: Path | None = None


def configured(settings: Settings) -> str | Server:
    """What the settings ask for. Raises SettingsError for "qdrant" without a URL."""
    if settings.store != "qdrant":
        return settings.store
    if not settings.qdrant_url:
        raise SettingsError("The store 'qdrant' needs a server: set PERSONALQ_QDRANT_URL, such as http://host:6333.")
    return Server(settings.qdrant_url, settings.qdrant_key, settings.qdrant_collection)


def open_store(kind: str | Server, count: int, width: int, encoder: str, folder: Path | None) -> Store:
    """An empty store in memory, or the one in `folder` or on a server with what it holds.

    "auto" is memory for up to 10,000 checkpoints, or without a folder. Raises SettingsError for an unknown kind, a
    missing package or folder, CatalogError when the files in `folder`, or the server, cannot be used.
    """
    if isinstance(kind, Server):
        from personalq.checkin.stores.qdrant import QdrantStore

        return QdrantStore(kind, width, encoder)
    if kind not in STORES:
        raise SettingsError(f"Unknown store {kind!r}: choose one of {', '.join(STORES)} or qdrant.")
    if kind == "memory" or (kind == "auto" and (count <= IN_MEMORY or folder is None)):
        return MemoryStore(width)
    if folder is None:
        raise SettingsError(f"The store {kind!r} needs a cache folder to keep its files in.")
    from personalq.checkin.stores.disk import DiskStore

    return DiskStore(folder, width, encoder)
