"""Packages that only some stores need: loaded when asked for, and a command to type when one is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from personalq.errors import SettingsError

PACKAGES = {"tantivy": "tantivy==0.27.0", "faiss": "faiss-cpu==1.15.1", "qdrant_client": "qdrant-client==1.20.0"}


def needs(module: str) -> ModuleType:
    """The module. Raises SettingsError, with the command that installs it, when it cannot be imported."""
    try:
        return import_module(module)
    except ImportError as missing:
        raise SettingsError(
            f"This store needs the package {module} ({missing}): pip install {PACKAGES[module.split('.')[0]]}, or set "
            "PERSONALQ_STORE=memory."
        ) from None
