"""Plain search as a system: orders by hand, thresholds that are chosen on other queries, rerankers on top."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from bench_records import CAT, CATALOGUE, DOG1, ids, query

from personalq.bench.baselines import BM25, Fused, Random, Ranked, Reranked, best_threshold, char_grams, with_threshold
from personalq.bench.verdicts import Verdict, lineage, put
from personalq.checkin.dialogue import Pending
from personalq.checkin.words import words
from personalq.errors import RequestError, RerankerError
from personalq.records import Candidate, Intent, NoMatch, Request, Selection

SAME = lineage(CATALOGUE)


class Told:
    """A scorer with fixed scores, or one by text."""

    name = "told"

    def __init__(self, scores: Sequence[float] | dict[str, Sequence[float]]) -> None:
        self._scores = scores

    def score(self, text: str) -> np.ndarray:
        return np.asarray(self._scores[text] if isinstance(self._scores, dict) else self._scores, dtype=np.float64)


def test_bm25_by_hand() -> None:
    """Two documents of two words, k1 = 1.5, b = 0.75: idf = log(1 + 1.5 / 1.5), tf part 2.5 / (1 + 1.5)."""
    found = BM25("words", ["corgi teapot", "corgi train"], words).score("the teapot")
    assert found == pytest.approx([math.log(2), 0.0])


def test_a_word_in_every_document_still_counts() -> None:
    assert (BM25("words", ["corgi red", "corgi blue"], words).score("corgi") > 0).all()


def test_character_grams_find_glued_names() -> None:
    assert char_grams("Fox") == ["fox"]
    assert char_grams("It!") == ["it"]
    assert char_grams("a-b c") == ["a b", " b ", "b c", "a b ", " b c", "a b c"]
    assert char_grams("aaaa") == ["aaa", "aaa", "aaaa"]
    found = BM25("grams", ["BongoDog", "train"], char_grams).score("bongo")
    assert found[0] > found[1] == 0


def test_fusion_by_hand() -> None:
    found = Fused([Told([3, 2, 1]), Told([1, 3, 2])]).score("x")
    assert found == pytest.approx([1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62])


def test_random_is_the_same_for_the_same_text_only() -> None:
    scorer = Random(50)
    assert (scorer.score("a") == scorer.score("a")).all()
    assert (scorer.score("a") != scorer.score("b")).any()


def test_a_ranking_selects_its_first_and_writes_no_prompt() -> None:
    ranked = Ranked(Told([0.1, 0.2, 0.9, 0.3, 0.0]), CATALOGUE)
    found = ranked.ask(Request("my cat"))
    assert isinstance(found, Selection)
    assert ids(found.candidates) == ["cat", "ink", "dog-v2", "dog-v1", "mute"]
    assert (found.checkpoints, found.prompt) == ((CAT,), "")
    with pytest.raises(RequestError, match="asked nothing"):
        ranked.answer(Pending(Request("x"), "", ()), "x")


def scored(kind: str, score: float, right: bool, text: str) -> Verdict:
    wanted = query(kind, *([] if kind == "no_match" else ["cat" if right else "dog-v1"]), text=text)  # type: ignore[arg-type]
    return put(Ranked(Told({text: [0, 0, score, 0, 0]}), CATALOGUE), wanted, SAME)


def test_the_threshold_that_earns_most() -> None:
    """Below 3.25 there are three no-matches and one right pick: refusing them all wins two points."""
    rows = [("single", 5.0, True), ("single", 4.0, True), ("no_match", 2.0, True), ("no_match", 1.0, True)]
    rows.append(("no_match", 2.5, True))
    told = [
        scored(kind, score, right, str(at)) for at, (kind, score, right) in enumerate([*rows, ("single", 1.5, True)])
    ]
    assert best_threshold(told) == 3.25
    never = [scored("single", score, True, str(score)) for score in (1.0, 2.0)]
    assert best_threshold(never) == -math.inf


def test_a_threshold_is_judged_on_queries_it_was_not_chosen_on() -> None:
    """No-matches score 1 to 5, singles 15 to 19, so that the other folds always place the cut between."""
    told = [
        scored("no_match" if at < 5 else "single", at + (1.0 if at < 5 else 10.0), True, str(at)) for at in range(10)
    ]
    cut = with_threshold(told, SAME)
    assert [verdict.points for verdict in cut] == [1.0] * 10
    assert [verdict.refused for verdict in cut] == [True] * 5 + [False] * 5
    lone = [scored("no_match", 1.0, True, "n"), *(scored("single", 5.0 + at, True, str(at)) for at in range(4))]
    assert not with_threshold(lone, SAME)[0].refused  # no other fold has a no-match to learn from


class Backwards:
    """Likes the last candidate best, or fails."""

    name, temperature, none_logit = "backwards", 1.0, 0.0

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> tuple[list[float], list[str]]:
        if self.fails:
            raise RerankerError("The model is away.")
        return [float(at) for at in range(len(candidates))], [""] * len(candidates)


def test_a_reranker_on_top_of_a_ranking() -> None:
    ranked = Ranked(Told([0.5, 0.4, 0.3, 0.2, 0.1]), CATALOGUE)
    system = Reranked(ranked, Backwards())
    found = system.ask(Request("x"))
    assert system.name == "told, then backwards"
    assert ids(found.candidates) == ["mute", "ink", "cat", "dog-v2", "dog-v1"]
    assert not found.remarks
    failed = Reranked(ranked, Backwards(fails=True)).ask(Request("x"))
    assert isinstance(failed, Selection)
    assert failed.checkpoints == (DOG1,)
    assert "away" in failed.remarks[0]
    assert not isinstance(failed, NoMatch)
