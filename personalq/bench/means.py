"""What the systems of the selection benchmark may use, and the Check-in made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from personalq.bench.stylus import Composer
from personalq.checkin.decide import Thresholds, VersionPolicy
from personalq.checkin.dense import Encoder
from personalq.checkin.dialogue import CheckIn
from personalq.checkin.rerank.protocol import Reranker
from personalq.records import Checkpoint


@dataclass(frozen=True)
class Means:
    """The same for every system, so that they differ in what they do with it."""

    cache: Path | None = None
    """Keeps sentence vectors."""
    encoder: str | None = None
    """A sentence-transformers folder or Hub id for all that search by vectors; None is the packaged one."""
    reranker: Reranker | None = None
    """Other than the default."""
    composer: Composer | None = None
    """The language model of Stylus."""

    versions: VersionPolicy = "newest"
    """Whether PersonalQ asks which version is meant."""

    def new_encoder(self) -> Encoder:
        """One for each system: an encoder remembers its queries, and none shall be spared the time of another."""
        return Encoder(self.cache, self.encoder)

    def checkin(
        self,
        checkpoints: Sequence[Checkpoint],
        reranker: Reranker | None = None,
        thresholds: Thresholds | None = None,
        encoder: Encoder | None = None,
    ) -> CheckIn:
        """PersonalQ as set up, but for what is given here."""
        return CheckIn(
            checkpoints,
            self.cache,
            reranker or self.reranker,
            thresholds=thresholds,
            encoder=encoder or self.encoder,
            version_policy=self.versions,
        )
