"""The command line: select, generate, compare, index and bench. It parses and prints; the packages do the work.

Results go to stdout (with --json one JSON object and nothing else), progress and problems to stderr.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from tqdm import tqdm

from personalq.errors import PersonalQError, RequestError, SettingsError
from personalq.records import Candidate, Decision, Frame, Job, NoMatch, Precision, Question, Request, Selection, Span
from personalq.settings import Settings

if TYPE_CHECKING:
    from personalq.backend.engine import Engine
    from personalq.bench.means import Means
    from personalq.catalog.scan import Catalog

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Select, quantise and serve personal checkpoints.")
bench = typer.Typer(no_args_is_help=True, help="Measure the embedded repository.")
app.add_typer(bench, name="bench")

SOURCES = "Folder of checkpoints, catalog.jsonl, hub:owner/name, hub:collection/owner/slug or hub:user/NAME."
Repo = Annotated[Path | None, typer.Option("--repo", help=SOURCES)]
Base = Annotated[str | None, typer.Option("--base", help="Base model: a diffusers folder or a Hub id.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Seed = Annotated[int, typer.Option(help="Seed of the initial noise.")]
Steps = Annotated[int, typer.Option(min=1, max=200, help="Denoising steps.")]
Guidance = Annotated[float, typer.Option(min=0, max=30, help="Classifier-free guidance scale.")]

RerankerName = Annotated[str | None, typer.Option("--reranker", help="embedded, chat, causal or cross-encoder.")]
LlmUrl = Annotated[str | None, typer.Option(help="chat: base URL of an OpenAI-compatible endpoint.")]
LlmProvider = Annotated[str | None, typer.Option(help="chat: a Hugging Face provider, or auto.")]
LlmModel = Annotated[str | None, typer.Option(help="Model name, or folder or Hub id of a local reranker.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps sentence vectors.")]
WithFailures = Annotated[bool, typer.Option("--failures", help="List the queries that personalq got wrong.")]


@app.command()
def select(
    request: str,
    repo: Repo = None,
    base: Annotated[str | None, typer.Option(help="Only checkpoints made for this base model.")] = None,
    answer: Annotated[str | None, typer.Option(help="Reply to the clarifying question, in the same run.")] = None,
    reranker: RerankerName = None,
    llm_url: LlmUrl = None,
    llm_provider: LlmProvider = None,
    llm_model: LlmModel = None,
    as_json: AsJson = False,
) -> None:
    """Find the checkpoint a request means and rewrite the prompt with its trigger.

    The key of an endpoint is read from PERSONALQ_LLM_KEY, or HF_TOKEN at Hugging Face.
    """
    settings = Settings.read(
        repo=repo, reranker=reranker, llm_url=llm_url, llm_provider=llm_provider, llm_model=llm_model
    )
    decision = decide(settings, load_catalog(settings), request, base, answer)
    report(decision_json(decision), as_json, lambda _: decision_text(decision))


@app.command()
def generate(
    prompt: str,
    checkpoint: Annotated[str, typer.Option(help="Id of the checkpoint, as `index` lists it.")],
    precision: Annotated[
        str, typer.Option(help="reference, taq-w8a8, taq-w4a8, rtn-w8a8, rtn-w4a8 or nf4.")
    ] = "taq-w8a8",
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("picture.png"),
    negative: Annotated[str, typer.Option(help="What to avoid.")] = "",
    seed: Seed = 0,
    steps: Steps = 20,
    guidance: Guidance = 3.5,
    repo: Repo = None,
    base: Base = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make one picture with a checkpoint; every occurrence of its trigger in the prompt is protected."""
    settings = Settings.read(repo=repo, base=base, device=device)
    catalog = load_catalog(settings)
    chosen = catalog.by_id(checkpoint)
    spans = [Span(at, at + len(t), "trigger", chosen.id) for t in chosen.triggers[:1] if (at := prompt.find(t)) >= 0]
    if chosen.triggers and not spans:
        note(f"The prompt does not contain the trigger {chosen.triggers[0]!r}; only the start token is protected.")
    job = Job(prompt, negative, tuple(spans), ((chosen, chosen.weight),), seed, steps, guidance)
    last = finished(new_engine(settings, catalog), job, (known_precision(precision),))[0]
    save(last, out)
    report({"file": str(out), "precision": last.variant, "seed": seed, "memory": memory_json(last)}, as_json, pretty)


@app.command()
def compare(
    request: str,
    precision: Annotated[str, typer.Option(help="The precision beside the reference.")] = "taq-w8a8",
    answer: Annotated[str | None, typer.Option(help="Reply to the clarifying question.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the two PNG files.")] = Path("outputs"),
    seed: Seed = 0,
    steps: Steps = 20,
    guidance: Guidance = 3.5,
    repo: Repo = None,
    base: Base = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Select a checkpoint, then make its picture at full precision and quantised, from the same noise."""
    from personalq.backend.compare import psnr

    settings = Settings.read(repo=repo, base=base, device=device)
    catalog = load_catalog(settings)
    right = known_precision(precision)
    decision = decide(settings, catalog, request, None, answer)
    if not isinstance(decision, Selection):
        raise RequestError(f"{decision_text(decision)}\nNothing was generated: name one with --answer or reword it.")
    loads = tuple((c, c.weight) for c in decision.checkpoints)
    job = Job(decision.prompt, spans=decision.spans, checkpoints=loads, seed=seed, steps=steps, guidance=guidance)
    frames = finished(new_engine(settings, catalog), job, ("reference", right))
    out.mkdir(parents=True, exist_ok=True)
    files = [save(frame, out / f"{frame.variant}.png") for frame in frames]
    between = psnr(*(frame.image for frame in frames if frame.image))
    result = {
        "prompt": decision.prompt,
        "checkpoints": [c.id for c in decision.checkpoints],
        "files": files,
        "memory": {frame.variant: memory_json(frame) for frame in frames},
        "psnr": None if math.isinf(between) else between,
    }
    report(result, as_json, pretty)


@app.command()
def index(
    repository: Annotated[Path, typer.Argument(help=SOURCES)],
    vectors: Annotated[bool, typer.Option(help="Also compute the sentence vectors that `select` needs.")] = True,
    as_json: AsJson = False,
) -> None:
    """Read every checkpoint of a repository and save the index; what has not changed is not read again."""
    settings = Settings.read(repo=repository)
    catalog = load_catalog(settings)
    if vectors and catalog.checkpoints:
        from personalq.checkin.dialogue import CheckIn
        from personalq.checkin.stores.choose import configured

        with Bar() as bar:
            CheckIn(
                catalog.checkpoints,
                cache=settings.cache,
                on_progress=bar.tell,
                encoder=settings.encoder,
                store=configured(settings),
            )
    result = {
        "checkpoints": [
            {"id": c.id, "name": c.name, "kind": c.kind, "triggers": c.triggers} for c in catalog.checkpoints
        ],
        "bases": [str(path) for path in catalog.bases],
        "problems": [{"path": problem.place, "reason": problem.reason} for problem in catalog.problems],
        "summary": vars(catalog.tally) | {"checkpoints": len(catalog.checkpoints), "problems": len(catalog.problems)},
    }
    report(result, as_json, lambda _: index_text(catalog))


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
    each: Annotated[int, typer.Option(min=1, help="Pictures of every concept and precision.")] = 4,
    steps: Steps = 20,
    as_json: AsJson = False,
) -> None:
    """Every precision on the embedded model: stored bytes, PSNR, probe identity and scene, same seeds."""
    from personalq.bench.quantization import quantization
    from personalq.bench.report import table

    settings = Settings.read(repo=repo, device=device)
    catalog = load_catalog(settings)
    engine = new_engine(settings, catalog)
    with Bar() as bar:
        result = quantization(engine, settings.repo, catalog.checkpoints, each, steps, bar.tell)
    report(result, as_json, lambda r: f"{r['device']}, {r['n']} pictures a row\n\n{table(r['rows'])}")


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


# --- from settings to objects ------------------------------------------------------------------


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


def new_engine(settings: Settings, catalog: Catalog) -> Engine:
    """An engine on the base that was asked for, or on the repository's own."""
    from personalq.backend.engine import Engine

    if settings.base is None and len(catalog.bases) != 1:
        found = ", ".join(str(path) for path in catalog.bases) or "none"
        raise SettingsError(
            f"{settings.repo} holds {len(catalog.bases)} base models ({found}): choose one with --base."
        )
    return Engine(settings.base or catalog.bases[0], settings.device)


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


def save(frame: Frame, path: Path) -> str:
    """Write the frame's picture as PNG; its path as text."""
    if frame.image is None:
        raise SettingsError("The last frame carries no picture.")
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.image.save(path, format="PNG")
    return str(path)


# --- from objects to text ----------------------------------------------------------------------


class Bar:
    """One progress bar on stderr, made when there is something to show."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def tell(self, done: int, total: int, what: str) -> None:
        """`done` of `total`, and what is being worked on."""
        if self.bar is None:
            self.bar = tqdm(total=total, file=sys.stderr, leave=False, mininterval=0.5)
        self.bar.set_description_str(what, refresh=False)
        if self.bar.total != total:  # Another stage, whose pace says nothing of the one before.
            self.bar.reset(total)
        self.bar.update(done - self.bar.n)


def note(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def report(result: dict[str, Any], as_json: bool, text: Callable[[dict[str, Any]], str]) -> None:
    """The result on stdout, as one JSON object or as text."""
    typer.echo(json.dumps(result, ensure_ascii=False, default=str) if as_json else text(result))


def pretty(result: dict[str, Any]) -> str:
    """The result as indented JSON, for people."""
    return json.dumps(result, indent=2, ensure_ascii=False, default=str)


def index_text(catalog: Catalog) -> str:
    """A line for every checkpoint, then how many there are and what had to be read."""
    lines = [f"{c.id}  {c.kind}  {', '.join(c.triggers[:3]) or '-'}  {c.name}" for c in catalog.checkpoints]
    tally = catalog.tally
    lines.append(
        f"{len(catalog.checkpoints)} checkpoints, {len(catalog.problems)} problems; "
        f"{tally.entries} entries: {tally.new} new, {tally.reread} read again, {tally.gone} gone."
    )
    return "\n".join(lines)


def decision_json(decision: Decision) -> dict[str, Any]:
    """The documented object: outcome, checkpoints, prompt, spans, question, candidates, timings."""
    selected = decision if isinstance(decision, Selection) else None
    asked = decision if isinstance(decision, Question) else None
    outcome = "selection" if selected else "question" if asked else "no_match"
    options = [{"label": option.label, "ids": list(option.checkpoint_ids)} for option in asked.options] if asked else []
    return {
        "outcome": outcome,
        "checkpoints": [c.id for c in selected.checkpoints] if selected else [],
        "prompt": selected.prompt if selected else None,
        "spans": [{"start": s.start, "end": s.end, "role": s.role, "id": s.id} for s in selected.spans]
        if selected
        else [],
        "question": {"text": asked.text, "options": options} if asked else None,
        "why": "" if isinstance(decision, Question) else decision.why,
        "warnings": list(selected.warnings) if selected else [],
        "nearest": [c.checkpoint.id for c in decision.nearest] if isinstance(decision, NoMatch) else [],
        "candidates": [candidate_json(candidate) for candidate in decision.candidates],
        "remarks": list(decision.remarks),
        "timings_ms": decision.timings_ms,
    }


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """One candidate with all its scores."""
    return {
        "id": candidate.checkpoint.id,
        "lexical": candidate.lexical,
        "dense": candidate.dense,
        "fused": candidate.fused,
        "rerank": candidate.rerank,
        "probability": candidate.probability,
        "reason": candidate.reason,
    }


def decision_text(decision: Decision) -> str:
    """The decision for people."""
    if isinstance(decision, Selection):
        names = ", ".join(c.name or c.id for c in decision.checkpoints)
        return "\n".join([f"{names} ({decision.why})", decision.prompt, *decision.warnings, *decision.remarks])
    if isinstance(decision, Question):
        options = [f"  {k}. {option.label}" for k, option in enumerate(decision.options, 1)]
        return "\n".join([decision.text, *options, *decision.remarks])
    return "\n".join([f"No match: {decision.why}", *decision.remarks])


def memory_json(frame: Frame) -> dict[str, Any] | None:
    """The frame's memory reading as an object."""
    return dict(vars(frame.memory)) if frame.memory else None


def main() -> None:
    """Run the command line; every error of ours becomes one line on stderr and exit status 1."""
    try:
        app(standalone_mode=True)
    except PersonalQError as error:
        note(f"error: {error}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
