"""Sentence vectors: what they mean, that no text is encoded twice, and where another encoder may come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from personalq.checkin.dense import WIDTH, Encoder
from personalq.checkin.encoders import find
from personalq.errors import ModelError


class Seen:
    """How many texts each call had to encode."""

    def __init__(self) -> None:
        self.totals: list[int] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        self.totals.append(total)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model as somebody's own folder, with one more file."""
    folder = tmp_path_factory.mktemp("encoders") / "my-encoder"
    shutil.copytree(find(None).folder, folder)
    (folder / "notes.txt").write_text("mine")
    return folder


def test_vectors_are_unit_length_meaningful_and_cached(tmp_path: Path) -> None:
    texts = ["a small dog", "a puppy", "a steam engine"]
    seen = Seen()
    first = Encoder(tmp_path).documents(texts, seen)
    assert first.shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    assert first[0] @ first[1] > first[0] @ first[2]
    again = Encoder(tmp_path).documents(["a new one", *texts, "a puppy"], seen)
    assert seen.totals == [3, 1]
    np.testing.assert_array_equal(again[1:4], first)
    np.testing.assert_array_equal(again[4], first[1])


def test_a_broken_cache_is_computed_anew(tmp_path: Path) -> None:
    first = Encoder(tmp_path).documents(["a dog"])
    for file in tmp_path.rglob("vectors.npy"):
        file.write_bytes(b"\x93NUMPY but nothing else")
    seen = Seen()
    np.testing.assert_allclose(Encoder(tmp_path).documents(["a dog"], seen), first, atol=1e-6)
    assert seen.totals == [1]


def test_queries_of_one_batch_equal_those_asked_one_by_one() -> None:
    encoder, other = Encoder(), Encoder()
    texts = ["ember fox", "my dog at the beach with a very long leash", "ember fox"]
    together = encoder.queries(texts)
    for text, vector in zip(texts, together, strict=True):
        assert vector @ other.query(text) > 0.99999
    assert encoder.query(texts[1]) is together[1]


def test_no_texts_are_no_vectors(tmp_path: Path) -> None:
    assert Encoder(tmp_path).documents([]).shape == (0, WIDTH)
    assert Encoder(tmp_path).queries([]) == []


def test_another_encoder_keeps_its_vectors_apart(copied: Path, tmp_path: Path) -> None:
    packaged, mine = Encoder(tmp_path), Encoder(tmp_path, str(copied))
    assert packaged.identity != mine.identity
    assert mine.width == WIDTH
    packaged.documents(["a dog"])
    seen = Seen()
    mine.documents(["a dog"], seen)
    assert seen.totals == [1]
    (copied / "notes.txt").write_text("changed")
    assert Encoder(None, str(copied)).identity != mine.identity


def test_an_encoder_that_is_nowhere_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"hf download nobody/no-such-encoder"):
        Encoder(None, "nobody/no-such-encoder")
    with pytest.raises(ModelError, match="no encoder at"):
        Encoder(None, str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="no sentence-transformers model"):
        Encoder(None, str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Encoder(None, str(tmp_path))
