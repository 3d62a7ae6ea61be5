"""The commands that measure. They parse and print; `personalq.bench` measures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personalq.cli.build import bench_means, load_catalog, new_engine
from personalq.cli.options import (
    AsJson,
    Base,
    Cache,
    Device,
    Kept,
    LlmModel,
    LlmProvider,
    LlmUrl,
    Out,
    Repo,
    RerankerName,
    Steps,
    WithFailures,
)
from personalq.cli.show import Bar, pretty, report
from personalq.settings import Settings

bench = typer.Typer(no_args_is_help=True, help="Measure selection, quantisation and what they cost.")


@bench.command("sample")
def bench_sample(
    repo: Repo = None,
    device: Device = None,
    per_pair: Annotated[int, typer.Option(min=1, help="Seeds for every subject on every scene.")] = 2,
    each: Annotated[int, typer.Option(min=1, help="Pictures of every concept.")] = 14,
    steps: Steps = 20,
    as_json: AsJson = False,
) -> None:
    """Probe accuracy of the embedded model: subjects, scenes, concept identity."""
    from personalq.bench.sample import sample

    settings = Settings.read(repo=repo, device=device)
    catalog = load_catalog(settings)
    engine = new_engine(settings, catalog)
    with Bar() as bar:
        result = sample(engine, settings.repo, catalog.checkpoints, per_pair, each, steps, bar.tell)
    report(result, as_json, pretty)


@bench.command("quantization")
def bench_quantization(
    repo: Repo = None,
    device: Device = None,
    rows: Annotated[str | None, typer.Option(help="Which rows, with commas between them; all that can run.")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of every concept.")] = 4,
    each: Annotated[int, typer.Option(min=1, help="Pictures of every prompt.")] = 4,
    steps: Steps = 20,
    keep: Kept = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for identity and PSNR against bytes.")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Our precisions, their peers and controls on the embedded model: bytes, and what the pictures lose."""
    from personalq.backend.engine import Engine
    from personalq.bench.peers.registry import PEERS, missing
    from personalq.bench.plots import identity_against_bytes
    from personalq.bench.quantization import as_text, quantization

    settings = Settings.read(repo=repo, device=device)
    catalog = load_catalog(settings)
    engine = Engine(new_engine(settings, catalog).base, settings.device, variants=PEERS)
    chosen = rows.split(",") if rows else [name for name in PEERS if not missing(name)]
    with Bar() as bar:
        result = quantization(
            engine, settings.repo, catalog.checkpoints, each, steps, bar.tell, rows=chosen, prompts=prompts, keep=keep
        )
    if plot:
        identity_against_bytes(result, plot)
    report(result, as_json, as_text, out)


@bench.command("sensitivity")
def bench_sensitivity(
    repo: Repo = None,
    device: Device = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of every concept.")] = 2,
    per_third: Annotated[int, typer.Option(min=1, help="Steps looked at in each third of the schedule.")] = 2,
    steps: Steps = 20,
    plot: Annotated[Path | None, typer.Option(help="PNG file for the heat map.")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """What four bits cost in one kind of layer, one block, one third of the steps or one class of text rows."""
    from personalq.bench.plots import sensitivity_map
    from personalq.bench.sensitivity import as_text, sensitivity

    settings = Settings.read(repo=repo, device=device)
    catalog = load_catalog(settings)
    engine = new_engine(settings, catalog)
    with Bar() as bar:
        result = sensitivity(engine, settings.repo, catalog.checkpoints, prompts, per_third, steps, bar.tell)
    if plot:
        sensitivity_map(result, plot)
    report(result, as_json, as_text, out)


@bench.command("footprint")
def bench_footprint(
    architecture: Annotated[str, typer.Option(help="sd15, sdxl, sd3 or flux, with random weights.")] = "sd15",
    precision: Annotated[str, typer.Option(help="Precisions, with commas between them.")] = "taq-w8a8,taq-w4a8",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    steps: Annotated[int, typer.Option(min=0, help="Steps of each; 0 measures memory alone.")] = 5,
    latent: Annotated[int | None, typer.Option(help="Side of the latent picture; the model's own.")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Bytes and seconds of a denoiser in its real shape: stored, while loading, per step, per LoRA swap."""
    from personalq.bench.footprint import as_text, footprint

    with Bar() as bar:
        result = footprint(architecture, precision, device, steps, latent, on_progress=bar.tell)
    report(result, as_json, as_text, out)


@bench.command("selection")
def bench_selection(
    catalog: Annotated[Path, typer.Option(help="The catalogue, one JSON record a line.")],
    queries: Annotated[Path, typer.Option(help="The queries with their answers, one JSON object a line.")],
    versions: Annotated[str, typer.Option(help="newest, or ask where versions are intents of their own.")] = "newest",
    cache: Cache = None,
    reranker: RerankerName = None,
    llm_url: LlmUrl = None,
    llm_provider: LlmProvider = None,
    llm_model: LlmModel = None,
    with_failures: WithFailures = False,
    as_json: AsJson = False,
) -> None:
    """Selection against its baselines: right picks, questions, no-matches, compositions, triggers, times."""
    from personalq.bench.selection import as_text, selection

    settings = Settings.read(
        cache=cache, reranker=reranker, llm_url=llm_url, llm_provider=llm_provider, llm_model=llm_model
    )
    with Bar() as bar:
        result = selection(catalog, queries, bench_means(settings, versions), bar.tell)
    report(result, as_json, lambda found: as_text(found, with_failures))


@bench.command("repo-prompts")
def bench_repo_prompts(
    keep: Annotated[Path | None, typer.Option(help="Folder that keeps the catalogue and the queries.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed draws other queries.")] = None,
    cache: Cache = None,
    reranker: RerankerName = None,
    llm_url: LlmUrl = None,
    llm_provider: LlmProvider = None,
    llm_model: LlmModel = None,
    with_failures: WithFailures = False,
    as_json: AsJson = False,
) -> None:
    """Selection on a made-up repository of 20 concepts in 50 dated versions each, every version an intent."""
    from personalq.bench.repo_prompts import SEED, repo_prompts
    from personalq.bench.selection import as_text

    settings = Settings.read(
        cache=cache, reranker=reranker, llm_url=llm_url, llm_provider=llm_provider, llm_model=llm_model
    )
    with Bar() as bar:
        result = repo_prompts(bench_means(settings), bar.tell, keep, SEED if seed is None else seed)
    report(result, as_json, lambda found: as_text(found, with_failures))


@bench.command("scale")
def bench_scale(
    n: Annotated[str, typer.Option(help="Sizes of the catalogues, with commas between.")] = "1000,10000,100000",
    store: Annotated[str | None, typer.Option(help="auto, memory, disk or qdrant.")] = None,
    encoded: Annotated[bool, typer.Option(help="Encode the documents; else random vectors stand in.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check-in on made-up catalogues of growing size: latency by stage, BM25 ratio, additions, bytes."""
    from personalq.bench.scale import as_text, scale, sizes
    from personalq.checkin.stores.choose import configured

    settings = Settings.read(store=store)
    with Bar() as bar:
        result = scale(sizes(n), configured(settings), encoded, bar.tell)
    report(result, as_json, as_text)


@bench.command("serving")
def bench_serving(
    repo: Repo = None,
    base: Base = None,
    users: Annotated[int, typer.Option(min=1, help="Visitors who ask for pictures at the same moment.")] = 20,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of pictures made to see whether memory grows.")] = 200,
    steps: Steps = 20,
    chromium: Annotated[Path | None, typer.Option(help="A Chromium for the page's own times, by Playwright.")] = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """The running app: start, page, many visitors at once, memory over a long time."""
    from personalq.bench.serving.result import as_text, serving

    flags = [word for name, value in (("--repo", repo), ("--base", base)) if value for word in (name, str(value))]
    with Bar() as bar:
        result = serving(flags, users, pairs, steps, chromium, bar.tell)
    report(result, as_json, as_text, out)
