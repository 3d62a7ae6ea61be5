"""A reranker over a local cross-encoder of sentence-transformers, by its raw logits. It runs no code of the model's
repository.

`CrossEncoder.predict` puts a sigmoid over models of one label unless told otherwise, and some models store another
activation (sentence-transformers#1058, #1262): the identity is asked for, so that one calibration fits one model.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from personalq.checkin.rerank.prompt import document, query
from personalq.checkin.rerank.protocol import Calibration, OptedIn, Scores
from personalq.errors import ModelError, RerankerError
from personalq.records import Candidate, Intent

LONGEST = 512
"""Tokens of the longest pair; the longer text is cut first."""
BATCH = 16


class CrossEncoder(OptedIn):
    """s_c = the model's one logit for (request, checkpoint)."""

    name = "cross-encoder"
    assumed = Calibration(temperature=1.0, none_logit=0.0)

    def __init__(self, model: str, calibration: Calibration | None = None, device: str = "cpu") -> None:
        """`model` is a folder or a Hub id.

        Raises ModelError when it cannot be loaded, RerankerError when it gives more than one logit a pair.
        """
        super().__init__(model, calibration)
        self._model = _load(model, device)
        if self._model.num_labels != 1:
            raise RerankerError(f"{model} gives {self._model.num_labels} logits a pair; choose a reranker of one.")
        self._reserved = [text for text in self._model.tokenizer.get_added_vocab() if text]
        self._lock = threading.Lock()

    def score(self, intent: Intent, candidates: Sequence[Candidate]) -> Scores:
        """Raises RerankerError when the model runs out of memory."""
        if not candidates:
            return [], []
        asked = self._inert(query(intent))
        pairs = [(asked, self._inert(document(candidate.checkpoint))) for candidate in candidates]
        try:
            with self._lock:
                found = self._model.predict(
                    pairs, batch_size=BATCH, activation_fn=torch.nn.Identity(), show_progress_bar=False
                )
        except RuntimeError as failed:
            raise RerankerError(f"The cross-encoder {self.model} failed ({type(failed).__name__}).") from failed
        logits = [float(logit) for logit in found]
        return logits, [f"the cross-encoder gives it {logit:.1f}" for logit in logits]

    def _inert(self, text: str) -> str:
        """`text` without anything the tokenizer would read as one of its added tokens, such as a separator."""
        while found := next((reserved for reserved in self._reserved if reserved in text), None):
            text = text.replace(found, "")
        return text


def _load(model: str, device: str) -> Any:
    try:
        from sentence_transformers import CrossEncoder as Pairs

        return Pairs(
            model,
            device=None if device == "auto" else device,
            max_length=LONGEST,
            model_kwargs={"use_safetensors": True},
        )
    except (ImportError, OSError, ValueError, KeyError) as broken:
        raise ModelError(
            f"The cross-encoder {model!r} cannot be loaded ({type(broken).__name__}); give a folder or Hub id of "
            "one in safetensors, and check the connection if it has yet to be downloaded."
        ) from broken
