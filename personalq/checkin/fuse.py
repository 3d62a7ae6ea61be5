"""Ranked lists into one list of candidates. It knows rows of numbers and phrases, not how they were scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from personalq.checkin.profile import Profile, spaced

TOP = 30
_K = 60
_SHORTEST_NAME = 3


def reciprocal_ranks(lists: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Reciprocal rank fusion, Σ 1 / (60 + rank), shape (N,); a document scored 0 by a list takes nothing from it.

    Cormack, Clarke and Büttcher, SIGIR 2009. Good for recall only: the values say nothing about "no match".
    """
    fused = np.zeros(len(lists[0])) if lists else np.zeros(0)
    for scores in lists:
        order = np.argsort(-scores, kind="stable")
        ranks = np.empty(len(scores), dtype=np.float64)
        ranks[order] = np.arange(1, len(scores) + 1)
        fused += np.where(scores > 0, 1.0 / (_K + ranks), 0.0)
    return fused


def exact_hits(text: str, profiles: Sequence[Profile]) -> list[int]:
    """The checkpoints one of whose names, aliases or triggers stands in `text`, whole."""
    within = spaced(text)
    return [
        row
        for row, profile in enumerate(profiles)
        if any(len(phrase) - 2 >= _SHORTEST_NAME and phrase in within for phrase in profile.phrases)
    ]


def shortlist(fused: NDArray[np.float64], lists: Sequence[NDArray[np.floating]], hits: Sequence[int]) -> list[int]:
    """The `TOP` best rows of the fusion, the best few of each list, and every exact hit (capped), best first."""
    chosen = dict.fromkeys(int(row) for row in np.argsort(-fused, kind="stable")[:TOP])
    for scores in lists:
        chosen.update(dict.fromkeys(int(row) for row in np.argsort(-scores, kind="stable")[: TOP // 3]))
    best_hits = sorted(hits, key=lambda row: -fused[row])[:TOP]
    chosen.update(dict.fromkeys(best_hits))
    return sorted(chosen, key=lambda row: -fused[row])
