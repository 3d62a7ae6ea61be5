"""Files of work that may be stopped and taken up again: safetensors that say what they were made from.

A file is written whole or not at all, and one made from something else counts as missing. It knows no layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from personalq.errors import QuantizationError

MADE_FROM = "made_from"


def write(path: Path, tensors: Mapping[str, Tensor], made_from: str, notes: Mapping[str, str] | None = None) -> None:
    """Write tensors and notes under another name first, so that a run that is stopped leaves no half a file.

    Raises QuantizationError where the disk refuses.
    """
    fresh = path.with_suffix(".partial")
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(held, fresh, {**(notes or {}), MADE_FROM: made_from})
        fresh.replace(path)
    except (OSError, SafetensorError) as error:
        raise QuantizationError(f"{path} cannot be written ({error}): make room there or choose another.") from error


def is_from(path: Path, made_from: str) -> bool:
    """Whether there is a file that was made from this. Raises QuantizationError for a damaged one."""
    if not path.exists():
        return False
    with _opened(path) as file:
        return bool((file.metadata() or {}).get(MADE_FROM) == made_from)


def read(path: Path, prefix: str = "", device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors whose names begin with `prefix`, which is cut off, and the notes; QuantizationError if damaged."""
    with _opened(path, device) as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 the handle is no mapping
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}, dict(file.metadata() or {})


@contextmanager
def _opened(path: Path, device: torch.device | str = "cpu") -> Iterator[Any]:
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise QuantizationError(f"{path} is damaged ({error}): delete it and run the command again.") from error
