"""BM25 over words and character grams, and exact phrases, in a tantivy index on disk. It knows rows, not vectors.

tantivy scores with idf = ln(1 + (N - n + 0.5) / (n + 0.5)) as `lexical` does, but with k1 = 1.2 instead of 1.5 and with
lengths rounded to a byte; `ceilings` uses its k1, so that shares of a ceiling stay comparable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from personalq.checkin.lexical import idf, query_grams, query_words
from personalq.checkin.profile import spaced
from personalq.checkin.stores.missing import needs
from personalq.checkin.stores.phrases import telling
from personalq.checkin.stores.protocol import Entry, Ranked, Rows, Scores
from personalq.checkin.words import gram_list, words
from personalq.errors import CatalogError

_K1 = 1.2
_LONGEST = 8
"""Words of the longest name or trigger found as an exact hit."""
_HEAP = 64 << 20
_SPLIT = "runs"
_NONE: Rows = np.zeros(0, dtype=np.int64)


class TextIndex:
    """A tantivy index in `folder`, made when there is none.

    What is added or removed counts after `commit`. Raises SettingsError when tantivy is not installed, CatalogError
    when the folder cannot be read or another process is writing to it.
    """

    def __init__(self, folder: Path) -> None:
        self._tantivy: Any = needs("tantivy")
        self._query: Any = self._tantivy.Query
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._index = self._tantivy.Index(self._schema(), path=str(folder))
        except ValueError as broken:
            raise CatalogError(f"The text index at {folder} cannot be opened ({broken}); delete it.") from None
        analyzer = self._tantivy.TextAnalyzerBuilder(self._tantivy.Tokenizer.whitespace()).build()
        self._index.register_tokenizer(_SPLIT, analyzer)
        self._folder = folder
        self._writer: Any = None
        self._searcher = self._index.searcher()

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def open_writer(self) -> None:
        """Become the only process that writes. Raises CatalogError when another one does."""
        if self._writer is None:
            try:
                self._writer = self._index.writer(heap_size=_HEAP, num_threads=1)
            except ValueError as busy:
                raise CatalogError(
                    f"Another process is changing the index at {self._folder} ({busy}); close it, or choose another "
                    "cache folder."
                ) from None

    def add(self, first: int, entries: Sequence[Entry]) -> None:
        """Index entries in the rows from `first` on."""
        for row, entry in enumerate(entries, start=first):
            document = self._tantivy.Document()
            document.add_unsigned("row", row)
            document.add_text("base", _base(entry.base))
            document.add_text("kind", entry.kind)
            document.add_text("words", " ".join(words(entry.text)))
            document.add_text("grams", " ".join(gram_list(entry.text)))
            for phrase in telling(entry.phrases):
                if phrase.count(" ") < _LONGEST:
                    document.add_text("phrases", phrase)
            self._writer.add_document(document)

    def remove(self, rows: Sequence[int]) -> None:
        """Take rows out."""
        if rows:
            mine = self._query.term_set_query(self._index.schema, "row", list(rows))
            self._writer.delete_documents_by_query(mine)

    def remove_from(self, row: int) -> None:
        """Take out every row from `row` on."""
        kind = self._tantivy.FieldType.Unsigned
        self._writer.delete_documents_by_query(self._query.range_query(self._index.schema, "row", kind, row, None))

    def commit(self) -> None:
        """Put changes on disk and show them to the next search."""
        self._writer.commit()
        self._index.reload()
        self._searcher = self._index.searcher()

    def by_words(self, text: str, depth: int, wanted: Any) -> Ranked:
        """The `depth` best rows by words among those `wanted` (see `filter`)."""
        return self._top(self._terms("words", query_words(text)), depth, wanted)

    def by_grams(self, text: str, depth: int, wanted: Any) -> Ranked:
        """The `depth` best rows by character grams among those `wanted`."""
        return self._top(self._terms("grams", query_grams(text)), depth, wanted)

    def within(self, text: str, depth: int, wanted: Any) -> Rows:
        """The rows one of whose phrases stands in `text`; of more than `depth`, those whose words fit best."""
        said = spaced(text).split()
        runs = {" ".join(said[at : at + n]) for at in range(len(said)) for n in range(1, _LONGEST + 1)}
        hit = self._must(self._query.term_set_query(self._index.schema, "phrases", sorted(runs)))
        return self._top(self._terms("words", query_words(text)), depth, [*wanted, hit]).rows if runs else _NONE

    def scores(self, text: str, rows: Rows) -> Scores:
        """BM25 by words and by grams of the rows given, shape (rows, 2)."""
        mine = [self._must(self._query.term_set_query(self._index.schema, "row", rows.tolist()))] if len(rows) else []
        table = np.zeros((len(rows), 2))
        order = np.argsort(rows)
        for at, terms in enumerate((self._terms("words", query_words(text)), self._terms("grams", query_grams(text)))):
            if mine and terms:
                found = self._top(terms, len(rows), mine)
                table[order[np.searchsorted(rows, found.rows, sorter=order)], at] = found.scores
        return table

    def filter(self, bases: Sequence[str | None] | None, kinds: Sequence[str] | None) -> list[Any]:
        """What a row must be, for the searches above: of one of these bases, of one of these kinds; None is any."""
        fields = (("base", None if bases is None else [_base(base) for base in bases]), ("kind", kinds))
        schema = self._index.schema
        return [self._must(self._query.term_set_query(schema, name, each)) for name, each in fields if each is not None]

    def ceilings(self, text: str) -> tuple[float, float]:
        """Σ idf · (k1 + 1) over the words and over the grams of `text`; above 0."""
        over = [("words", query_words(text)), ("grams", query_grams(text))]
        totals = [(_K1 + 1) * sum(self._rarity(field, term) for term in terms) or 1.0 for field, terms in over]
        return totals[0], totals[1]

    def rarity(self, word: str) -> float:
        """The idf of a word."""
        return self._rarity("words", word)

    def close(self) -> None:
        """Wait for merges and let another process write."""
        if self._writer is not None:
            self._writer.wait_merging_threads()
            self._writer = None

    def _rarity(self, field: str, term: str) -> float:
        total = len(self)
        return idf(total, min(total, int(self._searcher.doc_freq(field, term))))

    def _terms(self, field: str, terms: Sequence[str]) -> list[Any]:
        """A query a term; a repeated term counts again."""
        occur, schema = self._tantivy.Occur.Should, self._index.schema
        found = []
        for term, times in Counter(terms).items():
            each = self._query.term_query(schema, field, term, index_option="freq")
            found.append((occur, self._query.boost_query(each, float(times)) if times > 1 else each))
        return found

    def _must(self, query: Any) -> Any:
        """A condition that adds nothing to the score."""
        return self._tantivy.Occur.Must, self._query.const_score_query(query, 0.0)

    def _top(self, terms: list[Any], depth: int, conditions: Sequence[Any]) -> Ranked:
        if not terms and not conditions:
            return Ranked(_NONE, np.zeros(0))
        hits = self._searcher.search(self._query.boolean_query([*terms, *conditions]), depth, count=False).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        return Ranked(np.asarray(rows, dtype=np.int64), np.asarray([score for score, _ in hits], dtype=np.float64))

    def _schema(self) -> Any:
        builder = self._tantivy.SchemaBuilder()
        builder.add_unsigned_field("row", indexed=True, fast=True)
        builder.add_text_field("words", tokenizer_name=_SPLIT, index_option="freq")
        builder.add_text_field("grams", tokenizer_name=_SPLIT, index_option="freq")
        for name in ("base", "kind", "phrases"):
            builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
        return builder.build()


def _base(base: str | None) -> str:
    """As a term: an unknown base is one too."""
    return "unknown" if base is None else f"known {base}"
