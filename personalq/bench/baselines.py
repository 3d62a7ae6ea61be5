"""Plain ranked search, to compare with: it always picks its first checkpoint, asks nothing and rewrites nothing.

It shares the search text, the word splitter and the sentence encoder with the product, and no ranking code.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from personalq.bench.verdicts import Same, Verdict, judge
from personalq.catalog.document import search_text
from personalq.checkin.clock import Clock
from personalq.checkin.dense import Encoder
from personalq.checkin.dialogue import Pending
from personalq.checkin.rerank.protocol import Reranker
from personalq.checkin.words import STOPWORDS, fold, words
from personalq.errors import RequestError, RerankerError
from personalq.records import Candidate, Checkpoint, Decision, Intent, NoMatch, Request, Selection

Scores = NDArray[np.float64]
KEPT = 150
"""Candidates kept of a ranking."""
SHOWN = 30
"""Candidates a reranker sees."""
_K = 60
FOLDS = 5


class Scorer(Protocol):
    """A text in, one score a checkpoint out, higher is better."""

    name: str

    def score(self, text: str) -> Scores:
        """Shape (checkpoints,)."""
        ...


class Random:
    """An order drawn from the text alone: the same text always gives the same one."""

    name = "Random"

    def __init__(self, size: int) -> None:
        self._size = size

    def score(self, text: str) -> Scores:
        """Uniform in 0 to 1."""
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).random(self._size)


class BM25:
    """rank-bm25's `BM25Okapi` with idf = log(1 + (N - n + 0.5) / (n + 0.5)), which stays above 0 in small folders.

    Stop words of the text are left out. Raw scores: dividing them by what the text could score at most tells answerable
    requests from others worse.
    """

    def __init__(self, name: str, documents: Sequence[str], split: Callable[[str], list[str]]) -> None:
        self.name = name
        self._split = split
        self._bm25 = BM25Okapi([split(document) or [""] for document in documents])
        holders = Counter(term for frequencies in self._bm25.doc_freqs for term in frequencies)
        total = len(documents)
        self._bm25.idf = {term: math.log(1 + (total - n + 0.5) / (n + 0.5)) for term, n in holders.items()}

    def score(self, text: str) -> Scores:
        """0 and up."""
        kept = [word for word in re.findall(r"\S+", text) if word.casefold().strip(".,!?;:") not in STOPWORDS]
        return np.asarray(self._bm25.get_scores(self._split(" ".join(kept) or text)), dtype=np.float64)


def char_grams(text: str) -> list[str]:
    """The character 3-, 4- and 5-grams of the folded words with one space between them, across words as well."""
    line = " ".join(re.findall(r"\w+", fold(text)))
    return [line[at : at + size] for size in (3, 4, 5) for at in range(len(line) - size + 1)] or [line]


class Dense:
    """Cosine of sentence vectors."""

    def __init__(self, name: str, documents: Sequence[str], encoder: Encoder) -> None:
        self.name = name
        self._encoder = encoder
        self._vectors = encoder.documents(documents)

    def score(self, text: str) -> Scores:
        """-1 to 1."""
        return np.asarray(self._vectors @ self._encoder.query(text), dtype=np.float64)


class Fused:
    """Reciprocal rank fusion of other scorers, Σ 1 / (60 + rank), all with the same weight (SIGIR 2009)."""

    name = "RRF"

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers = scorers

    def score(self, text: str) -> Scores:
        """Above 0; says nothing about "no match"."""
        fused: Scores = np.sum([1 / (_K + _ranks(scorer.score(text))) for scorer in self._scorers], axis=0)
        return fused


def _ranks(scores: Scores) -> Scores:
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


class Ranked:
    """A scorer as a system: it selects the checkpoint of the highest score, whatever that score is."""

    def __init__(self, scorer: Scorer, checkpoints: Sequence[Checkpoint]) -> None:
        self.name = scorer.name
        self._scorer = scorer
        self._checkpoints = checkpoints

    def ask(self, request: Request) -> Decision:
        """The first of the ranking, without a prompt."""
        clock = Clock()
        with clock.stage("search"):
            scores = self._scorer.score(request.text)
            order = np.argsort(-scores, kind="stable")[:KEPT]
        ranked = tuple(Candidate(self._checkpoints[at], rerank=float(scores[at])) for at in order)
        return Selection((ranked[0].checkpoint,), "", (), 1.0, "first of the ranking", ranked, (), clock.read())

    def answer(self, pending: Pending, text: str) -> Decision:
        """Never called: a ranking asks nothing. Raises RequestError."""
        raise RequestError(f"{self.name} asked nothing, so there is nothing to answer.")


class Reranked:
    """A ranking whose first 30 a reranker puts in order. Where that fails it is the ranking's first, with a remark."""

    def __init__(self, ranked: Ranked, reranker: Reranker) -> None:
        self.name = f"{ranked.name}, then {reranker.name}"
        self._ranked = ranked
        self._reranker = reranker

    def ask(self, request: Request) -> Decision:
        """The highest logit, without a prompt."""
        found = self._ranked.ask(request)
        head = found.candidates[:SHOWN]
        clock = Clock()
        try:
            with clock.stage("rerank"):
                logits, _ = self._reranker.score(Intent(request.text, request.text), head)
        except RerankerError as failed:
            return replace(found, remarks=(f"{failed} The ranking's first was used instead.",))
        scored = sorted(zip(logits, head, strict=True), key=lambda pair: -pair[0])
        ranked = tuple(replace(candidate, rerank=logit) for logit, candidate in scored)
        timings = {**found.timings_ms, **clock.read()}
        return Selection((ranked[0].checkpoint,), "", (), 1.0, "highest logit", ranked, (), timings)

    def answer(self, pending: Pending, text: str) -> Decision:
        """Never called: a ranking asks nothing. Raises RequestError."""
        raise RequestError(f"{self.name} asked nothing, so there is nothing to answer.")


def baselines(checkpoints: Sequence[Checkpoint], new_encoder: Callable[[], Encoder]) -> list[Ranked]:
    """Random, BM25 over words and over character 3- to 5-grams, dense, and the fusion of the last three."""
    documents = [search_text(checkpoint) for checkpoint in checkpoints]
    by_words = BM25("BM25 (words)", documents, words)
    by_grams = BM25("BM25 (n-grams)", documents, char_grams)
    fused = Fused([by_words, by_grams, Dense("dense", documents, new_encoder())])
    scorers: list[Scorer] = [
        Random(len(documents)),
        by_words,
        by_grams,
        Dense("dense", documents, new_encoder()),
        fused,
    ]
    return [Ranked(scorer, checkpoints) for scorer in scorers]


# --- with a threshold --------------------------------------------------------------------------


def with_threshold(verdicts: Sequence[Verdict], same: Same, folds: int = FOLDS) -> list[Verdict]:
    """The verdicts of a ranking that finds no match below a score: the best score on the other folds' queries.

    The queries are dealt to the folds in turn, so that kinds which stand together are spread evenly.
    """
    found = []
    for at, verdict in enumerate(verdicts):
        others = [other for k, other in enumerate(verdicts) if k % folds != at % folds]
        found.append(_cut(verdict, best_threshold(others), same))
    return found


def best_threshold(verdicts: Sequence[Verdict]) -> float:
    """The score below which saying "no match" earns the most points on `verdicts`; -inf when never saying it does."""
    scored = sorted(((_top(verdict), verdict) for verdict in verdicts), key=lambda pair: pair[0])
    earned = sum(verdict.points for _, verdict in scored)
    best, threshold = earned, -math.inf
    for at, (score, verdict) in enumerate(scored):
        earned += (1.0 if verdict.query.kind == "no_match" else 0.0) - verdict.points
        above = scored[at + 1][0] if at + 1 < len(scored) else score + 1
        if earned > best and above > score:
            best, threshold = earned, (score + above) / 2
    return threshold


def _top(verdict: Verdict) -> float:
    return verdict.first.candidates[0].rerank if verdict.first.candidates else -math.inf


def _cut(verdict: Verdict, threshold: float, same: Same) -> Verdict:
    if _top(verdict) >= threshold:
        return verdict
    first = verdict.first
    refused = NoMatch(first.candidates[:3], "below the threshold", first.candidates, first.timings_ms)
    return judge(verdict.query, refused, refused, same, verdict.total_ms)
