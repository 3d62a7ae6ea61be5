"""What the page works with: catalogue, Check-in and engine, the last two made in the background.

So the page is up before torch is imported. It knows no widgets, and keeps nothing of any visitor: a visitor's own
checkpoints come with each call.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from personalq.backend.zero import estimate, leased, on_zero, prepare
from personalq.catalog.bases import normal_base
from personalq.catalog.hub_weights import fetched
from personalq.catalog.index import load_catalog
from personalq.catalog.scan import Catalog, Progress
from personalq.checkin.bases import fits
from personalq.errors import SettingsError
from personalq.records import (
    Checkpoint,
    Decision,
    Difference,
    Frame,
    Job,
    NoMatch,
    Precision,
    Question,
    Recalled,
    Request,
    Selection,
)
from personalq.settings import Settings

if TYPE_CHECKING:
    from personalq.backend.engine import Engine
    from personalq.checkin.dialogue import CheckIn, Pending

Own = tuple[Checkpoint, ...]
"""Checkpoints that one visitor added."""
PRIVATE = 8
"""How many visitors' own indexes stay in memory; others are made again when they ask."""


class Desk:
    """One catalogue, one Check-in and one engine, shared by all visitors."""

    def __init__(self, settings: Settings, on_progress: Progress | None = None) -> None:
        """Reads the catalogue now and starts making the rest. Raises CatalogError."""
        prepare()
        self.settings = settings
        self.catalog: Catalog = load_catalog(settings.repo, settings.cache, on_progress)
        self.known: dict[str, Checkpoint] = {one.id: one for one in self.catalog.checkpoints}
        self.base = settings.base or (self.catalog.bases[0] if len(self.catalog.bases) == 1 else None)
        self.base_name = (normal_base(str(self.base)) or Path(self.base).name) if self.base else None
        self._doing = "Getting ready"
        self._private = functools.lru_cache(PRIVATE)(lambda own: self._checkin.result().with_own(own))
        self._compared = leased(self._compare, lambda job, precisions, on_progress: estimate(job, precisions))
        self._cells = leased(
            self._grid,
            lambda job, weights, precisions, on_progress: estimate(replace(job, count=len(weights)), precisions),
        )
        pool = ThreadPoolExecutor(1, thread_name_prefix="personalq")  # one after the other: both import torch
        self._checkin: Future[CheckIn] = pool.submit(self._make_checkin)
        self._engine: Future[Engine] = pool.submit(self._make_engine)
        self._warm: Future[None] = pool.submit(self._warm_up)
        pool.shutdown(wait=False)

    @functools.cached_property
    def hidden(self) -> Mapping[str, int]:
        """How many checkpoints were made for bases that are not loaded, by base."""
        others = [one.base for one in self.catalog.checkpoints if fits(one.base, self.base_name) is False]
        return Counter(base for base in others if base)

    # --- Check-in, as soon as it is ready ------------------------------------------------------

    def ask(self, request: Request, own: Own = ()) -> Decision:
        """Raises RequestError."""
        return self._checking(own).ask(request)

    def answer(self, pending: Mapping[str, Any], text: str, own: Own = ()) -> tuple[Request, Decision]:
        """What the answer settles, and the request it belongs to: one that means something else is a new one.

        Raises RequestError.
        """
        from personalq.checkin.answer import clicked, indifferent
        from personalq.checkin.dialogue import Pending

        asked = Pending.from_json(pending)
        decision = self._checking(own).answer(asked, text)
        if clicked(text, asked.options) is None and not indifferent(text) and not _settles(decision, asked):
            return replace(asked.request, text=text), decision
        return asked.request, decision

    def choose(self, request: Request, id_: str, own: Own = ()) -> Selection:
        """The prompt for a checkpoint picked by hand. Raises UnknownCheckpointError."""
        return self._checking(own).choose(request, id_)

    def pending(self, request: Request, question: Question) -> dict[str, Any]:
        """A question that waits for its answer, as plain data."""
        from personalq.checkin.dialogue import pending

        return pending(request, question).as_json()

    def _checking(self, own: Own) -> CheckIn:
        return self._private(own) if own else self._checkin.result()

    # --- the engine, as soon as it is ready ----------------------------------------------------

    def waiting_for(self) -> str:
        """What is being made ready, for a request that waits; "" once Check-in can answer."""
        return "" if self._checkin.done() else self._doing

    def loading(self) -> str:
        """What is being made ready in the background; "" once the first picture can be made without a wait."""
        return "" if self._warm.done() else self._doing

    def ready(self) -> str:
        """Waits until both are ready; the device. Raises what making them raised."""
        self._checkin.result()
        self._warm.result()
        return self._engine.result().device.type

    def size(self) -> tuple[int, int]:
        """Width and height of the base's own pictures in pixels. Waits for the base; raises what reading it raised."""
        self._warm.result()
        return self._engine.result().size

    def label(self, precision: Precision) -> str:
        """What a precision is on this machine."""
        return self._engine.result().label(precision)

    def compare(
        self, job: Job, precisions: Sequence[Precision], on_progress: Progress | None = None
    ) -> Generator[Frame, None, None]:
        """The frames of one job at each precision, from the same noise. Close it to stop."""
        yield from self._compared(self._brought(job), precisions, None if on_zero() else on_progress)

    def _compare(
        self, job: Job, precisions: Sequence[Precision], on_progress: Progress | None
    ) -> Generator[Frame, None, None]:
        from personalq.backend.compare import compare

        yield from compare(self._engine.result(), job, precisions, on_progress)

    def _brought(self, job: Job) -> Job:
        """The job once everything it needs is here: what waits or downloads does so before a GPU is borrowed."""
        self._warm.result()
        return replace(job, checkpoints=tuple((fetched(one), weight) for one, weight in job.checkpoints))

    def grid(
        self, job: Job, weights: Sequence[float], precisions: Sequence[Precision], on_progress: Progress | None = None
    ) -> Generator[tuple[int, int, Frame], None, None]:
        """The frames of one job at each weight (row) and precision (column). Close it to stop."""
        yield from self._cells(self._brought(job), weights, precisions, None if on_zero() else on_progress)

    def _grid(
        self, job: Job, weights: Sequence[float], precisions: Sequence[Precision], on_progress: Progress | None
    ) -> Generator[tuple[int, int, Frame], None, None]:
        from personalq.backend.grid import cells

        yield from cells(self._engine.result(), job, weights, precisions, on_progress)

    def sheet(self, pictures: Mapping[tuple[int, int], Image], weights: Sequence[float], names: Sequence[str]) -> Image:
        """The pictures of a grid as one, with its weights and precisions written beside it."""
        from personalq.backend.grid import sheet

        return sheet(pictures, weights, names)

    def difference(self, a: Image, b: Image) -> tuple[Image, Difference]:
        """Where two pictures differ, as a heat map, and by how much."""
        from personalq.backend.difference import heat_map

        return heat_map(a, b)

    def memory(self) -> dict[str, Any]:
        """What is resident and what it takes, as it is now; never waits behind a running job."""
        from personalq.backend.memory import report

        return report(self._engine.result())

    def forget(self, own: Own) -> None:
        """Let go of a visitor's own checkpoints."""
        self._private.cache_clear()
        if self._engine.done() and not self._engine.exception():
            self._engine.result().forget([one.id for one in own])

    # --- pictures that say how they were made --------------------------------------------------

    def save(
        self, image: Image, path: Path, job: Job, precision: Precision, index: int, frame: Frame
    ) -> dict[str, Any]:
        """Write picture `index` of a job as a PNG that says how it was made; the data written.

        Another copy goes to the folder for all pictures, if there is one. Raises PictureError when that fails.
        """
        from personalq.backend.provenance.keeping import keep
        from personalq.backend.provenance.metadata import made, save_png

        data = made(self._engine.result(), job, precision, index, frame)
        save_png(image, path, data)
        if self.settings.pictures:
            keep(path, self.settings.pictures)
        return data

    def read(self, path: Path) -> dict[str, Any]:
        """How the picture in a PNG was made. Raises PictureError."""
        from personalq.backend.provenance.metadata import read_png

        return read_png(path)

    def recalled(self, data: Mapping[str, Any], own: Own = ()) -> Recalled:
        """The job that such data describe, as far as it can be made here. Raises PictureError."""
        from personalq.backend.provenance.recall import recalled
        from personalq.backend.variants import VARIANTS

        return recalled(data, {**self.known, **{one.id: one for one in own}}, tuple(VARIANTS), self.base_name)

    def recall(self, path: Path, own: Own = ()) -> tuple[dict[str, Any], Recalled]:
        """How the picture in a PNG was made, and the job that is here. Raises PictureError."""
        data = self.read(path)
        return data, self.recalled(data, own)

    # --- making it ready -----------------------------------------------------------------------

    def _doing_now(self, done: int, total: int, what: str) -> None:
        self._doing = f"{what}: {done} of {total}"

    def _make_checkin(self) -> CheckIn:
        from personalq.checkin.dialogue import CheckIn
        from personalq.checkin.rerank.choose import chosen
        from personalq.checkin.stores.choose import configured

        return CheckIn(
            self.catalog.checkpoints,
            cache=self.settings.cache,
            reranker=chosen(self.settings),
            on_progress=self._doing_now,
            encoder=self.settings.encoder,
            store=configured(self.settings),
        )

    def _make_engine(self) -> Engine:
        from personalq.backend.engine import Engine

        if self.base is None:
            found = ", ".join(str(path) for path in self.catalog.bases) or "none"
            raise SettingsError(f"{self.settings.repo} holds no single base model ({found}): choose one with --base.")
        return Engine(self.base, device=self.settings.device)

    def _warm_up(self) -> None:
        self._engine.result().warm(on_progress=self._doing_now)


def _settles(decision: Decision, asked: Pending) -> bool:
    """Whether a decision is about the options that were offered: one of them, or that none was clearly meant."""
    offered = {id_ for option in asked.options for id_ in option.checkpoint_ids}
    if isinstance(decision, NoMatch):
        return bool(decision.nearest) and offered.issuperset(one.checkpoint.id for one in decision.nearest)
    return isinstance(decision, Selection) and not offered.isdisjoint(one.id for one in decision.checkpoints)
