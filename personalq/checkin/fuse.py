"""Ranked lists into one short list. It knows rows and numbers, not how they were scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from personalq.checkin.stores.protocol import Ranked, Rows, Scores

TOP = 30
_K = 60
_HEADS = 301
"""How far down a list the best `TOP` of the fusion can stand: the best 30 of one list have at least 1 / 90, a row
below rank 301 in all four at most 4 / 362."""


def reciprocal_ranks(lists: Sequence[Ranked], size: int) -> Scores:
    """Reciprocal rank fusion, Σ 1 / (60 + rank), shape (size,); a row that a list scores 0 takes nothing from it.

    Cormack, Clarke and Büttcher, SIGIR 2009. Good for recall only: the values say nothing about "no match".
    """
    fused = np.zeros(size)
    for ranked in lists:
        found = ranked.rows[: int(np.count_nonzero(ranked.scores > 0))]
        fused[found] += 1.0 / (_K + np.arange(1, len(found) + 1))
    return fused


def shortlist(fused: Scores, lists: Sequence[Ranked], hits: Rows, varied: Callable[[Rows], Rows]) -> Rows:
    """The `TOP` best rows of the fusion, the best few of each list, and every exact hit (capped), best first.

    `varied` thins out rows that are ever more of the same before they are counted.
    """
    heads = np.unique(np.concatenate([ranked.rows[:_HEADS] for ranked in lists]))
    best = varied(_by(fused, heads))[:TOP]
    few = (varied(ranked.rows[:_HEADS])[: TOP // 3] for ranked in lists)
    chosen = np.concatenate([best, *few, varied(_by(fused, hits))[:TOP]])
    once = chosen[np.sort(np.unique(chosen, return_index=True)[1])]
    return _by(fused, once)


def _by(fused: Scores, rows: Rows) -> Rows:
    ordered: Rows = rows[np.argsort(-fused[rows], kind="stable")]
    return ordered
