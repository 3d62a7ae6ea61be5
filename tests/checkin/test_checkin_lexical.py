"""The sparse form scores as rank-bm25 does, and its idf keeps small folders alive."""

from __future__ import annotations

import numpy as np
import pytest

from personalq.checkin.lexical import Lexical, Postings, okapi
from personalq.checkin.words import content_words, likeness, words


def corpus(size: int) -> list[list[str]]:
    draw = np.random.default_rng(3)
    return [[f"w{int(rank)}" for rank in draw.zipf(1.4, size=30) if rank < 400] for _ in range(size)]


@pytest.mark.parametrize("query", [["w1"], ["w2", "w17", "w2"], ["w3", "nowhere"], []])
def test_postings_score_as_rank_bm25_does(query: list[str]) -> None:
    expected, scores = okapi(corpus(300)).get_scores(query), Postings(corpus(300)).score(query)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)


def test_ten_thousand_documents_have_the_same_top_twenty() -> None:
    documents = corpus(10_000)
    bm25, postings = okapi(documents), Postings(documents)
    for query in (["w1", "w7"], ["w40", "w3", "w250"], ["w11", "w11", "w390"]):
        expected, scores = bm25.get_scores(query), postings.score(query)
        assert np.argsort(-scores, kind="stable")[:20].tolist() == np.argsort(-expected, kind="stable")[:20].tolist()
        assert scores.max() > 0


@pytest.mark.parametrize("late", [5, 1500])
def test_documents_that_come_and_go_count_as_in_a_fresh_index(late: int) -> None:
    documents = corpus(200 + late)
    postings = Postings(documents[:200])
    for document in documents[200:205]:
        postings.add([document])
    postings.add(documents[205:])
    for gone in (0, 199, 203):
        postings.remove(documents[gone])
    left = [row for row in range(len(documents)) if row not in (0, 199, 203)]
    expected = okapi([documents[row] for row in left]).get_scores(["w1", "w30", "w2"])
    np.testing.assert_allclose(postings.score(["w1", "w30", "w2"])[left], expected, rtol=1e-9, atol=1e-12)


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
