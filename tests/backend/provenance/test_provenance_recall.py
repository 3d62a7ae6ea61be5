"""From claims to a job: hashes decide, names alone only without them, and what cannot be repeated is said."""

from dataclasses import replace
from typing import Any

import pytest
from picture_data import SHA, picture_data

from personalq.backend.provenance.recall import recalled
from personalq.errors import PictureError
from personalq.records import Checkpoint, Recalled, Span

OTHER = "f" * 64
HERE = Checkpoint("biscuit", "Biscuit", triggers=("zwx",), files=("/models/Biscuit_v1.safetensors",), weight_sha256=SHA)
PRECISIONS = ("reference", "taq-w8a8")


def recall(*here: Checkpoint, base: str | None = "tiny-sd", **changes: Any) -> Recalled:
    return recalled(picture_data(**changes), {c.id: c for c in here}, PRECISIONS, base)


def concept(**changes: Any) -> list[dict[str, Any]]:
    return [{**picture_data()["concepts"][0], **changes}]


def test_the_same_file_gives_the_same_job() -> None:
    found = recall(HERE)
    assert (found.missing, found.remarks, found.precision) == ((), (), "taq-w8a8")
    job = found.job
    assert job.checkpoints == ((HERE, 0.8),) and job.spans == (Span(9, 12, "trigger", "biscuit"),)
    assert (job.prompt, job.negative, job.seed, job.steps, job.guidance) == ("photo of zwx dog", "blur", 7, 4, 3.5)
    assert (job.width, job.height, job.count, job.protect) == (16, 16, 1, None)


@pytest.mark.parametrize("digest", [SHA, SHA[:10], SHA[:12].upper()])
def test_a_hash_finds_a_file_of_another_name_and_spans_follow(digest: str) -> None:
    renamed = replace(HERE, id="my-dog", files=("/models/dog.safetensors",))
    impostor = replace(HERE, weight_sha256=OTHER)
    found = recall(impostor, renamed, concepts=concept(sha256=digest))
    assert [c.id for c, _ in found.job.checkpoints] == ["my-dog"]
    assert found.job.spans[0].id == "my-dog" and found.missing == ()


def test_the_web_uis_own_hash_of_a_lora_finds_it_too() -> None:
    found = recall(replace(HERE, id="x", weight_sha256=OTHER, tensors_sha256=SHA), concepts=concept(sha256=SHA[:12]))
    assert [c.id for c, _ in found.job.checkpoints] == ["x"]


def test_of_two_copies_that_of_the_name_is_taken() -> None:
    found = recall(replace(HERE, id="a-copy", files=()), HERE)
    assert [c.id for c, _ in found.job.checkpoints] == ["biscuit"]


@pytest.mark.parametrize(
    ("here", "digest", "why"),
    [
        (replace(HERE, weight_sha256=OTHER), SHA, "another one"),
        (replace(HERE, weight_sha256=None), SHA, "not known"),
        (HERE, "a1b2c3d4e5f6", "not known"),
        (replace(HERE, tensors_sha256=OTHER), "a1b2c3d4e5f6", "another one"),
        (HERE, SHA[:8], "too many files share"),
    ],
)
def test_a_name_does_not_stand_against_a_hash(here: Checkpoint, digest: str, why: str) -> None:
    found = recall(here, concepts=concept(sha256=digest))
    assert found.job.checkpoints == () and found.job.spans == ()
    assert digest in found.missing[0] and "Biscuit" in found.missing[0]
    assert len(found.remarks) == 1 and why in found.remarks[0]


def test_two_files_behind_one_short_hash_are_not_guessed() -> None:
    found = recall(HERE, replace(HERE, id="b", weight_sha256=SHA[:10] + OTHER[10:]), concepts=concept(sha256=SHA[:10]))
    assert found.job.checkpoints == () and "2 checkpoints" in found.remarks[0]


@pytest.mark.parametrize("name", ["biscuit", "Biscuit_v1"])
def test_without_any_hash_the_exact_name_counts_and_is_remarked(name: str) -> None:
    found = recall(HERE, concepts=concept(id=name, sha256=None))
    assert found.job.checkpoints == ((HERE, 0.8),)
    assert "by its name alone" in found.remarks[0]


def test_names_that_several_files_share_or_that_say_nothing_find_none() -> None:
    twins = (replace(HERE, id="a"), replace(HERE, id="b"))
    found = recall(*twins, concepts=concept(id="Biscuit_v1", sha256=None))
    assert found.job.checkpoints == () and "2 checkpoints" in found.remarks[0]
    plain = replace(HERE, files=("/x/pytorch_lora_weights.safetensors",))
    assert recall(plain, concepts=concept(id="pytorch_lora_weights", sha256=None)).job.checkpoints == ()
    assert recall(HERE, concepts=concept(kind="ti", sha256=None)).job.checkpoints == ()
    assert "no hash" in recall(concepts=concept(sha256=None)).missing[0]


def test_what_is_never_loaded_is_not_used() -> None:
    found = recall(replace(HERE, loadable=False))
    assert found.job.checkpoints == () and "never loaded" in found.remarks[0] and SHA in found.missing[0]


def test_a_weight_that_is_not_told_is_the_authors() -> None:
    found = recall(replace(HERE, weight=0.65), concepts=concept(weight=None))
    assert found.job.checkpoints[0][1] == 0.65


def test_text_of_other_programs_gets_its_triggers_marked() -> None:
    found = recall(HERE, source="a1111", spans=None)
    assert found.job.spans == (Span(9, 12, "trigger", "biscuit"),)
    assert "emphasis" in found.remarks[0]
    assert recall(HERE, spans=[]).job.spans == ()


def test_another_base_is_remarked_and_the_same_under_another_spelling_is_not() -> None:
    assert "SD 2.1" in recall(HERE, base="SD 2.1").remarks[0]
    base = {"name": "v1-5-pruned-emaonly", "sha256": None}
    data = picture_data(base=base)
    assert recalled(data, {"biscuit": HERE}, PRECISIONS, "stable-diffusion-v1-5").remarks == ()
    assert recalled(data, {"biscuit": HERE}, PRECISIONS, None).remarks == ()


def test_a_whole_model_of_another_program_is_found_by_its_hash() -> None:
    whole = Checkpoint("dreams", kind="dreambooth", weight_sha256=OTHER)
    data = picture_data(source="a1111", base={"name": "anything", "sha256": OTHER[:10]})
    found = recalled(data, {"dreams": whole, "biscuit": HERE}, PRECISIONS, "tiny-sd")
    assert [c.id for c, _ in found.job.checkpoints] == ["biscuit", "dreams"]
    assert not [remark for remark in found.remarks if "base" in remark]


def test_numbers_are_brought_within_a_jobs_limits_and_that_is_said() -> None:
    found = recall(HERE, steps=5000, guidance=99.0, precision="int2", seed="x")
    assert (found.job.steps, found.job.guidance, found.job.seed, found.precision) == (200, 30.0, 0, None)
    assert len(found.remarks) == 4
    missing = recall(HERE, steps=None, guidance="?", width=0, height=-8)
    assert (missing.job.steps, missing.job.guidance, missing.job.width, missing.job.height) == (20, 3.5, None, None)


def test_the_rows_that_were_chosen_come_back() -> None:
    def protect(chosen: object) -> object:
        return recall(HERE, protect={"chosen": chosen}).job.protect

    assert protect(["trigger", "noun", "bogus", 3]) == ("trigger", "noun")
    assert (protect([]), protect(None), protect("trigger")) == ((), None, None)


def test_what_a_browser_kept_is_not_trusted() -> None:
    for data in (None, [], {"concepts": []}, {"prompt": None}):
        with pytest.raises(PictureError):
            recalled(data, {}, PRECISIONS, None)
    concepts = [None, 3, {"id": [], "sha256": {}, "weight": float("nan")}] * 100
    found = recalled({"prompt": "x", "concepts": concepts, "spans": [{"start": 10**30}]}, {"b": HERE}, (), None)
    assert found.job.checkpoints == () and found.job.spans == ()
