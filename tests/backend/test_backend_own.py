"""A checkpoint that a visitor adds makes the very pictures that the same weights make from the catalogue."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.catalog.own import added
from personalq.catalog.scan import Catalog, scan
from personalq.errors import IncompatibleCheckpointError
from personalq.records import Checkpoint, Job
from personalq.settings import SAMPLE_REPO

TYPED = {"luna-cat": {"trigger": "lunacat"}, "mint-cat": {"trigger": "mntc cat", "base": "tiny-sd"},
         "clover-dog": {}, "plum-car": {"base": "tiny-sd"}}  # fmt: skip


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return scan(SAMPLE_REPO)


@pytest.fixture(scope="module")
def sample_engine() -> Engine:
    return Engine(SAMPLE_REPO / "bases" / "tiny-sd", "cpu", dtype=torch.float32)


def upload(known: Checkpoint, folder: Path) -> Path:
    """The weights alone, without the files beside them."""
    folder.mkdir()
    return Path(shutil.copy(known.files[0], folder))


def picture(engine: Engine, trigger: str, *checkpoints: Checkpoint) -> bytes:
    job = Job(f"a photo of {trigger}", checkpoints=tuple((each, 1.0) for each in checkpoints), steps=2, seed=7)
    image = list(generate(engine, job, "reference", previews=False))[-1].image
    assert image
    return image.tobytes()


@pytest.mark.parametrize("name", TYPED)
def test_the_same_weights_make_the_same_picture(
    name: str, catalog: Catalog, sample_engine: Engine, tmp_path: Path
) -> None:
    known = catalog.by_id(name)
    own = added(upload(known, tmp_path / "upload"), tmp_path / "own", **TYPED[name])
    assert own.files != known.files and own.weight_sha256 == known.weight_sha256
    assert (own.kind, own.base, own.triggers[0]) == (known.kind, known.base, known.triggers[0])
    own_picture, known_picture, plain = (
        picture(sample_engine, known.triggers[0], *each) for each in ((own,), (known,), ())
    )
    assert own_picture == known_picture != plain


def test_an_own_checkpoint_for_another_base_is_an_error_that_names_both(
    tiny_sd_folder: Path, catalog: Catalog, tmp_path: Path
) -> None:
    own = added(upload(catalog.by_id("clover-dog"), tmp_path / "upload"), tmp_path / "own", base="SD 1.5")
    engine = Engine(tiny_sd_folder, "cpu", dtype=torch.float32)
    with pytest.raises(IncompatibleCheckpointError, match=r"made for SD 1\.5.*tiny-random-sd"):
        list(generate(engine, Job("clvr dog", checkpoints=((own, 1.0),), steps=1), "reference"))
    assert list(generate(engine, replace(Job("clvr dog"), steps=1), "reference"))[-1].image
