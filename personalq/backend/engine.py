"""Decides what is resident: one base for all its checkpoints, and one denoiser at one precision at a time.

A full-precision denoiser is never resident beside a quantised one: to change precision the old one is dropped first
and the new one read from disk. It knows no steps, pictures or widgets.
"""

from __future__ import annotations

import gc
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from personalq.backend.memory import Residence
from personalq.backend.reading import Source, read_denoiser
from personalq.backend.variants import VARIANTS, Variant, variant_named
from personalq.catalog.hub_weights import fetched
from personalq.diffusion.attach import Attached, attach, detach
from personalq.diffusion.generate import memory_advice, picture_size
from personalq.diffusion.lazy import Progress
from personalq.diffusion.load import (
    Pipeline,
    default_dtype,
    denoiser,
    dreambooth_folder,
    load_base,
    set_denoiser,
)
from personalq.diffusion.lora import identity
from personalq.diffusion.slots import Slots
from personalq.errors import GenerationError, ModelError, QuantizationError, SettingsError
from personalq.quant.apply import Report
from personalq.quant.kernels import KernelName
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


def unheard(done: int, total: int, what: str) -> None:
    """Progress that nobody follows."""


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

        Raises SettingsError for "cuda" where torch finds no GPU.
        `dtype` of everything that is not quantised: by default bfloat16 on the CPU and, for FLUX, on CUDA; float16
        for the others there.
        `variants` are the precisions it knows; `kernel` multiplies packed weights, as `kernels.use_kernels` says.
        """
        self.kernel: KernelName = kernel
        self.variants = variants
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.base, self.device = base, torch.device(chosen)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise SettingsError("torch finds no GPU that it can use here: choose --device auto or cpu.")
        self._dtype = dtype
        self._lock = threading.Lock()  # not reentrant: a generator may be closed by another thread than began it
        self._pipe: Pipeline | None = None
        self._root: str | None = None
        self._resident: tuple[str, Precision] | None = None
        self._report: Report | None = None
        self._slots = Slots()
        """LoRAs that were used lately stay in memory, so that to come back to one is an assignment."""
        self._kernels: Mapping[str, int] = {}
        self._keys: dict[str, set[Hashable]] = {}
        """Under which keys the slots have held a checkpoint, by its id."""
        self._leaving: deque[str] = deque()
        """Ids of checkpoints to forget as soon as no job runs; other threads add to it without the lock."""
        self.residence = Residence()
        """Replaced as a whole at every change, so that it can be read while a job runs."""

    @property
    def is_busy(self) -> bool:
        """Whether a job, or what brings the base in, holds the engine now."""
        return self._lock.locked()

    @property
    def dtype(self) -> torch.dtype:
        """Of everything that is not quantised. Raises ModelError where that depends on a base that is not there."""
        self._dtype = self._dtype or default_dtype(self.base, self.device)
        return self._dtype

    def label(self, precision: Precision) -> str:
        """What a precision is on this machine, such as "reference (bfloat16, cpu)"."""
        kind = str(self.dtype).removeprefix("torch.")
        return f"{precision} ({kind if precision == 'reference' else f'rest in {kind}'}, {self.device.type})"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the base's own pictures.

        Raises ModelError before the base was brought in.
        """
        pipe = self._pipe
        if pipe is None or denoiser(pipe) is None:
            raise ModelError("The base model is not loaded yet: try again when it is ready.")
        return picture_size(pipe, Job(""))

    @contextmanager
    def hold(self, job: Job, precision: Precision, on_progress: Progress | None = None) -> Iterator[Session]:
        """Lend the base with the job's checkpoints, its denoiser at `precision`; waits while another job holds it.

        A checkpoint that lies on the Hub is fetched first. `on_progress` is told, in this thread, of all that is read
        and packed, each stage with a total of its own: the base's other models, the denoiser's layers, the job's
        checkpoints. It is not called for what is in memory already, nor once the session is there. Raises HubError,
        ModelError, IncompatibleCheckpointError, QuantizationError or GenerationError when memory runs out; what was
        resident may then be gone, and the next job brings in what it needs.
        """
        tell = on_progress or unheard
        checkpoints = [(fetched(checkpoint), weight) for checkpoint, weight in job.checkpoints]
        with self._lock, self._freeing():
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
                pipe = self._bring(whole[0] if whole else None, variant, tell)
                others = [(c, w) for c, w in checkpoints if c.kind != "dreambooth"]
                attached = self._attach(pipe, others, variant, tell)
            try:
                yield Session(pipe, variant, self.device, self._report, self._kernels)
            finally:
                detach(pipe, attached)

    def warm(self, precision: Precision = "reference", on_progress: Progress | None = None) -> None:
        """Bring the base in, so that the first picture is quick; jobs that arrive meanwhile wait.

        Where a job has been before, nothing is done. `on_progress` and errors are those of `hold`.
        """
        with self._lock, self._freeing():
            if self._resident is None:
                with memory_advice(f"loading {precision}"):
                    self._bring(None, variant_named(precision, self.variants), on_progress or unheard)

    def forget(self, ids: Collection[str]) -> None:
        """Keep the LoRAs of these checkpoints in memory no longer: at once, or after the job that is running.

        It never waits. A job that asks for one later reads its file again.
        """
        self._leaving.extend(ids)
        if self._lock.acquire(blocking=False):
            try:
                self._forget_leaving()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Let everything go."""
        with self._lock:
            self._evict()
            self._slots.release()
            self._slots = Slots()
            self._keys.clear()
            self._pipe, self.residence = None, Residence()

    @contextmanager
    def _freeing(self) -> Iterator[None]:
        """For as long as the lock is held: forget what is to be forgotten, and let go of what failed attempts hold.

        Whoever shows an error keeps its cause too, and the frames of that keep half a model, or a step's tensors.
        """
        try:
            yield
        except GenerationError as error:
            if error.__cause__ is not None:
                error.__cause__.__traceback__ = None
                traceback.clear_frames(error.__traceback__)  # some of which hold the other
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            raise
        finally:
            self._forget_leaving()

    def _forget_leaving(self) -> None:
        """With the lock held and no LoRA selected."""
        while self._leaving:
            for key in self._keys.pop(self._leaving.popleft(), ()):
                self._slots.drop(key)
        self._note_loras()

    def _note_loras(self) -> None:
        self.residence = replace(self.residence, loras=len(self._slots), lora_bytes=self._slots.nbytes)

    def _attach(
        self, pipe: Pipeline, checkpoints: list[tuple[Checkpoint, float]], variant: Variant, tell: Progress
    ) -> Attached:
        """Attach checkpoints; of those that are folded into the denoiser, what they add to the text encoders alone."""
        folded = [c.id in variant.merged for c, _ in checkpoints]
        if any(folded) and not all(folded):
            raise QuantizationError(
                f"{', '.join(variant.merged)} is folded into {variant.stored}: make pictures with nothing beside it."
            )
        unread: list[str] = []
        part = ("text",) if any(folded) else ()  # as `attach` tells them apart
        for checkpoint, _ in checkpoints:
            key = (*part, *identity(checkpoint))
            self._keys.setdefault(checkpoint.id, set()).add(key)
            unread += [] if key in self._slots else [checkpoint.name or checkpoint.id]
        what = f"Reading {', '.join(unread)}"
        if unread:
            tell(0, len(unread), what)
        attached = attach(pipe, checkpoints, slots=self._slots, merged=any(folded))
        try:
            self._note_loras()
            if unread:
                tell(len(unread), len(unread), what)
        except BaseException:
            detach(pipe, attached)
            raise
        return attached

    def _bring(self, whole: Checkpoint | None, variant: Variant, tell: Progress) -> Pipeline:
        """Make the denoiser of the base, or of a DreamBooth checkpoint, resident as `variant`.

        A DreamBooth checkpoint that is a complete pipeline brings its own text encoder and autoencoder too.
        """
        folder = dreambooth_folder(whole) if whole else self.base
        complete = whole is not None and (Path(folder) / "model_index.json").exists()
        source = Source(self.base, folder, whole, complete)
        root = str(folder if complete else self.base)
        if self._pipe is None or self._root != root:
            self._evict()
            self._pipe, self._root = None, root
            tell(0, 1, f"Reading {source.name}")
            self._pipe = load_base(root, self.device, self.dtype, with_denoiser=False)
            tell(1, 1, f"Reading {source.name}")
        wanted = (str(folder), variant.name)
        if self._resident != wanted:
            self._evict()
            read = read_denoiser(source, variant, self.device, self.dtype, self.kernel, tell)
            set_denoiser(self._pipe, read.model)
            self._resident, self._report, self._kernels = wanted, read.report, read.kernels
            self.residence = replace(self.residence, precision=variant.name, denoiser_bytes=read.nbytes)
        return self._pipe

    def _evict(self) -> None:
        """Drop the resident denoiser before another one is read."""
        pipe, self._resident, self._report, self._kernels = self._pipe, None, None, {}
        self.residence = replace(self.residence, precision=None, denoiser_bytes=0)
        if pipe is None or denoiser(pipe) is None:
            return
        gone = weakref.ref(denoiser(pipe))
        set_denoiser(pipe, None)
        if gone() is not None:  # held by a cycle; collecting takes long where many modules are loaded
            gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
