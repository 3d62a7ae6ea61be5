"""What the page works with: catalogue, Check-in and engine, the last two made in the background.

So the page is up before torch is imported. It knows no widgets, and keeps nothing of any visitor.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personalq.catalog.bases import normal_base
from personalq.catalog.index import load_catalog
from personalq.catalog.scan import Catalog, Progress
from personalq.errors import SettingsError
from personalq.records import Checkpoint, Decision, Frame, Job, Precision, Question, Request, Selection
from personalq.settings import Settings

if TYPE_CHECKING:
    from personalq.backend.engine import Engine
    from personalq.checkin.dialogue import CheckIn, Pending


class Desk:
    """One catalogue, one Check-in and one engine, shared by all visitors."""

    def __init__(self, settings: Settings, on_progress: Progress | None = None) -> None:
        """Reads the catalogue now and starts making the rest. Raises CatalogError."""
        self.settings = settings
        self.catalog: Catalog = load_catalog(settings.repo, settings.cache, on_progress)
        self.known: dict[str, Checkpoint] = {one.id: one for one in self.catalog.checkpoints}
        self.base = settings.base or (self.catalog.bases[0] if len(self.catalog.bases) == 1 else None)
        self.base_name = (normal_base(str(self.base)) or Path(self.base).name) if self.base else None
        pool = ThreadPoolExecutor(1, thread_name_prefix="personalq")  # one after the other: both import torch
        self._checkin: Future[CheckIn] = pool.submit(self._make_checkin)
        self._engine: Future[Engine] = pool.submit(self._make_engine)
        pool.shutdown(wait=False)

    # --- Check-in, as soon as it is ready ------------------------------------------------------

    def ask(self, request: Request) -> Decision:
        """Raises RequestError."""
        return self._checkin.result().ask(request)

    def answer(self, pending: Mapping[str, Any], text: str) -> tuple[Request, Decision]:
        """What the answer settles, and the request it belongs to: an unrelated answer is a new one.

        Raises RequestError.
        """
        from personalq.checkin.answer import clicked, indifferent
        from personalq.checkin.dialogue import Pending

        asked = Pending.from_json(pending)
        decision = self._checkin.result().answer(asked, text)
        if clicked(text, asked.options) is None and not indifferent(text) and not _settles(decision, asked):
            return replace(asked.request, text=text), decision
        return asked.request, decision

    def choose(self, request: Request, id_: str) -> Selection:
        """The prompt for a checkpoint picked by hand. Raises UnknownCheckpointError."""
        return self._checkin.result().choose(request, id_)

    def pending(self, request: Request, question: Question) -> dict[str, Any]:
        """A question that waits for its answer, as plain data."""
        from personalq.checkin.dialogue import pending

        return pending(request, question).as_json()

    # --- the engine, as soon as it is ready ----------------------------------------------------

    def ready(self) -> str:
        """Waits until both are ready; the device. Raises what making them raised."""
        self._checkin.result()
        return self._engine.result().device.type

    def label(self, precision: Precision) -> str:
        """What a precision is on this machine."""
        return self._engine.result().label(precision)

    def compare(self, job: Job, precisions: Sequence[Precision]) -> Generator[Frame, None, None]:
        """The frames of one job at each precision, from the same noise. Close it to stop."""
        from personalq.backend.compare import compare

        yield from compare(self._engine.result(), job, precisions)

    def _make_checkin(self) -> CheckIn:
        from personalq.checkin.dialogue import CheckIn
        from personalq.checkin.rerank.choose import chosen
        from personalq.checkin.stores.choose import configured

        return CheckIn(
            self.catalog.checkpoints,
            cache=self.settings.cache,
            reranker=chosen(self.settings),
            encoder=self.settings.encoder,
            store=configured(self.settings),
        )

    def _make_engine(self) -> Engine:
        from personalq.backend.engine import Engine

        if self.base is None:
            found = ", ".join(str(path) for path in self.catalog.bases) or "none"
            raise SettingsError(f"{self.settings.repo} holds no single base model ({found}): choose one with --base.")
        return Engine(self.base, device=self.settings.device)


def _settles(decision: Decision, asked: Pending) -> bool:
    """Whether a decision is about the options that were offered."""
    offered = {id_ for option in asked.options for id_ in option.checkpoint_ids}
    return isinstance(decision, Selection) and not offered.isdisjoint(one.id for one in decision.checkpoints)
