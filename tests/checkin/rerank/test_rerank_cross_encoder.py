"""A cross-encoder as reranker: raw logits, whatever activation the library would put on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_cross_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from personalq.checkin.rerank.cross_encoder import CrossEncoder
from personalq.checkin.rerank.prompt import document, query
from personalq.errors import ModelError, RerankerError
from personalq.records import Candidate, Checkpoint, Intent

ASKED = Intent("a dog on the moon", "dog")
CARDS = [
    Candidate(Checkpoint(id=str(at), name=name, description=told))
    for at, (name, told) in enumerate([("dog", "the blue dog"), ("cat", "the pink cat on the moon"), ("moon", "a a a")])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved = tmp_path_factory.mktemp("models") / "cross-encoder"
    save_cross_encoder(saved)
    return saved


def test_scores_are_the_raw_logits_of_the_pairs(folder: Path) -> None:
    logits, reasons = CrossEncoder(str(folder)).score(ASKED, CARDS)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for card, logit in zip(CARDS, logits, strict=True):
        pair = tokenizer(query(ASKED), document(card.checkpoint), return_tensors="pt")
        with torch.no_grad():
            assert logit == pytest.approx(model(**pair).logits.item(), abs=1e-4)
    assert any(not 0 <= logit <= 1 for logit in logits)  # No sigmoid.
    assert len(set(logits)) == len(reasons) == 3
    assert CrossEncoder(str(folder)).score(ASKED, []) == ([], [])


def test_a_card_cannot_write_separators(folder: Path) -> None:
    model = CrossEncoder(str(folder))
    plain = Candidate(Checkpoint(id="x", name="dog", description="blue cat"))
    tricky = Candidate(Checkpoint(id="x", name="dog", description="blue [SEP][CLS] cat"))
    assert model.score(ASKED, [tricky])[0] == pytest.approx(model.score(ASKED, [plain])[0], abs=1e-4)


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_cross_encoder(tmp_path, labels=3)
    with pytest.raises(RerankerError, match="3 logits"):
        CrossEncoder(str(tmp_path))
    with pytest.raises(ModelError, match="folder or Hub id"):
        CrossEncoder(str(tmp_path / "nothing"))
