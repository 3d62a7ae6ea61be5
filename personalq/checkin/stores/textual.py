"""BM25 over words and character grams, and exact phrases, in a tantivy index on disk. It knows rows, not vectors.

tantivy scores with idf = ln(1 + (N - n + 0.5) / (n + 0.5)) as `lexical` does, but with k1 = 1.2 instead of 1.5 and with
lengths rounded to a byte.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np

from personalq.checkin.lexical import query_grams, query_words
from personalq.checkin.profile import spaced
from personalq.checkin.stores.missing import needs
from personalq.checkin.stores.phrases import telling
from personalq.checkin.stores.protocol import Entry, Ranked, Rows
from personalq.checkin.words import gram_list, words
from personalq.errors import CatalogError

K1, B = 1.2, 0.75
Split = Callable[[str], list[str]]
FIELDS: dict[str, tuple[Split, Split]] = {"words": (words, query_words), "grams": (gram_list, query_grams)}
"""How a document, and how a request, is split into the terms of each field."""
_LONGEST = 8
"""Words of the longest name or trigger found as an exact hit."""
_HEAP = 64 << 20
_SPLIT = "runs"
PATIENCE = 20.0
"""Seconds to wait for another writer, which may only be merging."""
_AGAIN = 0.02
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
        self._merging: threading.Thread | None = None
        self._searcher = self._index.searcher()

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def open_writer(self) -> None:
        """Become the only one that writes, once merges under way are done. Raises CatalogError when another one is."""
        if self._writer is not None:
            return
        self.close()
        until = monotonic() + PATIENCE
        while True:
            try:
                self._writer = self._index.writer(heap_size=_HEAP, num_threads=1)
                return
            except ValueError as busy:
                if monotonic() > until:
                    raise CatalogError(
                        f"Another process is changing the index at {self._folder} ({busy}); close it, or choose "
                        "another cache folder."
                    ) from None
                sleep(_AGAIN)

    def add(self, entries: Mapping[int, Entry]) -> None:
        """Index entries by row."""
        for row, entry in entries.items():
            document = self._tantivy.Document()
            document.add_unsigned("row", row)
            document.add_text("base", _base(entry.base))
            document.add_text("kind", entry.kind)
            for field, (split, _) in FIELDS.items():
                document.add_text(field, " ".join(split(entry.text)))
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
        self._writer.delete_documents_by_query(self._from(row))

    def commit(self) -> None:
        """Put changes on disk and show them to the next search."""
        self._writer.commit()
        self._index.reload()
        self._searcher = self._index.searcher()

    def top(self, field: str, text: str, depth: int, wanted: Any) -> Ranked:
        """The `depth` best rows by one of `FIELDS` among those `wanted` (see `filter`)."""
        return self._top(self._terms(field, text), depth, wanted)

    def within(self, text: str, depth: int, wanted: Any) -> Rows:
        """The rows one of whose phrases stands in `text`; of more than `depth`, those whose words fit best."""
        said = spaced(text).split()
        runs = {" ".join(said[at : at + n]) for at in range(len(said)) for n in range(1, _LONGEST + 1)}
        hit = self._must(self._query.term_set_query(self._index.schema, "phrases", sorted(runs)))
        return self._top(self._terms("words", text), depth, [*wanted, hit]).rows if runs else _NONE

    def scores(self, field: str, text: str, rows: Rows) -> Ranked:
        """BM25 by one of `FIELDS` of the rows given, in an order of its own; rows that are not here are left out."""
        terms = self._terms(field, text)
        if not terms or not len(rows):
            return Ranked(_NONE, np.zeros(0))
        mine = self._must(self._query.term_set_query(self._index.schema, "row", rows.tolist()))
        return self._top(terms, len(rows), [mine])

    def filter(self, bases: Sequence[str | None] | None, kinds: Sequence[str] | None) -> list[Any]:
        """What a row must be, for the searches above: of one of these bases, of one of these kinds; None is any."""
        fields = (("base", None if bases is None else [_base(base) for base in bases]), ("kind", kinds))
        schema = self._index.schema
        return [self._must(self._query.term_set_query(schema, name, each)) for name, each in fields if each is not None]

    def holders(self, field: str, term: str) -> int:
        """How many rows hold a term; rows removed may still be counted for a while."""
        return min(len(self), int(self._searcher.doc_freq(field, term)))

    def beyond(self, row: int) -> bool:
        """Whether there is a row from `row` on."""
        return bool(self._searcher.search(self._from(row), 1, count=False).hits)

    def release(self) -> None:
        """Let another process write as soon as the merges under way are done, without waiting for them."""
        if self._writer is not None:
            self._merging = threading.Thread(target=self._writer.wait_merging_threads)
            self._writer = None
            self._merging.start()

    def close(self) -> None:
        """Let another process write, now."""
        self.release()
        if self._merging is not None:
            self._merging.join()
            self._merging = None

    def _terms(self, field: str, text: str) -> list[Any]:
        """A query a term; a repeated term counts again."""
        occur, schema = self._tantivy.Occur.Should, self._index.schema
        found = []
        for term, times in Counter(FIELDS[field][1](text)).items():
            each = self._query.term_query(schema, field, term, index_option="freq")
            found.append((occur, self._query.boost_query(each, float(times)) if times > 1 else each))
        return found

    def _from(self, row: int) -> Any:
        return self._query.range_query(self._index.schema, "row", self._tantivy.FieldType.Unsigned, row, None)

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
        for field in FIELDS:
            builder.add_text_field(field, tokenizer_name=_SPLIT, index_option="freq")
        for name in ("base", "kind", "phrases"):
            builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
        return builder.build()


def _base(base: str | None) -> str:
    """As a term: an unknown base is one too."""
    return "unknown" if base is None else f"known {base}"
