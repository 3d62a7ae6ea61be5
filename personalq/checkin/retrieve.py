"""The catalogue as an index: a slot of a request in, a short list of candidates out. It decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personalq.catalog.document import search_text
from personalq.checkin.bases import fits
from personalq.checkin.clock import Clock
from personalq.checkin.dense import Encoder, Progress
from personalq.checkin.fuse import exact_hits, reciprocal_ranks, shortlist
from personalq.checkin.intent import remaining
from personalq.checkin.lexical import Lexical
from personalq.checkin.profile import Profile, body, title
from personalq.checkin.words import stem, words
from personalq.records import Candidate, Checkpoint, Intent


def allowed(checkpoint: Checkpoint, intent: Intent, loaded: str | None) -> bool:
    """False for another base than the one loaded or asked for, and for another kind where the kind asked for is not
    simply "lora", which people say of any checkpoint. An unknown base is allowed."""
    if fits(checkpoint.base, loaded) is False or fits(checkpoint.base, intent.base) is False:
        return False
    return intent.kind in (None, "lora", checkpoint.kind)


class Index:
    """Everything that can be known of a catalogue before a request. Duplicate ids keep the first record."""

    def __init__(
        self, checkpoints: Sequence[Checkpoint], cache: Path | None = None, on_progress: Progress | None = None
    ) -> None:
        unique: dict[str, Checkpoint] = {}
        for checkpoint in checkpoints:
            unique.setdefault(checkpoint.id, checkpoint)
        self.checkpoints = list(unique.values())
        self.profiles = [Profile.of(checkpoint) for checkpoint in self.checkpoints]
        self.by_id = {profile.checkpoint.id: profile for profile in self.profiles}
        self.bases = tuple(sorted({checkpoint.base for checkpoint in self.checkpoints if checkpoint.base}))
        self.nouns = frozenset(
            stem(noun) for checkpoint in self.checkpoints for noun in words(checkpoint.class_noun or "", glued=False)
        )
        self._row = {checkpoint.id: row for row, checkpoint in enumerate(self.checkpoints)}
        self._members: dict[str, list[Profile]] = {}
        for profile in self.profiles:
            self._members.setdefault(profile.group, []).append(profile)
        self._lexical = Lexical([search_text(checkpoint) for checkpoint in self.checkpoints])
        self._encoder = Encoder(cache)
        texts = [title(checkpoint) for checkpoint in self.checkpoints] + [body(item) for item in self.checkpoints]
        vectors = self._encoder.documents(texts, on_progress)
        self._titles, self._bodies = vectors[: len(self.checkpoints)], vectors[len(self.checkpoints) :]
        if texts:
            self._encoder.query("ready")

    @property
    def rarity(self) -> Callable[[str], float]:
        """The idf of a word in this catalogue."""
        return self._lexical.rarity

    def members(self, group: str) -> tuple[Checkpoint, ...]:
        """All versions of one model."""
        return tuple(profile.checkpoint for profile in self._members.get(group, ()))

    def candidates(self, intent: Intent, loaded: str | None, clock: Clock) -> list[Candidate]:
        """The short list for one slot, best first, of the checkpoints that are `allowed`.

        Adds the milliseconds of `lexical`, `dense` and `fuse` to `clock`.
        """
        if not self.checkpoints:
            return []
        text = remaining(intent)
        scores = self._scores(text, clock)
        with clock.stage("fuse"):
            usable = np.asarray([allowed(checkpoint, intent, loaded) for checkpoint in self.checkpoints])
            lists = [np.where(usable, each, 0.0) for each in scores]
            fused = reciprocal_ranks(lists)
            hits = exact_hits(text, self.profiles)
            rows = [row for row in shortlist(fused, lists, hits) if usable[row]]
            return self._gather(text, rows, scores, fused)

    def rescore(self, intent: Intent, ids: Sequence[str], clock: Clock) -> list[Candidate]:
        """The checkpoints `ids`, in their order, scored for another text. Unknown ids are left out."""
        text = remaining(intent)
        scores = self._scores(text, clock)
        rows = [self._row[wanted] for wanted in ids if wanted in self._row]
        return self._gather(text, rows, scores, reciprocal_ranks(scores))

    def _scores(self, text: str, clock: Clock) -> list[NDArray[np.float64]]:
        """BM25 over words and grams, cosines of titles and bodies; four arrays of shape (N,)."""
        with clock.stage("lexical"):
            found = [self._lexical.by_words(text), self._lexical.by_grams(text)]
        with clock.stage("dense"):
            query = self._encoder.query(text)
            found += [(vectors @ query).astype(np.float64) for vectors in (self._titles, self._bodies)]
        return found

    def _gather(
        self, text: str, rows: Sequence[int], scores: Sequence[NDArray[np.float64]], fused: NDArray[np.float64]
    ) -> list[Candidate]:
        best_words, best_grams = self._lexical.ceilings(text)
        by_words, by_grams, titles, bodies = scores
        return [
            Candidate(
                checkpoint=self.checkpoints[row],
                lexical=float(by_words[row]) / best_words,
                grams=float(by_grams[row]) / best_grams,
                dense=float(titles[row]),
                body=float(bodies[row]),
                fused=float(fused[row]),
            )
            for row in rows
        ]
