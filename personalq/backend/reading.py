"""Reads the denoiser of a base, or of a DreamBooth checkpoint, as one variant holds it. Knows nothing of residence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from personalq.backend.variants import Variant
from personalq.diffusion.lazy import Progress, counted, file_hashes, open_denoiser
from personalq.diffusion.load import Denoiser, check_denoiser_fits
from personalq.errors import QuantizationError
from personalq.quant.apply import Report, stored_bytes
from personalq.quant.kernels import KernelName, use_kernels
from personalq.quant.sidecar import read_sidecar
from personalq.quant.store import load_quantized
from personalq.records import Checkpoint


@dataclass(frozen=True)
class Source:
    """Where a denoiser is read from, and for which base."""

    base: str | Path
    folder: str | Path
    """The base itself, or a DreamBooth checkpoint's folder."""
    whole: Checkpoint | None = None
    """The DreamBooth checkpoint."""
    complete: bool = False
    """It brings a text encoder and an autoencoder of its own, so it need not fit the base's."""

    @property
    def name(self) -> str:
        """In words."""
        return (self.whole.name or self.whole.id) if self.whole else Path(self.base).name


@dataclass(frozen=True)
class Read:
    """A denoiser that is ready, and what became of it."""

    model: Denoiser
    report: Report | None
    """None for the reference."""
    kernels: Mapping[str, int]
    nbytes: int
    """Of its stored tensors, each storage once."""


def read_denoiser(
    source: Source, variant: Variant, device: torch.device, dtype: torch.dtype, kernel: KernelName, tell: Progress
) -> Read:
    """The denoiser of `source` as `variant`, read and packed layer by layer; `tell` is called after each.

    Raises ModelError, IncompatibleCheckpointError or QuantizationError.
    """
    model, materialize = open_denoiser(source.folder, device, dtype)
    if source.whole and not source.complete:
        check_denoiser_fits(model, source.base, source.whole)
    if variant.stored and not source.whole:
        report: Report | None = _read_stored(model, source.base, variant.stored, device, tell)
    else:
        what = f"Packing {variant.name}" if variant.recipe else f"Reading {source.name}"
        report = variant.pack(model, counted(model, materialize, what, tell))
    kernels = use_kernels(model, kernel) if report else {}  # whose layouts may take a few bytes more
    nbytes = stored_bytes(model)
    return Read(model, report and replace(report, stored_bytes=nbytes), kernels, nbytes)


def _read_stored(model: Denoiser, base: str | Path, folder: Path, device: torch.device, tell: Progress) -> Report:
    """Fill the base's empty denoiser with a packed one. Raises QuantizationError when that is of another base."""
    sidecar = read_sidecar(folder)
    made_from = sidecar.provenance.weight_sha256
    if made_from and made_from != file_hashes(base):
        raise QuantizationError(f"{folder} was quantised from other weights than those of {base}: make it anew.")
    what = f"Reading {sidecar.recipe.name}"
    return load_quantized(model, folder, device, lambda done, total, _: tell(done, total, what))
