"""The store in a Qdrant collection, against the engine that comes with its client; no server is asked."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from personalq.checkin.clock import Clock
from personalq.checkin.lexical import okapi
from personalq.checkin.stores import qdrant
from personalq.checkin.stores.choose import Server, open_store
from personalq.checkin.stores.protocol import Entry, Query, Store
from personalq.checkin.words import words
from personalq.errors import CatalogError, SettingsError

qdrant_client = pytest.importorskip("qdrant_client")
TEXTS = ("grey dog", "grey dog dog", "red fox in the snow", "a grey cat", "dog")


def entries() -> list[Entry]:
    return [
        Entry(f"id-{n}", text, (), None if n % 2 else "SD 1.5", "lora", f"print {n}") for n, text in enumerate(TEXTS)
    ]


def opened(folder: Path | None, encoder: str = "e") -> Store:
    return open_store(Server(folder=folder), 0, 4, encoder, None)


def filled(folder: Path) -> Store:
    store = opened(folder)
    vectors = np.eye(5, 4, dtype=np.float32)
    store.add(entries(), vectors, vectors)
    return store


def best(store: Store, text: str) -> list[str]:
    ranked = store.search(Query(text, np.ones(4, dtype=np.float32) / 2), Clock()).lists[0]
    return [store.id(row) for row in ranked.rows.tolist()]


def test_the_order_is_that_of_rank_bm25(tmp_path: Path) -> None:
    scores = okapi([words(text) for text in TEXTS]).get_scores(["grey", "dog"])
    expected = [f"id-{row}" for row in np.argsort(-scores, kind="stable") if scores[row] > 0]
    assert set(best(filled(tmp_path), "grey dog")[:2]) == set(expected[:2])
    assert set(best(filled(tmp_path / "two"), "grey dog")) == set(expected)


def test_a_collection_is_found_again_and_kept_apart_by_encoder(tmp_path: Path) -> None:
    filled(tmp_path).close()
    again = opened(tmp_path)
    assert dict(again.held()) == {entry.id: entry.fingerprint for entry in entries()}
    before = again.rarity("dog")
    again.recall(entries())
    assert again.rarity("dog") < before
    assert again.rarity("fox") > again.rarity("dog")
    again.close()
    assert len(opened(tmp_path, "another")) == 0


def test_replicas_share_what_is_stored_and_know_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    client = qdrant_client.QdrantClient(":memory:")
    monkeypatch.setattr(qdrant, "_connected", lambda *_: client)
    one, two = opened(None), opened(None)
    vectors = np.eye(5, 4, dtype=np.float32)
    one.add(entries(), vectors, vectors)
    assert best(one, "fox") == ["id-2"]
    assert best(two, "fox") == []
    assert best(opened(None), "fox") == ["id-2"]


def test_a_server_that_does_not_answer_says_what_to_check() -> None:
    with pytest.raises(CatalogError, match="PERSONALQ_QDRANT_URL"):
        open_store(Server("http://127.0.0.1:9"), 0, 4, "e", None)


def test_a_missing_client_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(SettingsError, match="pip install qdrant-client=="):
        opened(tmp_path)
