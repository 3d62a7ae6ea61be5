"""Draws what the trained model draws: every concept's preview, and the two grids people judge it by.

PYTHONPATH=. python sample_repo/recipe/previews.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from personalq.backend.engine import Engine
from personalq.bench.judged import Exam, Judged, base_exams, concept_exams
from personalq.bench.sample import picture
from personalq.catalog.scan import scan
from personalq.records import Checkpoint

REPO = Path(__file__).parent.parent
ASSETS = REPO.parent / "assets"
SIDE = 96


def grid(rows: list[list[Image.Image]]) -> Image.Image:
    """The pictures side by side, row under row."""
    sheet = Image.new("RGB", (SIDE * len(rows[0]), SIDE * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (SIDE * x, SIDE * y))
    return sheet


def preview_path(checkpoint: Checkpoint) -> Path:
    """Where artists' tools look for it: beside the weights, or in the model's folder."""
    weights = Path(checkpoint.files[0])
    generic = weights.stem in ("pytorch_lora_weights", "diffusion_pytorch_model")
    folder = weights.parent.parent if weights.parent.name == "unet" else weights.parent
    return folder / ("preview.png" if generic else f"{weights.stem}.preview.png")


def main() -> None:
    """Write previews beside the concepts and `sample_grid.png`, `concept_grid.png` into assets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    judged, catalog = Judged.read(REPO), scan(REPO)
    engine = Engine(REPO / "bases" / "tiny-sd")
    checkpoints = tuple(c for c in catalog.checkpoints if c.id in judged.concepts)

    rows = []
    exams = list(concept_exams(judged, checkpoints, 6, args.steps))
    for index, checkpoint in enumerate(tqdm(checkpoints, desc="concepts")):
        mine = [picture(engine, exam) for exam in exams[6 * index : 6 * index + 6]]
        mine[0].save(preview_path(checkpoint), optimize=True)
        rows.append(mine)
    half = (len(rows) + 1) // 2
    blank = [Image.new("RGB", (SIDE, SIDE), "white")] * 6
    sides = [left + right for left, right in zip(rows[:half], [*rows[half:], blank][:half], strict=True)]
    grid(sides).save(ASSETS / "concept_grid.png", optimize=True)

    base: list[Exam] = list(base_exams(judged, 1, args.steps))
    across = len(judged.places)
    drawn = [picture(engine, exam) for exam in tqdm(base, desc="base")]
    grid([drawn[i : i + across] for i in range(0, len(drawn), across)]).save(ASSETS / "sample_grid.png", optimize=True)


if __name__ == "__main__":
    main()
