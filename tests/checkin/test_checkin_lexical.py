"""The sparse form scores as rank-bm25 does, and its idf keeps small folders alive."""

from __future__ import annotations

import numpy as np
import pytest

from personalq.checkin.fuse import reciprocal_ranks
from personalq.checkin.lexical import Lexical, Postings, okapi
from personalq.checkin.words import content_words, likeness, words


def corpus(size: int) -> list[list[str]]:
    draw = np.random.default_rng(3)
    return [[f"w{int(rank)}" for rank in draw.zipf(1.4, size=30) if rank < 400] for _ in range(size)]


@pytest.mark.parametrize("query", [["w1"], ["w2", "w17", "w2"], ["w3", "nowhere"], []])
def test_postings_score_as_rank_bm25_does(query: list[str]) -> None:
    bm25 = okapi(corpus(300))
    expected, scores = bm25.get_scores(query), Postings(bm25).score(query)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    order = np.argsort(-scores, kind="stable")[:20]
    assert order.tolist() == np.argsort(-expected, kind="stable")[:20].tolist() or not query


def test_a_word_in_most_documents_still_counts() -> None:
    lexical = Lexical(["red dog", "red cat", "blue dog"])
    scores = lexical.by_words("red dog")
    assert scores[0] > scores[1] > 0
    assert scores[0] > scores[2] > 0


def test_glued_names_are_found_by_their_grams() -> None:
    lexical = Lexical(["bongodog", "a grey mouse", "a garden"])
    assert int(np.argmax(lexical.by_grams("bongo on a bicycle"))) == 0
    assert lexical.by_words("bongo on a bicycle").max() == 0


def test_scores_stay_below_their_ceiling() -> None:
    lexical = Lexical(["dog " * 50, "cat"])
    over_words, over_grams = lexical.ceilings("dog")
    assert 0 < lexical.by_words("dog")[0] < over_words
    assert 0 < lexical.by_grams("dog")[0] < over_grams


def test_documents_without_words_and_no_documents() -> None:
    assert Lexical(["", "🐶"]).by_words("dog").tolist() == [0, 0]
    assert Lexical([]).by_words("dog").tolist() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OldEgypt", ["old", "egypt", "oldegypt"]),
        ("snake_case-name", ["snake", "case", "name"]),
        ("E235系", ["e", "235", "e235", "系"]),
        ("Café dogs", ["cafe", "dog"]),
    ],
)
def test_words_split_at_every_seam(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_likeness_knows_direction_and_slips() -> None:
    assert likeness("bongo", "bongodog") > 0.75 > likeness("lighthouse", "house")
    assert likeness("bisciut", "biscuit") == 0.8
    assert likeness("horse", "house") < 0.5
    assert content_words("my dog and a dog with the hat") == ["dog", "hat"]


def test_reciprocal_ranks_give_nothing_to_what_scored_nothing() -> None:
    fused = reciprocal_ranks([np.array([3.0, 1.0, 0.0]), np.array([0.0, 2.0, 0.0])])
    assert fused.tolist() == pytest.approx([1 / 61, 1 / 62 + 1 / 61, 0.0])
