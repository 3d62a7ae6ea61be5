"""The commands that use PersonalQ: select, generate, compare, recall, quantize, index. The packages do the work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from personalq.cli.build import decide, finished, known_precision, load_catalog, new_engine
from personalq.cli.options import (
    SOURCES,
    AsJson,
    Base,
    Device,
    Guidance,
    LlmModel,
    LlmProvider,
    LlmUrl,
    Quantized,
    Repo,
    RerankerName,
    Seed,
    Steps,
)
from personalq.cli.show import (
    Bar,
    decision_json,
    decision_text,
    free_paths,
    index_text,
    memory_json,
    note,
    pretty,
    recalled_text,
    report,
    save,
)
from personalq.errors import RequestError, SettingsError
from personalq.records import Job, Selection, Span
from personalq.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Select, quantise and serve personal checkpoints.")


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
    quantized: Quantized = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make one picture with a checkpoint; every occurrence of its trigger in the prompt is protected."""
    from personalq.backend.provenance.metadata import check_place

    if not prompt.strip():
        raise RequestError("The prompt is empty; describe the picture you want.")
    settings = Settings.read(repo=repo, base=base, device=device)
    catalog = load_catalog(settings)
    chosen = catalog.by_id(checkpoint)
    spans = [Span(at, at + len(t), "trigger", chosen.id) for t in chosen.triggers[:1] if (at := prompt.find(t)) >= 0]
    if chosen.triggers and not spans:
        note(f"The prompt does not contain the trigger {chosen.triggers[0]!r}; only the start token is protected.")
    job = Job(prompt, negative, tuple(spans), ((chosen, chosen.weight),), seed, steps, guidance)
    engine, wanted = new_engine(settings, catalog, quantized), known_precision(precision)
    check_place(out)
    last = finished(engine, job, (wanted,))[0]
    save(engine, job, last, out)
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
    quantized: Quantized = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Select a checkpoint, then make its picture at full precision and quantised, from the same noise."""
    from personalq.backend.compare import psnr
    from personalq.backend.provenance.metadata import check_place

    settings = Settings.read(repo=repo, base=base, device=device)
    catalog = load_catalog(settings)
    right = known_precision(precision)
    if right == "reference":
        raise SettingsError("Full precision is one of the two already: name another --precision, such as taq-w8a8.")
    decision = decide(settings, catalog, request, None, answer)
    if not isinstance(decision, Selection):
        raise RequestError(f"{decision_text(decision)}\nNothing was generated: name one with --answer or reword it.")
    loads = tuple((c, c.weight) for c in decision.checkpoints)
    job = Job(decision.prompt, spans=decision.spans, checkpoints=loads, seed=seed, steps=steps, guidance=guidance)
    engine = new_engine(settings, catalog, quantized)
    paths = free_paths(out, job, ("reference", right))
    check_place(paths[0])
    frames = finished(engine, job, ("reference", right))
    files = [save(engine, job, frame, path) for frame, path in zip(frames, paths, strict=True)]
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
def recall(
    picture: Annotated[Path, typer.Argument(help="A PNG file of PersonalQ or AUTOMATIC1111's web UI.")],
    repo: Repo = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Tell how a picture was made, and which of its checkpoints are here: by their hashes, not their names."""
    from personalq.backend.provenance.metadata import read_png
    from personalq.backend.provenance.recall import recalled
    from personalq.quant.recipe import RECIPES

    data = read_png(picture)
    settings = Settings.read(repo=repo, base=base)
    catalog = load_catalog(settings)
    used = settings.base or (catalog.bases[0].name if len(catalog.bases) == 1 else None)
    here = {checkpoint.id: checkpoint for checkpoint in catalog.checkpoints}
    found = recalled(data, here, ("reference", *RECIPES), used)
    result = {
        "made": data,
        "precision": found.precision,
        "checkpoints": [{"id": checkpoint.id, "weight": weight} for checkpoint, weight in found.job.checkpoints],
        "missing": list(found.missing),
        "remarks": list(found.remarks),
    }
    report(result, as_json, lambda _: recalled_text(data, found))


@app.command()
def quantize(
    out: Annotated[Path, typer.Argument(help="Folder for the quantised denoiser.")],
    precision: Annotated[str, typer.Option(help="taq-w8a8, taq-w4a8, rtn-w8a8, rtn-w4a8 or nf4.")] = "taq-w4a8",
    captions: Annotated[Path | None, typer.Option(help="Captions to calibrate on, one a line.")] = None,
    method: Annotated[str | None, typer.Option(help="How weights are rounded: gptq or adaround.")] = None,
    merge: Annotated[
        list[str] | None, typer.Option(help="Id of a LoRA to fold in first, instead of calibrating.")
    ] = None,
    repo: Repo = None,
    base: Base = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Quantise a base to what its layers see on captions, half of them with triggers, and store it.

    The same command goes on where it was stopped. Without a file the captions are the repository's own.
    """
    from personalq.backend import merging
    from personalq.backend.calibration import as_text, calibrate_base
    from personalq.backend.captions import file_captions, repository_captions
    from personalq.quant.calibrate import DEFAULT
    from personalq.quant.recipe import recipe_named

    settings = Settings.read(repo=repo, base=base, device=device)
    catalog = load_catalog(settings)
    recipe = recipe_named(precision)
    if merge:
        chosen = [catalog.by_id(id_) for id_ in merge]
        with Bar() as bar:
            engine = new_engine(settings, catalog)
            result = merging.merge_base(engine, recipe, out, [(c, c.weight) for c in chosen], bar.tell)
        report(result, as_json, merging.as_text)
        return
    jobs = (
        file_captions(captions, catalog.checkpoints)
        if captions
        else repository_captions(settings.repo, catalog.checkpoints)
    )
    with Bar() as bar:
        engine = new_engine(settings, catalog)
        result = calibrate_base(engine, recipe, out, jobs, method=method or DEFAULT, on_progress=bar.tell)
    report(result, as_json, as_text)


@app.command()
def index(
    repository: Annotated[str, typer.Argument(help=SOURCES)],
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
            {"id": c.id, "name": c.name, "kind": c.kind, "triggers": c.triggers, "loadable": c.loadable}
            for c in catalog.checkpoints
        ],
        "bases": [str(path) for path in catalog.bases],
        "problems": [{"path": problem.place, "reason": problem.reason} for problem in catalog.problems],
        "summary": vars(catalog.tally) | {"checkpoints": len(catalog.checkpoints), "problems": len(catalog.problems)},
    }
    report(result, as_json, lambda _: index_text(catalog))
