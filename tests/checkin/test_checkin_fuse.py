"""Fusion of ranked lists: the formula, and that reading only the heads of the lists loses nothing."""

from __future__ import annotations

import numpy as np
import pytest

from personalq.checkin.fuse import TOP, reciprocal_ranks, shortlist
from personalq.checkin.stores.protocol import Ranked, Rows

NO_HITS = np.zeros(0, dtype=np.int64)


def same(rows: Rows) -> Rows:
    return rows


def ranked(scores: np.ndarray) -> Ranked:
    order = np.argsort(-scores, kind="stable")
    return Ranked(order, scores[order])


def test_reciprocal_ranks_give_nothing_to_what_scored_nothing() -> None:
    fused = reciprocal_ranks([ranked(np.array([3.0, 1.0, 0.0])), ranked(np.array([0.0, 2.0, 0.0]))], 3)
    assert fused.tolist() == pytest.approx([1 / 61, 1 / 62 + 1 / 61, 0.0])


@pytest.mark.parametrize("seed", range(5))
def test_the_short_list_holds_the_best_of_the_whole_fusion(seed: int) -> None:
    draw = np.random.default_rng(seed)
    lists = [ranked(draw.random(3000) * (draw.random(3000) < share)) for share in (0.02, 0.5, 1.0, 1.0)]
    fused = reciprocal_ranks(lists, 3000)
    chosen = shortlist(fused, lists, NO_HITS, same).tolist()
    assert chosen[:TOP] == np.argsort(-fused, kind="stable")[:TOP].tolist()
    for each in lists:
        assert set(each.rows[: TOP // 3].tolist()) <= set(chosen)
    assert len(set(chosen)) == len(chosen)


def test_every_exact_hit_is_in_up_to_a_cap() -> None:
    lists = [ranked(np.arange(500, 0, -1.0))]
    fused = reciprocal_ranks(lists, 500)
    assert {480, 490} <= set(shortlist(fused, lists, np.array([480, 490]), same).tolist())
    assert len(shortlist(fused, lists, np.arange(100, 500), same)) == 2 * TOP
