"""Exact hits by hashing: the same rows as looking for every phrase in the text."""

from __future__ import annotations

import numpy as np
import pytest

from personalq.checkin.profile import spaced
from personalq.checkin.stores.phrases import Phrases

NAMES = {
    0: ["Ember Fox", "embrfx fox"],
    1: ["fox"],
    2: ["the old brass telescope of my aunt", "telescope"],
    3: ["ab", "狗", "soot"],
    4: ["Fox"],
}


def filled() -> Phrases:
    phrases = Phrases()
    for row, names in NAMES.items():
        phrases.add(row, [spaced(name) for name in names])
    return phrases


@pytest.mark.parametrize(
    "text",
    [
        "an EMBER fox in the snow",
        "ember, fox",
        "emberfox",
        "the old brass telescope of my aunt on a hill",
        "ab 狗 soot",
        "foxes and a foxhole",
        "",
    ],
)
def test_hits_are_the_phrases_that_stand_whole_in_the_text(text: str) -> None:
    within = spaced(text)
    expected = [
        row for row, names in NAMES.items() if any(len(n) > 2 and spaced(n) and spaced(n) in within for n in names)
    ]
    assert filled().within(text).tolist() == expected


def test_a_removed_row_is_no_hit_and_others_stay() -> None:
    phrases = filled()
    phrases.remove(1, [spaced("fox")])
    assert phrases.within("a fox").tolist() == [4]
    phrases.remove(4, [spaced("Fox")])
    assert phrases.within("a fox").dtype == np.int64
    assert phrases.within("a fox").tolist() == []
    phrases.add(9, [spaced("fox")])
    assert phrases.within("a fox").tolist() == [9]
