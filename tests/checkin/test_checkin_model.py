"""The fitted model and the vectors: what is packaged loads, what is fitted learns, what is cached is reused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from personalq.checkin.rerank.embedded import Coefficients, logits
from personalq.checkin.rerank.features import EVIDENCE, NAMES, compare
from personalq.checkin.rerank.fit import Example, fit
from personalq.errors import RerankerError


def example(right: int, present: bool) -> Example:
    table = np.zeros((5, len(NAMES)))
    table[:, NAMES.index("title")] = 0.2
    if present:
        table[right, NAMES.index("title")] = 0.8
        table[right, NAMES.index("subject_anywhere")] = 0.9
    groups = tuple(f"g{at}" for at in range(5))
    kind = "single" if present else "no_match"
    return Example(compare(table), groups, frozenset({f"g{right}"} if present else ()), kind)


def test_a_fit_learns_which_and_whether() -> None:
    rows = [example(at % 5, at % 3 > 0) for at in range(30)]
    found = fit(rows)
    for row in rows:
        scores = logits(row.table, row.groups, found)
        if row.targets:
            assert row.groups[int(np.argmax(scores))] in row.targets
            assert scores.max() > 0
        else:
            assert np.exp(scores).sum() < 1


def test_the_packaged_coefficients_fit_the_features(tmp_path: Path) -> None:
    packaged = Coefficients.read()
    assert packaged.weights.shape == (len(NAMES),)
    assert packaged.evidence.shape == (len(EVIDENCE),)
    assert packaged.weights[NAMES.index("negative")] < 0 < packaged.weights[NAMES.index("version")]
    (tmp_path / "other.json").write_text('{"weights": {}}')
    with pytest.raises(RerankerError, match="fit"):
        Coefficients.read(tmp_path / "other.json")
