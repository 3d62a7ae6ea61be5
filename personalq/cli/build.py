"""From settings to the objects that the commands use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from personalq.cli.show import Bar, note
from personalq.errors import SettingsError
from personalq.records import Decision, Frame, Job, Precision, Question, Request
from personalq.settings import Settings

if TYPE_CHECKING:
    from personalq.backend.engine import Engine
    from personalq.bench.means import Means
    from personalq.catalog.scan import Catalog


def load_catalog(settings: Settings) -> Catalog:
    """The repository's catalogue, from its saved index where files are unchanged; problems go to stderr."""
    from personalq.catalog.index import load_catalog as load

    with Bar() as bar:
        catalog = load(settings.repo, settings.cache, bar.tell)
    for problem in catalog.problems:
        note(str(problem))
    if catalog.tally.trouble:
        note(catalog.tally.trouble)
    return catalog


def new_engine(settings: Settings, catalog: Catalog, quantized: Path | None = None) -> Engine:
    """An engine on the base that was asked for, or on the repository's own.

    `quantized` is a folder with the base's stored denoiser, which then serves for its recipe's precision.
    """
    from personalq.backend.engine import Engine
    from personalq.backend.variants import VARIANTS, stored_variant

    if settings.base is None and len(catalog.bases) != 1:
        found = ", ".join(str(path) for path in catalog.bases) or "none"
        raise SettingsError(
            f"{settings.repo} holds {len(catalog.bases)} base models ({found}): choose one with --base."
        )
    variants = dict(VARIANTS)
    if quantized:
        stored = stored_variant(quantized)
        variants[stored.name] = stored
    return Engine(settings.base or catalog.bases[0], settings.device, variants=variants)


def decide(settings: Settings, catalog: Catalog, text: str, base: str | None, answer: str | None) -> Decision:
    """Ask Check-in, and answer its question if it has one and an answer was given."""
    from personalq.checkin.dialogue import CheckIn, pending
    from personalq.checkin.rerank.choose import chosen
    from personalq.checkin.stores.choose import configured

    with Bar() as bar:
        checkin = CheckIn(
            catalog.checkpoints,
            cache=settings.cache,
            reranker=chosen(settings),
            on_progress=bar.tell,
            encoder=settings.encoder,
            store=configured(settings),
        )
    request = Request(text, base=base)
    decision = checkin.ask(request)
    if isinstance(decision, Question) and answer is not None:
        return checkin.answer(pending(request, decision), answer)
    return decision


def bench_means(settings: Settings, versions: str = "newest") -> Means:
    """What the selection benchmarks may use: vectors, the reranker chosen and, with chat, its language model.

    Raises SettingsError for `versions` other than "newest" and "ask".
    """
    from personalq.bench.means import Means
    from personalq.bench.stylus import Composer
    from personalq.checkin.decide import VersionPolicy
    from personalq.checkin.rerank.choose import chosen, endpoint

    reranker, composer = chosen(settings), None
    if settings.reranker == "chat" and settings.llm_model:
        composer = Composer(endpoint(settings, settings.llm_model), settings.llm_model)
    if versions not in get_args(VersionPolicy):
        raise SettingsError(f"Unknown version policy {versions!r}: choose one of {', '.join(get_args(VersionPolicy))}.")
    return Means(settings.cache, settings.encoder, reranker, composer, versions)  # type: ignore[arg-type]


def known_precision(name: str) -> Precision:
    """The precision called `name`. Raises QuantizationError when there is none."""
    from personalq.backend.variants import variant_named

    return variant_named(name).name


def finished(engine: Engine, job: Job, precisions: Sequence[Precision]) -> list[Frame]:
    """The last frame of every precision."""
    from personalq.backend.compare import compare as frames_of

    done = []
    with Bar() as bar:
        for frame in frames_of(engine, job, precisions):
            bar.tell(frame.step, frame.total, frame.variant)
            if frame.step == frame.total:
                done.append(frame)
    for warning in {frame.warning for frame in done if frame.warning}:
        note(warning)
    return done
