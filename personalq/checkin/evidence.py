"""Whether an answer in the user's own words speaks for one model. It knows words and scores, not turns or decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from personalq.checkin.profile import Profile
from personalq.checkin.words import STOPWORDS, words
from personalq.records import Checkpoint

_COVERED = 0.25
"""Share of the answer's words that a model must say to be meant by them."""
_MORE = 0.15
"""Share of them by which it must say more than any other option."""
_LIKELIER = 3.0
"""Log-odds of the answer alone by which a model that fits it better than "none" must be ahead of every other option."""
_NEARER = 0.1
"""Cosine by which it must be nearer as well, where it fits no better than "none"."""
_REQUESTED = 0.5
"""Share of its subject that a model must say for an answer to be a request for it rather than mere words.

The thresholds were set by hand on typed answers: some 55 that mean something and 45 that do not over the embedded
repository, those of the development queries, and those of the reranker's training requests. What fits every option
alike ("the happy dog") puts one ahead by up to 2.7; what fits none ("why is the sky blue?" of a blue dog) by up to 6.2,
with 0.06 of the cosine and 0.16 of the words. Real answers mostly lie well above: "the dog in the red scarf" says 0.56
of its words and 0.17 more. Known misses: "hello there friend" is taken for "my friend's dog", "wearing a cap" is not
understood of a hat. Of new requests the best model says 0.77 of the subject or more, of nonsense with a namesake
("banana spaceship") at most 0.37.
"""


@dataclass(frozen=True)
class Standing:
    """How a model stands to an answer: the share of its words it says, the cosine, and its log-odds against "none"."""

    covered: float
    alike: float
    logit: float
    quoted: bool = False
    """Whether it says the answer word for word, in several words that tell."""


def covered(said: Mapping[str, float], profile: Profile) -> float:
    """The share of weighted words that a checkpoint says anywhere, 0 to 1; 0 without words."""
    total = sum(said.values())
    return sum(weight * profile.match(word)[1] for word, weight in said.items()) / total if total else 0.0


def quoted(text: str, checkpoint: Checkpoint) -> bool:
    """Whether two or more telling words of a text stand in a checkpoint's words as they do in the text.

    So "the blue dog" is told from a dog with a blue bandana.
    """
    telling = [word for word in words(text, glued=False) if word not in STOPWORDS]
    said = " ".join([checkpoint.name, checkpoint.description, *checkpoint.sample_prompts])
    return len(telling) > 1 and f" {' '.join(telling)} " in f" {' '.join(words(said, glued=False))} "


def speaks_for(one: Standing, others: Iterable[Standing]) -> bool:
    """Whether an answer means one model and none of the others: by its words, or it is clearly likelier."""
    rivals = list(others)
    if not rivals:
        return False
    more = one.covered - max(other.covered for other in rivals)
    ahead = one.logit - max(other.logit for other in rivals)
    nearer = one.alike - max(other.alike for other in rivals)
    named = one.covered >= _COVERED and more >= _MORE and ahead > 0
    alone = one.quoted and not any(other.quoted for other in rivals)
    return alone or named or (ahead >= _LIKELIER and (one.logit >= 0 or nearer >= _NEARER))


def asks_for(subject: Mapping[str, float], profiles: Iterable[Profile]) -> bool:
    """Whether these checkpoints together say enough of what a text is about for it to be a request for them."""
    found = list(profiles)
    best = {word: max((profile.match(word)[1] for profile in found), default=0.0) for word in subject}
    total = sum(subject.values())
    return total > 0 and sum(weight * best[word] for word, weight in subject.items()) >= _REQUESTED * total
