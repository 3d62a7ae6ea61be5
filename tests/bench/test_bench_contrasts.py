"""Each row meets the control that differs from it in one thing, and a difference is found where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from personalq.bench.contrasts import MEASURES, contrasts, control, summary
from personalq.bench.intervals import Clusters

CONCEPTS = [f"concept {number // 4}" for number in range(40)]


def row(name: str, level: str, shift: float = 0.0, noise: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Every measure is the concept's own value, plus `shift`, plus noise."""
    rng = np.random.default_rng(seed)
    own = [int(concept.split()[1]) / 20 for concept in CONCEPTS]
    values = {measure: [value + shift + noise * rng.normal() for value in own] for measure in MEASURES}
    return {"name": name, "level": level, "seconds": 2.0, "values": {"concept": CONCEPTS, **values}}


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("rtn", "taq-w4a4", "rtn-w4a4"),
        ("random", "taq-w4a4", "random-w4a4"),
        ("rtn", "random-w4a4", "rtn-w4a4"),
        ("rtn", "rtn-w4a4", None),
        ("rtn", "taq-w4a4-linear4", "rtn-w4a4-linear4"),
        ("random", "taq-w4a4-linear4", "random-w4a4"),
        ("rtn", "taq-nf4", "rtn-nf4"),
        ("random", "taq-nf4", None),
        ("rtn", "taq+seg-w4a4", "rtn+seg-w4a4"),
        ("rtn", "rtn+seg-w4a4", "rtn-w4a4"),
        ("random", "taq+seg-w4a4", "random-w4a4"),
        ("rtn", "taq+start-w4a4", "rtn-w4a4"),
        ("rtn", "nf4", None),
        ("nf4", "taq-w4a4", "nf4"),
        ("nf4", "nf4", None),
        ("reference", "nf4", "reference"),
        ("reference", "reference", None),
        ("nf4", "reference", None),
        ("rtn", "reference", None),
        ("rtn", "taq-w8a8", None),
    ],
)
def test_the_control_differs_in_one_thing(kind: str, name: str, found: str | None) -> None:
    levels = {"taq-nf4": "w4a16", "rtn-nf4": "w4a16", "nf4": "w4a16", "reference": "w16a16", "taq-w8a8": "w8a8"}
    w4a4 = ("taq-w4a4", "random-w4a4", "rtn-w4a4", "taq-w4a4-linear4", "rtn-w4a4-linear4")
    w4a4 += ("taq+seg-w4a4", "rtn+seg-w4a4", "taq+start-w4a4")
    rows = {each: row(each, level) for each, level in (levels | dict.fromkeys(w4a4, "w4a4")).items()}
    assert control(kind, name, rows) == found


def test_a_gain_in_every_concept_is_significant_and_noise_is_not() -> None:
    rows = {
        each["name"]: each
        for each in (
            row("reference", "w16a16"),
            row("rtn-w4a4", "w4a4", -0.3),
            row("taq-w4a4", "w4a4", -0.1, 0.05, seed=1),
            row("random-w4a4", "w4a4", -0.3, 0.05, seed=2),
        )
    }
    found = {(c["row"], c["against"], c["measure"]): c for c in contrasts(rows, Clusters(CONCEPTS))}
    gain = found["taq-w4a4", "rtn-w4a4", "identity"]
    assert gain["significant"]
    assert gain["mean"] == pytest.approx(0.2, abs=0.03)
    assert gain["low"] > 0.1
    assert gain["p_holm"] >= gain["p"] == pytest.approx(2 / 2**10, abs=1e-5)
    assert not found["random-w4a4", "rtn-w4a4", "identity"]["significant"]
    assert found["taq-w4a4", "reference", "identity"]["mean"] < 0
    assert ("taq-w4a4", "reference", "psnr") not in found


def test_the_reference_has_no_psnr_and_keeps_all_of_its_identity() -> None:
    reference = row("reference", "w16a16")
    reference["values"]["psnr"] = None
    half = row("taq-w4a4", "w4a4")
    half["values"]["identity"] = [value / 2 for value in reference["values"]["identity"]]
    half["seconds"] = 3.0
    clusters = Clusters(CONCEPTS)
    whole, lost = summary(reference, reference, clusters), summary(half, reference, clusters)
    assert whole["psnr"] is None
    assert whole["identity_kept"]["mean"] == 1.0
    assert (lost["identity_kept"]["low"], lost["identity_kept"]["high"]) == (0.5, 0.5)
    assert lost["seconds_ratio"] == 1.5
    assert lost["by_concept"]["concept 4"] == 0.1
    assert "values" not in lost
