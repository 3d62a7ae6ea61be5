"""Hands freed memory back to the system while a model is packed. It knows nothing of what was held in it."""

from __future__ import annotations

import ctypes
import sys

import torch

EVERY = 1 << 23
"""Weights replaced between two returns of freed memory."""


class Scratch:
    """Counts the weights that were replaced, and gives back what they took each time there are enough of them."""

    def __init__(self) -> None:
        self.since = 0

    def replaced(self, weights: int) -> None:
        """So many weights have given way to other tensors."""
        self.since += weights
        if self.since >= EVERY:
            self.give_back()

    def give_back(self) -> None:
        """Return what allocators keep for later: glibc's heap, where the C library is that, and PyTorch's on CUDA.

        Packing frees many tensors between those that stay. glibc by itself only returns the end of its heap, so the
        holes would count as resident memory for as long as the model lives.
        """
        self.since = 0
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
