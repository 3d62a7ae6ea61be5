"""Trains the reader's heads. It sees texts and which cards are right, no features."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from personalq.checkin.rerank.reader import CARD_PIECES, REQUEST_PIECES, Heads, Pieces, padded
from personalq.checkin.rerank.training.examples import Array, Example

EPOCHS = 3
BATCH = 8
RATE = 3e-4
MIX_RATE = 0.02
DECAY = 0.05
DROPOUT = 0.1
TAKEN_AWAY = 0.15
"""Share of requests shown without their right cards: no-matches made of nothing new."""
POINTWISE = 0.5
"""Weight of "does this card fit" beside "which card, or none"."""
RIGHT = 3.0
FOLDS = 4


class Encoded:
    """The pieces of every text of some examples, encoded once: the encoder is never trained."""

    def __init__(self, examples: Sequence[Example]) -> None:
        pieces = Pieces()
        cards = list(dict.fromkeys(card for example in examples for card in example.cards))
        texts = list(dict.fromkeys(example.text for example in examples))
        with torch.inference_mode():
            self._cards = dict(zip(cards, map(_own, pieces.encode(cards, CARD_PIECES)), strict=True))
            self._texts = dict(zip(texts, map(_own, pieces.encode(texts, REQUEST_PIECES)), strict=True))

    def odds(self, heads: Heads, example: Example, rows: Sequence[int]) -> Tensor:
        """What the heads say of some rows of an example, shape (rows, 3); zeros for a text without pieces."""
        request = self._texts[example.text].float()
        cards = [self._cards[example.cards[row]] for row in rows]
        if not len(request) or not all(len(card) for card in cards):
            return torch.zeros(len(rows), 3)
        found: Tensor = heads(request, *padded(cards))
        return found


def train(encoded: Encoded, examples: Sequence[Example], seed: int = 0) -> Heads:
    """Heads fitted to `examples` by AdamW: a softmax over the cards and "none", and a sigmoid a card."""
    torch.manual_seed(seed)
    dice = random.Random(seed)
    heads = Heads(DROPOUT).train()
    mixing = [heads.mix, heads.alike]
    weights = [each for each in heads.parameters() if all(each is not other for other in mixing)]
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "lr": RATE, "weight_decay": DECAY},
            {"params": mixing, "lr": MIX_RATE, "weight_decay": 0.0},
        ]
    )
    steps = EPOCHS * math.ceil(len(examples) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.05 * steps)) * max(0.02, 1 - step / steps)
    )
    for _ in range(EPOCHS):
        order = dice.sample(list(examples), len(examples))
        for start in tqdm(range(0, len(order), BATCH), desc="reader", leave=False):
            losses = [_loss(encoded, heads, each, dice) for each in order[start : start + BATCH]]
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return heads.eval()


def read_unseen(encoded: Encoded, examples: Sequence[Example]) -> None:
    """Set `read` of every example by heads trained on the other folds."""
    for fold in range(FOLDS):
        heads = train(encoded, [each for at, each in enumerate(examples) if at % FOLDS != fold])
        for example in examples[fold::FOLDS]:
            example.read = read(encoded, heads, example)


@torch.inference_mode()
def read(encoded: Encoded, heads: Heads, example: Example) -> Array:
    """Cover, back and log-odds of every candidate, shape (candidates, 3)."""
    return np.asarray(encoded.odds(heads, example, range(len(example.cards))).double().numpy())


def _loss(encoded: Encoded, heads: Heads, example: Example, dice: random.Random) -> Tensor:
    rows, right = example.models, example.right
    if right.any() and dice.random() < TAKEN_AWAY:
        rows = [row for row in rows if not right[row]]
    if not rows:
        return torch.zeros((), requires_grad=True)
    odds = encoded.odds(heads, example, rows)[:, 2]
    fits = torch.tensor(right[rows], dtype=torch.float32)
    none = 1.0 - fits.max()
    wanted = torch.cat([fits, none[None]])
    shares = torch.log_softmax(torch.cat([odds, torch.zeros(1)]), dim=0)
    which = -(wanted / wanted.sum() * shares).sum()
    return which + POINTWISE * binary_cross_entropy_with_logits(odds, fits, pos_weight=torch.tensor(RIGHT))


def _own(piece: Tensor) -> Tensor:
    """A copy outside inference mode, so that it can take part in training."""
    return torch.from_numpy(piece.numpy().copy())
