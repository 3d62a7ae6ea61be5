"""Hands freed memory back to the system. It knows nothing of what was held in it."""

from __future__ import annotations

import ctypes
import sys

import torch


def return_freed() -> None:
    """Give back what allocators keep for later: glibc's heap, where the C library is that, and PyTorch's on CUDA.

    Packing frees many tensors between those that stay. glibc by itself only returns the end of its heap, so the holes
    would count as resident memory for as long as the model lives.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
