"""Rows of pictures into means with their intervals, and each row against its controls. It makes no pictures.

Pictures of one concept resemble one another, so intervals come from a bootstrap over concepts, and p from flipping
the signs of the concepts' differences. Controls differ from a row in one thing: which text rows are kept exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from personalq.bench.intervals import Clusters, Difference, holm, sign_flip

Row = dict[str, Any]
MEASURES = ("psnr", "identity", "probability", "margin", "scene")
"""What is measured of every picture: dB against the reference's, whether the probe names the concept, the probability
it gives it, how far its logit is above the next, and whether it names the scene."""

TESTED = ("psnr", "identity", "probability")
PLAIN, RANDOM, REFERENCE, NF4 = "rtn", "random", "reference", "nf4"
SURE = 0.05


def summary(row: Row, reference: Row, clusters: Clusters) -> Row:
    """A row without its values: the mean and interval of each measure, and what is kept of the reference's identity.

    `seconds_ratio` compares medians of rows that ran one after the other; steps are timed side by side elsewhere.
    """
    values, whole = row["values"], reference["values"]
    found = {key: value for key, value in row.items() if key != "values"}
    for measure in MEASURES:
        told = values[measure] is not None
        found[measure] = _spread(clusters.mean(values[measure])) if told else None
    for measure in ("identity", "probability"):
        found[f"{measure}_kept"] = _spread(clusters.ratio(values[measure], whole[measure]))
    names = list(dict.fromkeys(values["concept"]))
    found["by_concept"] = dict(zip(names, map(_rounded, clusters.means(values["identity"])), strict=True))
    found["seconds_ratio"] = _rounded(row["seconds"] / reference["seconds"])
    return found


def contrasts(rows: Mapping[str, Row], clusters: Clusters) -> list[Row]:
    """Each row against the reference, against no protection, against random rows and against NF4, measure by measure.

    `difference` is the row's less the other's. `p_holm` is adjusted for all rows compared with the same kind of
    control by the same measure; `significant` says that it is below 5 % and the interval leaves zero out.
    """
    found = []
    for kind in (REFERENCE, PLAIN, RANDOM, NF4):
        for measure in TESTED:
            if (kind, measure) != (REFERENCE, "psnr"):
                found += _family(kind, measure, rows, clusters)
    return found


def _family(kind: str, measure: str, rows: Mapping[str, Row], clusters: Clusters) -> list[Row]:
    """The comparisons that are adjusted together."""
    compared, chances = {}, {}
    for name in rows:
        other = control(kind, name, rows)
        if other is None:
            continue
        ours, theirs = rows[name]["values"][measure], rows[other]["values"][measure]
        if ours is None or theirs is None:
            continue
        gap = clusters.gap(ours, theirs)
        chance = sign_flip(clusters.means([a - b for a, b in zip(ours, theirs, strict=True)]))
        compared[name], chances[name] = (other, gap), 1.0 if chance is None else chance
    adjusted = holm(chances)
    return [
        {
            "row": name,
            "control": kind,
            "against": other,
            "measure": measure,
            **_spread(gap),
            "p": _rounded(chances[name]),
            "p_holm": _rounded(adjusted[name]),
            "significant": adjusted[name] < SURE and not gap.low <= 0 <= gap.high,
        }
        for name, (other, gap) in compared.items()
    ]


def control(kind: str, name: str, rows: Mapping[str, Row]) -> str | None:
    """The row that differs from `name` in the protection alone: "rtn" or "random" in place of its first word.

    Where there is none that has all else in common, the plain one of its level stands in.
    """
    if kind in (REFERENCE, NF4):
        return kind if kind in rows and name not in (kind, REFERENCE) else None
    first, found, last = name.partition(f"-{rows[name]['level']}")
    alike = kind + re.sub(r"^[a-z]+", "", first) + found + last
    candidates = [alike, f"{kind}{found}{last}", f"{kind}{found}"] if found else [alike]
    return next((each for each in candidates if each in rows and each != name), None)


def _spread(found: Difference | None) -> Row:
    if found is None:
        return {"mean": None, "low": None, "high": None}
    return {"mean": _rounded(found.mean), "low": _rounded(found.low), "high": _rounded(found.high)}


def _rounded(value: float) -> float:
    return round(float(value), 5)
