"""A grid is the pictures that each weight and precision make alone; a sheet shows every one in its place."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from tiny_pipelines import lora, lora_state

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.backend.grid import cells, sheet
from personalq.errors import GenerationError, QuantizationError
from personalq.records import Checkpoint, Frame, Job

WEIGHTS, PRECISIONS = (0.0, 1.0), ("reference", "taq-w8a8")


@pytest.fixture
def job(tiny_sd_folder: Path, tmp_path: Path) -> Job:
    """A picture with two LoRAs and a batch size that a grid has no use for."""
    one, two = (lora(tmp_path / f"{s}.safetensors", lora_state(tiny_sd_folder, seed=s)) for s in (3, 4))
    return Job("photo of dog", checkpoints=((one, 0.8), (two, 0.25)), steps=2, count=3)


def image(frames: list[Frame]) -> bytes:
    assert frames[-1].image and frames[-1].memory
    return frames[-1].image.tobytes()


def test_each_cell_is_the_picture_of_its_own_job(engine: Engine, job: Job) -> None:
    found: dict[tuple[int, int], list[Frame]] = {}
    for row, column, frame in cells(engine, job, WEIGHTS, PRECISIONS):
        found.setdefault((row, column), []).append(frame)
    assert list(found) == [(row, column) for column in range(2) for row in range(2)], "loading is the outer loop"
    for (row, column), frames in found.items():
        assert [(f.step, f.total, f.index) for f in frames] == [(i, 2, 0) for i in (1, 2)]
        (one, _), two = job.checkpoints
        alone = replace(job, count=1, checkpoints=((one, WEIGHTS[row]), two))
        assert image(frames) == image(list(generate(engine, alone, PRECISIONS[column])))
    assert len({image(frames) for frames in found.values()}) == 4


def test_the_lora_may_be_named(engine: Engine, job: Job) -> None:
    one, (two, _) = job.checkpoints
    frames = [frame for _, _, frame in cells(engine, job, [0.6], ["reference"], checkpoint_id=two.id)]
    alone = replace(job, count=1, checkpoints=(one, (two, 0.6)))
    assert image(frames) == image(list(generate(engine, alone, "reference")))


def test_only_loading_is_told(engine: Engine, job: Job) -> None:
    said: list[str] = []
    loud = cells(engine, job, WEIGHTS, PRECISIONS, on_progress=lambda done, total, what: said.append(what))
    at = {(row, column): len(said) for row, column, _ in loud}
    assert at[0, 0] == at[1, 0] < at[0, 1] == at[1, 1]
    assert said[-1] == "Packing taq-w8a8"


def test_closing_stops_at_once(engine: Engine, job: Job) -> None:
    grid = cells(engine, job, WEIGHTS, PRECISIONS)
    next(grid)
    grid.close()
    assert not engine.is_busy


def test_what_no_grid_can_be_made_of_is_refused_before_anything_is_loaded(engine: Engine, job: Job) -> None:
    def refused(job: Job, weights: tuple[float, ...], precisions: tuple[str, ...], said: str, name: str | None) -> None:
        with pytest.raises(GenerationError, match=said):
            next(cells(engine, job, weights, precisions, checkpoint_id=name))
        assert engine.residence.precision is None

    bare, learned = replace(job, checkpoints=()), Checkpoint("t", kind="ti")
    refused(bare, WEIGHTS, PRECISIONS, "no LoRA", None)
    refused(replace(job, checkpoints=((learned, 1.0),)), WEIGHTS, PRECISIONS, "no LoRA", None)
    refused(job, WEIGHTS, PRECISIONS, "no LoRA elsewhere", "elsewhere")
    refused(job, (0.0,) * 13, PRECISIONS, "no more than 24", None)
    refused(job, (), PRECISIONS, "at least one", None)
    refused(job, WEIGHTS, (), "at least one", None)
    for wild in (math.nan, math.inf, 4.1, -4.1):
        refused(job, (1.0, wild), PRECISIONS, "choose from -4 to 4", None)
    with pytest.raises(QuantizationError, match="choose one of"):
        next(cells(engine, job, WEIGHTS, ("reference", "w2a2")))


# --- the sheet ---------------------------------------------------------------------------------


def places(page: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """The box of all pixels of one colour."""
    mask = Image.new("L", page.size)
    mask.putdata([255 * (pixel == colour) for pixel in page.get_flattened_data()])
    return mask.getbbox()


def test_a_sheet_has_every_picture_whole_and_in_its_place() -> None:
    colours = {(0, 0): (255, 0, 0), (1, 0): (0, 255, 0), (1, 1): (0, 0, 255)}
    pictures = {cell: Image.new("RGB", (60, 40), colour) for cell, colour in colours.items()}
    page = sheet(pictures, (0.5, 1.0), ("Full precision", "TAQ 4-bit"))
    red, green, blue = (places(page, colour) for colour in colours.values())
    assert red and green and blue
    assert all((box[2] - box[0], box[3] - box[1]) == (60, 40) for box in (red, green, blue))
    assert red[0] == green[0] and red[3] < green[1] and green[1] == blue[1] and green[2] < blue[0]
    blank = page.crop((blue[0], red[1], blue[2], red[3]))
    assert set(blank.get_flattened_data()) == {(255, 255, 255)}


def test_labels_are_drawn_beside_the_pictures_and_make_room_for_themselves() -> None:
    black = {(0, 0): Image.new("RGB", (8, 8), (1, 2, 3))}
    narrow, wide = (sheet(black, (1.0,), (label,)) for label in ("A", "A long name of a precision"))
    assert wide.width > narrow.width and wide.height == narrow.height
    box = places(wide, (1, 2, 3))
    assert box
    for part in ((0, 0, wide.width, box[1]), (0, box[1], box[0], wide.height)):
        assert min(level for pixel in wide.crop(part).get_flattened_data() for level in pixel) < 128
    tall = sheet({(0, 0): Image.new("RGB", (512, 512))}, (1.0,), ("A",))
    assert tall.height - 512 > narrow.height - 8, "labels grow with the pictures"


@pytest.mark.parametrize("cell", [None, (1, 0), (0, 1), (-1, 0)])
def test_a_sheet_without_pictures_or_with_strangers_is_refused(cell: tuple[int, int] | None) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        sheet({cell: Image.new("RGB", (8, 8))} if cell else {}, (1.0,), ("A",))
