"""BM25 over words and over character grams. It knows documents as strings, not checkpoints.

rank-bm25's `BM25Okapi` stays the scorer of record. What it counts is kept as one sparse matrix, a column a term, so
that a query is a sum of a few columns instead of a pass over every document, and documents can come and go.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from personalq.checkin.stores.growing import Growing
from personalq.checkin.words import STOPWORDS, gram_list, words

Scores = NDArray[np.float64]
_NOTHING = "\0"
"""Stands in for a document without a single word, which rank-bm25 cannot count."""
_CHUNK = 512
"""Documents that one BM25Okapi counts at a time; its dictionaries are large and short-lived."""
_LATE = 1024
"""Documents added one by one before the matrix is built anew with them."""
_MOST = 65535
"""Occurrences counted of a term in one document."""


def okapi(documents: Sequence[Sequence[str]]) -> BM25Okapi:
    """`BM25Okapi` over tokenised documents (at least one), with idf = log(1 + (N - n + 0.5) / (n + 0.5)).

    The library's own idf is zero for a term in half the documents, which silences whole words in a small folder.
    """
    bm25 = BM25Okapi([list(document) or [_NOTHING] for document in documents])
    holders = Counter(term for frequencies in bm25.doc_freqs for term in frequencies)
    bm25.idf = {term: idf(bm25.corpus_size, n) for term, n in holders.items()}
    return bm25


def idf(total: int, holders: int) -> float:
    """The weight of a term that `holders` of `total` documents hold; above 0."""
    return math.log(1 + (total - holders + 0.5) / (holders + 0.5))


class Postings:
    """The counts of a BM25Okapi as a sparse matrix, to which documents are added and from which they are removed.

    `score` equals `okapi(documents).get_scores` over the documents left, to float64 rounding.
    """

    def __init__(self, documents: Sequence[Sequence[str]] = ()) -> None:
        record = BM25Okapi([[_NOTHING]])
        self._k1, self._b = float(record.k1), float(record.b)
        self._column: dict[str, int] = {}
        self._starts = np.zeros(1, dtype=np.int64)
        self._rows = np.zeros(0, dtype=np.int32)
        self._counts = np.zeros(0, dtype=np.uint16)
        self._late: dict[str, list[tuple[int, int]]] = {}
        self._late_documents = 0
        self._gone: Counter[str] = Counter()
        self._lengths = Growing(np.float64)
        self._norm: Scores = np.zeros(0)
        self._words = 0
        self._live = 0
        self.add(documents)

    def add(self, documents: Sequence[Sequence[str]]) -> None:
        """Count more tokenised documents, in the rows that follow."""
        if self._live and self._late_documents + len(documents) < _LATE:
            for row, frequencies in self._counted(documents):
                for term, count in frequencies.items():
                    self._late.setdefault(term, []).append((row, count))
            self._late_documents += len(documents)
        else:
            self._build(documents)
        self._weigh()

    def remove(self, document: Sequence[str]) -> None:
        """Take back what one document counted, given as it was added. Its row keeps scores that mean nothing."""
        frequencies = Counter(list(document) or [_NOTHING])
        self._gone.update(frequencies.keys())
        self._words -= sum(frequencies.values())
        self._live -= 1
        self._weigh()

    def score(self, terms: Sequence[str]) -> Scores:
        """The BM25 score of every row, shape (rows,); a repeated term counts again, as in rank-bm25."""
        scores = np.zeros(len(self._norm))
        for term in terms:
            rows, counts = self._holders(term)
            if len(rows):
                scores[rows] += self.rarity(term) * counts * (self._k1 + 1) / (counts + self._norm[rows])
        return scores

    def ceiling(self, terms: Sequence[str]) -> float:
        """The score of an endless repetition of `terms`: Σ idf · (k1 + 1)."""
        return sum(self.rarity(term) for term in terms) * (self._k1 + 1)

    def rarity(self, term: str) -> float:
        """The idf of a term; one that no document holds is rarer than any that one does."""
        at = self._column.get(term)
        built = int(self._starts[at + 1] - self._starts[at]) if at is not None else 0
        return idf(self._live, built + len(self._late.get(term, ())) - self._gone[term])

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix, and about 100 a term for its name."""
        arrays = (self._starts, self._rows, self._counts, self._lengths, self._norm)
        return sum(array.nbytes for array in arrays) + 100 * len(self._column)

    def _holders(self, term: str) -> tuple[NDArray[np.int32], Scores]:
        """The column of a term: its rows, and how often each has it."""
        at = self._column.get(term)
        column = slice(self._starts[at], self._starts[at + 1]) if at is not None else slice(0, 0)
        rows, counts = self._rows[column], self._counts[column].astype(np.float64)
        late = self._late.get(term)
        if late:
            rows = np.concatenate([rows, np.asarray([row for row, _ in late], dtype=np.int32)])
            counts = np.concatenate([counts, np.asarray([count for _, count in late], dtype=np.float64)])
        return rows, counts

    def _counted(self, documents: Sequence[Sequence[str]]) -> Iterator[tuple[int, dict[str, int]]]:
        """The row of each new document and how often it has each of its terms, as rank-bm25 counts them."""
        for start in range(0, len(documents), _CHUNK):
            bm25 = okapi(documents[start : start + _CHUNK])
            first = len(self._lengths.values)
            self._lengths.extend(bm25.doc_len)
            self._words += sum(bm25.doc_len)
            self._live += len(bm25.doc_len)
            yield from enumerate(bm25.doc_freqs, start=first)

    def _build(self, documents: Sequence[Sequence[str]]) -> None:
        """The matrix anew, with the late documents and more."""
        kept = np.repeat(np.arange(len(self._starts) - 1, dtype=np.int32), np.diff(self._starts))
        late = [(term, row, count) for term, held in self._late.items() for row, count in held]
        added = ((term, row, count) for row, found in self._counted(documents) for term, count in found.items())
        parts = [self._triples(late), self._triples(added)]
        column = np.concatenate([kept, *(part["column"] for part in parts)])
        rows = np.concatenate([self._rows, *(part["row"] for part in parts)])
        counts = np.concatenate([self._counts, *(part["count"] for part in parts)])
        order = np.argsort(column, kind="stable")
        self._rows, self._counts = rows[order], counts[order]
        self._starts = np.append(0, np.cumsum(np.bincount(column, minlength=len(self._column))))
        self._late, self._late_documents = {}, 0

    def _triples(self, found: Iterable[tuple[str, int, int]]) -> NDArray[np.void]:
        """Terms, rows and counts as one array; new terms get the next columns."""
        columns = self._column
        cells = ((columns.setdefault(term, len(columns)), row, min(count, _MOST)) for term, row, count in found)
        return np.fromiter(cells, dtype=[("column", np.int32), ("row", np.int32), ("count", np.uint16)])

    def _weigh(self) -> None:
        """k1 · (1 - b + b · length / mean length) of every row."""
        mean = self._words / self._live if self._live else 1.0
        self._norm = self._k1 * (1 - self._b + self._b * self._lengths.values / mean)


class Lexical:
    """Two indexes over the same documents: words, and character 3- to 5-grams for glued names and misspellings."""

    def __init__(self, documents: Sequence[str] = ()) -> None:
        self._words, self._grams = Postings(), Postings()
        self.add(documents)

    def add(self, documents: Sequence[str]) -> None:
        """Index more documents, in the rows that follow."""
        self._words.add([words(document) for document in documents])
        self._grams.add([gram_list(document) for document in documents])

    def remove(self, document: str) -> None:
        """Take one document out of the counts, given as it was added; its row keeps scores that mean nothing."""
        self._words.remove(words(document))
        self._grams.remove(gram_list(document))

    def by_words(self, text: str) -> Scores:
        """BM25 over words, shape (rows,)."""
        return self._words.score(query_words(text))

    def by_grams(self, text: str) -> Scores:
        """BM25 over character grams, shape (rows,)."""
        return self._grams.score(query_grams(text))

    def ceilings(self, text: str) -> tuple[float, float]:
        """What a document made of nothing but `text` could score at most, over words and over grams; above 0."""
        return self._words.ceiling(query_words(text)) or 1.0, self._grams.ceiling(query_grams(text)) or 1.0

    def rarity(self, word: str) -> float:
        """The idf of a word in these documents."""
        return self._words.rarity(word)

    @property
    def nbytes(self) -> int:
        """Bytes of both indexes."""
        return self._words.nbytes + self._grams.nbytes


def query_words(text: str) -> list[str]:
    """The words of a request that are searched for: no stop words, unless there is nothing else."""
    return [word for word in words(text) if word not in STOPWORDS] or words(text)


def query_grams(text: str) -> list[str]:
    """The character grams of the words of a request that are no stop words, unless there is nothing else."""
    kept = [word for word in text.split() if word.casefold().strip(".,!?;:") not in STOPWORDS]
    return gram_list(" ".join(kept) or text)
