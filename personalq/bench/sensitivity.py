"""Where a denoiser cannot bear four bits: one kind of place in one block and third of the steps, all else exact.

Errors are taken along the reference's own trajectory, so that those of one step do not hide those of the next; what
they add up to in finished pictures is measured apart. Which text rows are fragile is the affair of `token_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, groupby
from pathlib import Path
from typing import Any

import torch

from personalq.backend.engine import Engine, Session
from personalq.bench.intervals import Clusters
from personalq.bench.judged import Judged, concept_trials, plain_prompt
from personalq.bench.points import THIRDS, Answer, Asked, points_of
from personalq.bench.probe import Probe, load_probe
from personalq.bench.report import device_line, table
from personalq.bench.sites import KINDS, ROUNDED, rounding, sites, switched
from personalq.bench.thirds import pictures_of, pictures_summed, plans
from personalq.bench.token_rows import calls, token_rows
from personalq.diffusion.load import denoiser
from personalq.errors import BenchError
from personalq.records import Checkpoint

Row = dict[str, Any]
Progress = Callable[[int, int, str], None]


def sensitivity(
    engine: Engine,
    repo: Path,
    checkpoints: tuple[Checkpoint, ...],
    prompts: int = 2,
    per_third: int = 2,
    steps: int = 20,
    on_progress: Progress | None = None,
    *,
    pictures: bool = False,
) -> dict[str, Any]:
    """Errors of the prediction and of what the trigger adds to it, by kind, block and third, and by text row.

    `maps[weights or activations][part][kind][block]` is a relative error for each third, the mean over concepts, or
    null where a block has no such place. `rows` is what `token_rows` finds, `direction` the size of what the trigger
    adds against the prediction's own. With `pictures` each kind is rounded in all blocks for one third of the steps,
    and finished pictures are compared. An engine in float32 keeps its own type's rounding out of the errors.
    Concepts without a trigger are left out. Raises BenchError when none is left, and what the engine raises.
    """
    judged = Judged.read(repo)
    asked = []
    for exam in concept_trials(judged, checkpoints, prompts, 1, steps):
        noun = judged.concepts[exam.job.checkpoints[0][0].id]["noun"]
        if plain := plain_prompt(exam, noun):
            asked.append(Asked(exam, plain, noun))
    if not asked:
        raise BenchError("None of the checkpoints has a trigger and is one that this repository's probe can name.")
    probe = load_probe(repo / "recipe" / "probe.safetensors") if pictures else None
    groups = [list(group) for _, group in groupby(asked, key=lambda each: each.exam.job.checkpoints)]
    found: dict[str, Row] = {}
    for index, group in enumerate(groups):
        concept = group[0].exam.job.checkpoints[0][0].id

        def tell(done: int, of: int, index: int = index, concept: str = concept) -> None:
            if on_progress:
                on_progress(index * of + done, len(groups) * of, concept)

        with engine.hold(group[0].exam.job, "reference") as session:
            found[concept] = one_concept(session, group, per_third, probe, tell)
    return summed(engine, found) | {"prompts": prompts, "per_third": per_third, "steps": steps}


@torch.no_grad()
def one_concept(
    session: Session, asked: Sequence[Asked], per_third: int, probe: Probe | None, tell: Callable[[int, int], None]
) -> Row:
    """All errors of one concept; `tell` is given how many of its answers and pictures are there, and of how many."""
    pipe, ticks = session.pipe, count(1)
    with switched(denoiser(pipe)) as attention:
        places = sites(denoiser(pipe), attention)
        of = len(ROUNDED) * len(places) + calls() + (len(plans(places)) if probe else 0)

        def tick() -> None:
            tell(next(ticks), of)

        points = points_of(session, asked, per_third)
        before = points.answer(pipe)
        errors: Row = {rounded: {} for rounded in ROUNDED}
        for rounded, what in ROUNDED.items():
            for place, site in places.items():
                if site.layers or rounded == "activations":
                    with rounding([site], *what):
                        errors[rounded][place] = points.errors(points.answer(pipe), before)
                tick()
        inside = [points.third == third for third in range(len(THIRDS))]
        return {
            "direction": [float(before.concept[at].norm() / before.prediction[at].norm()) for at in inside],
            "errors": errors,
            "rows": token_rows(session, asked, points, attention, tick),
            "pictures": pictures_of(session, asked, places, probe, tick) if probe else None,
        }


# --- all concepts ------------------------------------------------------------------------------


def summed(engine: Engine, found: Mapping[str, Row]) -> dict[str, Any]:
    """The concepts' errors as means, those of text rows with intervals."""
    rows = list(found.values())
    blocks = list(dict.fromkeys(block for row in rows for places in row["errors"].values() for _, block in places))
    return {
        "device": device_line(engine.device),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "concepts": list(found),
        "kinds": list(KINDS),
        "blocks": in_order(blocks),
        "thirds": list(THIRDS),
        "direction": [_mean([row["direction"][third] for row in rows]) for third in range(len(THIRDS))],
        "maps": {
            rounded: {
                part: [[_cell(rows, rounded, (kind, block), part) for block in in_order(blocks)] for kind in KINDS]
                for part in Answer._fields
            }
            for rounded in ROUNDED
        },
        "rows": rows_summed([row["rows"] for row in rows]),
        "pictures": pictures_summed([row["pictures"] or [] for row in rows]),
    }


def in_order(blocks: Sequence[str]) -> list[str]:
    """Blocks as a picture passes through them."""
    return sorted(blocks, key=lambda block: (("down", "mid", "up").index(block.split()[0]), block))


def _cell(rows: Sequence[Row], rounded: str, place: tuple[str, str], part: str) -> list[float] | None:
    held = [row["errors"][rounded][place][part] for row in rows if place in row["errors"][rounded]]
    return [_mean([each[third] for each in held]) for third in range(len(THIRDS))] if held else None


def rows_summed(rows: Sequence[Row]) -> list[Row]:
    """One line for each class of text rows, change and part: rounded alone, and all rounded but it."""
    names = list(dict.fromkeys(name for row in rows for name in row["count"]))
    found = []
    for change in rows[0]["errors"]:
        for name in ("all", *names):
            held = [row for row in rows if name == "all" or name in row["count"]]
            for part in Answer._fields:
                whole = [row["errors"][change]["all"][part] for row in held]
                line: Row = {"rows": name, "change": change, "part": part, "concepts": len(held)}
                line["all"] = _mean(whole)
                if name != "all":
                    clusters = Clusters(range(len(held)))
                    alone = [row["errors"][change][name]["alone"][part] for row in held]
                    others = [row["errors"][change][name]["others"][part] for row in held]
                    saved = clusters.mean([1 - other / all for other, all in zip(others, whole, strict=True)])
                    line |= {
                        "count": _mean([row["count"][name] for row in held]),
                        "mass": _mean([row["mass"][name] for row in held]),
                        "alone": _mean(alone),
                        "others": _mean(others),
                        "saved": {"mean": saved.mean, "low": saved.low, "high": saved.high},
                    }
                found.append(line)
    return found


def as_text(result: Mapping[str, Any]) -> str:
    """The map as tables, the worst places first; then the text rows."""
    lines = [
        f"{result['device']}, {result['dtype']}; {len(result['concepts'])} concepts, {result['prompts']} prompts each",
        "What the trigger adds, against the prediction: "
        + ", ".join(f"{third} {share:.3f}" for third, share in zip(result["thirds"], result["direction"], strict=True)),
    ]
    for rounded in result["maps"]:
        lines += ["", f"Four-bit {rounded}, relative error of prediction | of what the trigger adds (worst block)", ""]
        lines.append(table(list(_worst(result, rounded))))
    lines += ["", "Text rows: all rounded, this class alone, all but this class; of what the trigger adds", ""]
    lines.append(table([_line(line) for line in result["rows"] if line["part"] == "concept" and line["rows"] != "all"]))
    if result["pictures"]:
        lines += ["", "Finished pictures, one kind in all blocks during one third of the steps", ""]
        lines.append(table(result["pictures"]))
    return "\n".join(lines)


def _worst(result: Mapping[str, Any], rounded: str) -> Iterator[dict[str, object]]:
    for place, kind in enumerate(result["kinds"]):
        row: dict[str, object] = {"kind": kind}
        for part in Answer._fields:
            cells = [
                each for each in zip(result["blocks"], result["maps"][rounded][part][place], strict=True) if each[1]
            ]
            for number, third in enumerate(result["thirds"]):
                block, cell = max(cells, key=lambda each: each[1][number], default=("", None))
                row[f"{part}, {third}"] = f"{cell[number]:.3f} ({block})" if cell else "–"
        if any(value != "–" for key, value in row.items() if key != "kind"):
            yield row


def _line(line: Mapping[str, Any]) -> dict[str, object]:
    saved = line["saved"]
    return {
        "change": line["change"],
        "rows": line["rows"],
        "number": line["count"],
        "attention": line["mass"],
        "all": line["all"],
        "alone": line["alone"],
        "all but these": line["others"],
        "saved": f"{saved['mean']:.3f} [{saved['low']:.3f}, {saved['high']:.3f}]",
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
