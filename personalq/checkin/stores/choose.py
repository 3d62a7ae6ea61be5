"""Which store a catalogue gets. It knows sizes and names, not what a store does."""

from __future__ import annotations

from pathlib import Path

from personalq.checkin.stores.memory import MemoryStore
from personalq.checkin.stores.protocol import Store
from personalq.errors import SettingsError

STORES = ("auto", "memory", "disk")
IN_MEMORY = 10_000
"""Checkpoints up to which "auto" keeps everything in memory."""


def open_store(kind: str, count: int, width: int, encoder: str, folder: Path | None) -> Store:
    """An empty store in memory, or the one in `folder` with what it holds.

    "auto" is memory for up to 10,000 checkpoints, or without a folder. Raises SettingsError for an unknown kind, a
    missing package or folder, CatalogError when the files in `folder` cannot be used.
    """
    if kind not in STORES:
        raise SettingsError(f"Unknown store {kind!r}: choose one of {', '.join(STORES)}.")
    if kind == "memory" or (kind == "auto" and (count <= IN_MEMORY or folder is None)):
        return MemoryStore(width)
    if folder is None:
        raise SettingsError(f"The store {kind!r} needs a cache folder to keep its files in.")
    from personalq.checkin.stores.disk import DiskStore

    return DiskStore(folder, width, encoder)
