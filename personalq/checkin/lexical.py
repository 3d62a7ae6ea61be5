"""BM25 over words and over character grams. It knows documents as strings, not checkpoints.

rank-bm25's `BM25Okapi` stays the scorer of record. Its statistics are read once into one posting list a term (the
columns of a sparse matrix), so that a query is a sum of a few columns instead of a pass over every document.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from personalq.checkin.words import STOPWORDS, gram_list, words

Scores = NDArray[np.float64]
_NOTHING = "\0"
"""Stands in for a document without a single word, which rank-bm25 cannot count."""


def okapi(documents: Sequence[Sequence[str]]) -> BM25Okapi:
    """`BM25Okapi` over tokenised documents (at least one), with idf = log(1 + (N - n + 0.5) / (n + 0.5)).

    The library's own idf is zero for a term in half the documents, which silences whole words in a small folder.
    """
    bm25 = BM25Okapi([list(document) or [_NOTHING] for document in documents])
    holders = Counter(term for frequencies in bm25.doc_freqs for term in frequencies)
    total = bm25.corpus_size
    bm25.idf = {term: math.log(1 + (total - n + 0.5) / (n + 0.5)) for term, n in holders.items()}
    return bm25


class Postings:
    """The scores of a BM25Okapi, term by term: `score` equals its `get_scores` to float64 rounding."""

    def __init__(self, bm25: BM25Okapi) -> None:
        self.size: int = bm25.corpus_size
        self._best: float = bm25.k1 + 1
        self.idf: dict[str, float] = bm25.idf
        lengths = np.asarray(bm25.doc_len, dtype=np.float64)
        norm = bm25.k1 * (1 - bm25.b + bm25.b * lengths / bm25.avgdl)
        gathered: dict[str, tuple[list[int], list[int]]] = {}
        for row, frequencies in enumerate(bm25.doc_freqs):
            for term, count in frequencies.items():
                rows, counts = gathered.setdefault(term, ([], []))
                rows.append(row)
                counts.append(count)
        self._columns: dict[str, tuple[NDArray[np.int64], Scores]] = {}
        for term, (rows, counts) in gathered.items():
            at = np.asarray(rows, dtype=np.int64)
            tf = np.asarray(counts, dtype=np.float64)
            self._columns[term] = (at, self.idf[term] * tf * (bm25.k1 + 1) / (tf + norm[at]))

    def score(self, terms: Sequence[str], weights: Sequence[float] | None = None) -> Scores:
        """The BM25 score of every document, shape (N,); a repeated term counts again, as in rank-bm25."""
        scores = np.zeros(self.size)
        for term, weight in zip(terms, weights or [1.0] * len(terms), strict=True):
            column = self._columns.get(term)
            if column is not None:
                scores[column[0]] += weight * column[1]
        return scores

    def ceiling(self, terms: Sequence[str]) -> float:
        """The score of an endless repetition of `terms`: Σ idf · (k1 + 1)."""
        return sum(self.rarity(term) for term in terms) * self._best

    def rarity(self, term: str) -> float:
        """The idf of a term; one that no document holds is rarer than any that one does."""
        return self.idf.get(term, math.log(1 + (self.size + 0.5) / 0.5))


class Lexical:
    """Two indexes over the same documents: words, and character 3- to 5-grams for glued names and misspellings."""

    def __init__(self, documents: Sequence[str]) -> None:
        self.size = len(documents)
        self._words = self._index(documents, words)
        self._grams = self._index(documents, gram_list)

    @staticmethod
    def _index(documents: Sequence[str], split: Callable[[str], list[str]]) -> Postings | None:
        return Postings(okapi([split(document) for document in documents])) if documents else None

    def by_words(self, text: str) -> Scores:
        """BM25 over words, shape (N,)."""
        return self._words.score(_query_words(text)) if self._words else np.zeros(0)

    def by_grams(self, text: str) -> Scores:
        """BM25 over character grams, shape (N,)."""
        return self._grams.score(_query_grams(text)) if self._grams else np.zeros(0)

    def ceilings(self, text: str) -> tuple[float, float]:
        """What a document made of nothing but `text` could score at most, over words and over grams; above 0."""
        over_words = self._words.ceiling(_query_words(text)) if self._words else 0.0
        over_grams = self._grams.ceiling(_query_grams(text)) if self._grams else 0.0
        return over_words or 1.0, over_grams or 1.0

    def rarity(self, word: str) -> float:
        """The idf of a word in these documents."""
        return self._words.rarity(word) if self._words else 0.0


def _query_words(text: str) -> list[str]:
    return [word for word in words(text) if word not in STOPWORDS] or words(text)


def _query_grams(text: str) -> list[str]:
    kept = [word for word in text.split() if word.casefold().strip(".,!?;:") not in STOPWORDS]
    return gram_list(" ".join(kept) or text)
