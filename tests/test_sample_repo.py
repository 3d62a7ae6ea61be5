"""The embedded repository is complete, small, and in the formats artists really hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from personalq.bench.judged import Judged, probe_accuracy
from personalq.bench.probe import load_probe
from personalq.catalog.scan import Catalog, scan
from personalq.settings import SAMPLE_REPO


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return scan(SAMPLE_REPO)


def test_it_is_under_sixty_megabytes() -> None:
    files = [
        p for p in SAMPLE_REPO.rglob("*") if p.is_file() and "runs" not in p.parts and "__pycache__" not in p.parts
    ]
    assert sum(p.stat().st_size for p in files) < 60_000_000


def test_every_file_is_read_without_a_problem(catalog: Catalog) -> None:
    assert catalog.problems == ()
    assert [path.name for path in catalog.bases] == ["tiny-sd"]
    assert len(catalog.checkpoints) >= 14
    assert {c.base for c in catalog.checkpoints} == {"tiny-sd"}


def test_the_formats_are_mixed(catalog: Catalog) -> None:
    formats = " ".join(c.source_format for c in catalog.checkpoints)
    assert all(name in formats for name in ("card", "kohya", "modelspec", "a1111", "civitai", "embedding"))
    assert {c.kind for c in catalog.checkpoints} == {"lora", "ti", "dreambooth"}


def test_the_hard_cases_are_there(catalog: Catalog) -> None:
    nouns = [c.class_noun for c in catalog.checkpoints]
    assert nouns.count("dog") >= 3
    assert nouns.count("cat") >= 2
    groups = [c.group_id for c in catalog.checkpoints]
    dated = [c for c in catalog.checkpoints if groups.count(c.group_id) == 3]
    assert len({c.created_at for c in dated}) == 3
    assert sum(c.role == "style" for c in catalog.checkpoints) >= 2
    assert sum(not c.triggers for c in catalog.checkpoints) == 1


@pytest.mark.parametrize("folder", sorted((SAMPLE_REPO / "concepts").iterdir()), ids=lambda p: p.name)
def test_every_concept_has_preview_licence_and_training_pictures(folder: Path, catalog: Catalog) -> None:
    checkpoint = catalog.by_id(folder.name)
    assert checkpoint.license
    assert checkpoint.license.lower() == "apache-2.0"
    assert checkpoint.preview is not None
    with Image.open(checkpoint.preview) as preview:
        assert preview.size == (96, 96)
        assert np.asarray(preview).std() > 10
    assert len(list((folder / "training").glob("*.png"))) in (5, 6)


def test_the_base_loads_unchanged_and_its_autoencoder_works_both_ways() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(SAMPLE_REPO / "bases" / "tiny-sd", dtype=torch.float32)
    with Image.open(SAMPLE_REPO / "concepts" / "biscuit-dog" / "training" / "01.png") as picture:
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mean
        drawn = pipe.vae.decode(latents).sample.clamp(-1, 1)
    assert latents.shape == (1, 16, 12, 12)
    assert 10 * torch.log10(4 / (drawn - pixels).pow(2).mean()) > 22


def test_the_probe_names_held_out_pictures() -> None:
    probe = load_probe(SAMPLE_REPO / "recipe" / "probe.safetensors")
    accuracy, count = probe_accuracy(probe, SAMPLE_REPO)
    assert count >= 200
    assert accuracy >= 0.97


def test_what_is_judged_exists(catalog: Catalog) -> None:
    judged = Judged.read(SAMPLE_REPO)
    assert set(judged.concepts) == {c.id for c in catalog.checkpoints}
    labels = json.loads((SAMPLE_REPO / "recipe" / "held_out.json").read_text())
    assert {said["subject"] for said in labels} == set(judged.subjects)
