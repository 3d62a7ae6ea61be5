"""Decides what is resident: one base for all its checkpoints, and one denoiser at one precision at a time.

A full-precision denoiser is never resident beside a quantised one: to change precision the old one is dropped first
and the new one read from disk. It knows no steps, pictures or widgets.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from personalq.backend.variants import VARIANTS, Variant, variant_named
from personalq.catalog.hub_weights import fetched
from personalq.diffusion.attach import Attached, attach, detach
from personalq.diffusion.generate import memory_advice
from personalq.diffusion.lazy import file_hashes, open_denoiser
from personalq.diffusion.load import (
    Denoiser,
    Pipeline,
    check_denoiser_fits,
    default_dtype,
    denoiser,
    dreambooth_folder,
    load_base,
    set_denoiser,
)
from personalq.diffusion.slots import Slots
from personalq.errors import ModelError, QuantizationError
from personalq.quant.apply import Report, stored_bytes
from personalq.quant.kernels import KernelName, use_kernels
from personalq.quant.sidecar import read_sidecar
from personalq.quant.store import load_quantized
from personalq.records import Checkpoint, Job, Precision

TIGHT = 0.1
"""Share of a GPU's memory; with less than this left it counts as short."""


@dataclass(frozen=True)
class Session:
    """A pipeline that is ready for one job, for as long as it is held."""

    pipe: Pipeline
    variant: Variant
    device: torch.device
    report: Report | None
    """How the denoiser was quantised; None for the reference."""
    kernels: Mapping[str, int]
    """How many packed layers are multiplied by which kernel."""

    @property
    def is_tight(self) -> bool:
        """Whether a GPU has so little memory left that a text's projections should wait in host memory."""
        if self.device.type != "cuda":
            return False
        free, total = torch.cuda.mem_get_info(self.device)
        return free < TIGHT * total


class Engine:
    """Holds one base model and lends it out, one job at a time, at the precision asked for."""

    def __init__(
        self,
        base: str | Path,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        variants: Mapping[str, Variant] = VARIANTS,
        kernel: KernelName = "auto",
    ) -> None:
        """Nothing is loaded yet. `base` is a diffusers folder or a Hub id; `device` is "auto", "cpu" or "cuda".

        `dtype` of everything that is not quantised: by default bfloat16 on the CPU and, for FLUX, on CUDA; float16
        for the others there.
        `variants` are the precisions it knows; `kernel` multiplies packed weights, as `kernels.use_kernels` says.
        """
        self.kernel: KernelName = kernel
        self.variants = variants
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.base, self.device = base, torch.device(chosen)
        self._dtype = dtype
        self._lock = threading.Lock()  # not reentrant: a generator may be closed by another thread than began it
        self._pipe: Pipeline | None = None
        self._root: str | None = None
        self._resident: tuple[str, Precision] | None = None
        self._report: Report | None = None
        self._slots = Slots()
        """LoRAs that were used lately stay in memory, so that to come back to one is an assignment."""
        self._kernels: Mapping[str, int] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Of everything that is not quantised. Raises ModelError where that depends on a base that is not there."""
        self._dtype = self._dtype or default_dtype(self.base, self.device)
        return self._dtype

    def label(self, precision: Precision) -> str:
        """What a precision is on this machine, such as "reference (bfloat16, cpu)"."""
        kind = str(self.dtype).removeprefix("torch.")
        return f"{precision} ({kind if precision == 'reference' else f'rest in {kind}'}, {self.device.type})"

    @contextmanager
    def hold(self, job: Job, precision: Precision) -> Iterator[Session]:
        """Lend the base with the job's checkpoints, its denoiser at `precision`; waits while another job holds it.

        A checkpoint that lies on the Hub is fetched first. Raises HubError, ModelError, IncompatibleCheckpointError or
        QuantizationError; what was resident may then be gone.
        """
        checkpoints = [(fetched(checkpoint), weight) for checkpoint, weight in job.checkpoints]
        with self._lock:
            variant = variant_named(precision, self.variants)
            whole = [c for c, _ in checkpoints if c.kind == "dreambooth"]
            if variant.merged and not {c.id for c, _ in checkpoints} >= set(variant.merged):
                raise QuantizationError(
                    f"{', '.join(variant.merged)} is folded into {variant.stored}: make pictures with it, or store the "
                    "base without it."
                )
            if len(whole) > 1:
                raise ModelError("Two DreamBooth models cannot be combined: each is a whole denoiser. Choose one.")
            with memory_advice(f"loading {precision}"):
                pipe = self._bring(whole[0] if whole else None, variant)
                attached = self._attach(pipe, [(c, w) for c, w in checkpoints if c.kind != "dreambooth"], variant)
            try:
                yield Session(pipe, variant, self.device, self._report, self._kernels)
            finally:
                detach(pipe, attached)

    def close(self) -> None:
        """Let everything go."""
        with self._lock:
            self._evict()
            self._slots.release()
            self._slots = Slots()
            self._pipe = None

    def _attach(self, pipe: Pipeline, checkpoints: list[tuple[Checkpoint, float]], variant: Variant) -> Attached:
        """Attach checkpoints; of those that are folded into the denoiser, what they add to the text encoders alone."""
        folded = [c.id in variant.merged for c, _ in checkpoints]
        if any(folded) and not all(folded):
            raise QuantizationError(
                f"{', '.join(variant.merged)} is folded into {variant.stored}: make pictures with nothing beside it."
            )
        return attach(pipe, checkpoints, slots=self._slots, merged=any(folded))

    def _bring(self, whole: Checkpoint | None, variant: Variant) -> Pipeline:
        """Make the denoiser of the base, or of a DreamBooth checkpoint, resident as `variant`.

        A DreamBooth checkpoint that is a complete pipeline brings its own text encoder and autoencoder too.
        """
        source = dreambooth_folder(whole) if whole else Path(self.base)
        complete = whole is not None and (source / "model_index.json").exists()
        root = str(source if complete else self.base)
        if self._pipe is None or self._root != root:
            self._evict()
            self._pipe, self._root = None, root
            self._pipe = load_base(root, self.device, self.dtype, with_denoiser=False)
        wanted = (str(source if whole else self.base), variant.name)
        if self._resident != wanted:
            self._evict()
            model, materialize = open_denoiser(wanted[0], self.device, self.dtype)
            if whole and not complete:
                check_denoiser_fits(model, self.base, whole)
            if variant.stored and not whole:
                report: Report | None = self._read_stored(model, variant.stored)
            else:
                report = variant.pack(model, materialize)
            if report:
                self._kernels = use_kernels(model, self.kernel)  # whose layouts may take a few bytes more
                self._report = replace(report, stored_bytes=stored_bytes(model))
            set_denoiser(self._pipe, model)
            self._resident = wanted
        return self._pipe

    def _read_stored(self, model: Denoiser, folder: Path) -> Report:
        """Fill the base's empty denoiser with a packed one. Raises QuantizationError when that is of another base."""
        made_from = read_sidecar(folder).provenance.weight_sha256
        if made_from and made_from != file_hashes(self.base):
            raise QuantizationError(
                f"{folder} was quantised from other weights than those of {self.base}: make it anew."
            )
        return load_quantized(model, folder, self.device)

    def _evict(self) -> None:
        """Drop the resident denoiser before another one is read."""
        pipe, self._resident, self._report, self._kernels = self._pipe, None, None, {}
        if pipe is None or denoiser(pipe) is None:
            return
        gone = weakref.ref(denoiser(pipe))
        set_denoiser(pipe, None)
        if gone() is not None:  # held by a cycle; collecting takes long where many modules are loaded
            gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
