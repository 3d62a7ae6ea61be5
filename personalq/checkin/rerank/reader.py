"""Reads a request and a checkpoint's card word by word, by late interaction. It knows texts, not records.

Every word piece of the request looks for the most similar piece of the card, as in ColBERT (Khattab and Zaharia, SIGIR
2020); small heads, trained for this, weigh how much a piece of either side tells. The encoder itself, the packaged
MiniLM, is left as it is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from personalq.checkin.encoders import find
from personalq.errors import RerankerError

WEIGHTS = Path(__file__).with_name("reader.safetensors")
WIDTH = 384
HIDDEN = 48
REQUEST_PIECES = 32
CARD_PIECES = 64
_BATCH = 32
FRESH = 6
KEPT = 2048
"""Cards whose pieces are remembered, at most 50 kB each."""


class Heads(nn.Module):
    """What is trained: how much a piece of a request asks for, how much one of a card tells, and when two are alike."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.asks = _head(dropout, 0.0)
        self.tells = _head(dropout, 2.0)
        self.names = _head(dropout, 0.0)
        self.alike = nn.Parameter(torch.tensor([8.0, 0.6]))
        """Slope and middle of the sigmoid over cosines."""
        self.mix = nn.Parameter(torch.tensor([8.0, 2.0, -4.0, -1.0]))

    def forward(self, request: Tensor, cards: Tensor, filled: Tensor) -> Tensor:
        """`request` (pieces, width), `cards` (cards, pieces, width), `filled` (cards, pieces) -> (cards, 3).

        The columns: how much of the request a card covers, how much of the card the request says (both 0 to 1), and
        the log-odds that the card fits.
        """
        near = torch.einsum("qe,cde->cqd", normalize(request, dim=-1), normalize(cards, dim=-1))
        told = (near * torch.sigmoid(self.tells(cards)).squeeze(-1)[:, None]).masked_fill(~filled[:, None], -1.0)
        met = self._likeness(told.amax(-1))
        asked = softplus(self.asks(request)).squeeze(-1)
        cover = (met * asked).sum(-1) / asked.sum()
        gap = ((1 - met) * asked / asked.max()).amax(-1)
        named = softplus(self.names(cards)).squeeze(-1) * filled
        back = (self._likeness(near.amax(1)) * named).sum(-1) / named.sum(-1)
        odds = self.mix[0] * cover + self.mix[1] * back + self.mix[2] + self.mix[3] * gap
        return torch.stack([cover, back, odds], dim=-1)

    def _likeness(self, cosine: Tensor) -> Tensor:
        return torch.sigmoid(self.alike[0] * (cosine - self.alike[1]))


class Reader:
    """The packaged encoder with trained `Heads`. Loads on first use; safe for threads."""

    def __init__(self, heads: Heads | None = None) -> None:
        self._heads = heads
        self._pieces: Pieces | None = None
        self._known: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, text: str, cards: Sequence[str]) -> NDArray[np.float64]:
        """Cover, back and log-odds of every card, shape (cards, 3); zeros where either side has no word.

        Of the cards it does not know yet it reads the first `FRESH`, and says of the others what it says of the worst:
        encoding is what a request waits for, and the best candidates come first. Raises RerankerError when the heads
        cannot be read.
        """
        found = np.zeros((len(cards), 3))
        with self._lock, torch.inference_mode():
            pieces = self._loaded()
            request = pieces.encode([text], REQUEST_PIECES)[0].float()
            fresh = [card for card in dict.fromkeys(cards) if card not in self._known]
            unread = set(fresh[FRESH:])
            taken = [at for at, card in enumerate(cards) if card not in unread]
            told = dict(zip(taken, self._cards(pieces, [cards[at] for at in taken]), strict=True))
            full = [at for at in taken if len(told[at])]
            if len(request) and full:
                read = self._loaded_heads()(request, *padded([told[at] for at in full]))
                found[full] = read.double().numpy()
                found[[at for at, card in enumerate(cards) if card in unread]] = found[full].min(axis=0)
        return found

    def learn(self, cards: Sequence[str], on_progress: Callable[[int, int, str], None] | None = None) -> None:
        """Encode cards before they are asked for, the first `KEPT` of them; a request then only encodes itself."""
        wanted = list(dict.fromkeys(cards))[:KEPT]
        for start in range(0, len(wanted), _BATCH):
            with self._lock, torch.inference_mode():
                self._cards(self._loaded(), wanted[start : start + _BATCH])
            if on_progress:
                on_progress(min(start + _BATCH, len(wanted)), len(wanted), "reading checkpoints")

    def _cards(self, pieces: Pieces, cards: Sequence[str]) -> list[Tensor]:
        fresh = [card for card in dict.fromkeys(cards) if card not in self._known]
        self._known.update(zip(fresh, pieces.encode(fresh, CARD_PIECES), strict=True))
        found = []
        for card in cards:
            self._known.move_to_end(card)
            found.append(self._known[card])
        while len(self._known) > max(KEPT, len(cards)):
            self._known.popitem(last=False)
        return found

    def _loaded(self) -> Pieces:
        if self._pieces is None:
            self._pieces = Pieces()
        return self._pieces

    def _loaded_heads(self) -> Heads:
        if self._heads is None:
            heads = Heads().float()  # another thread that reads a model may have changed torch's default type
            try:
                heads.load_state_dict(load_file(WEIGHTS))
            except (OSError, SafetensorError, RuntimeError) as broken:
                raise RerankerError(f"{WEIGHTS.name} cannot be used ({broken}); install PersonalQ anew.") from broken
            self._heads = heads.eval()
        return self._heads


class Pieces:
    """The packaged encoder's last layer, piece by piece, in bfloat16 where the processor computes in it."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = find(None).folder
        native = "bf16" in _flags()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.bfloat16 if native else torch.float32).eval()

    def encode(self, texts: Sequence[str], longest: int) -> list[Tensor]:
        """One tensor a text, float16, shape (pieces, 384), without the markers at either end."""
        found: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        for start in range(0, len(order), _BATCH):
            chunk = order[start : start + _BATCH]
            batch = self._tokenizer(
                [texts[at] for at in chunk], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            hidden = self._model(**batch).last_hidden_state
            for at, row, mask in zip(chunk, hidden, batch["attention_mask"], strict=True):
                found[at] = row[1 : int(mask.sum()) - 1].half()
        return [found[at] for at in range(len(texts))]


def padded(cards: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Cards of different lengths as one tensor (cards, pieces, width), and which pieces are real."""
    longest = max(len(card) for card in cards)
    table = torch.zeros(len(cards), longest, WIDTH, dtype=torch.float32)
    filled = torch.zeros(len(cards), longest, dtype=torch.bool)
    for at, card in enumerate(cards):
        table[at, : len(card)] = card.float()
        filled[at, : len(card)] = True
    return table, filled


def _head(dropout: float, start: float) -> nn.Sequential:
    last = nn.Linear(HIDDEN, 1)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, start)
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Dropout(dropout), last)


def _flags() -> str:
    """What the processor says of itself; empty where the system does not tell."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
