"""The words for the pictures: every caption the base learns, and the prompts it is judged by."""

from __future__ import annotations

import random
from dataclasses import dataclass

from draw import COLOURABLE, HUES, SCENES, STYLES, SUBJECTS

PLACES = {
    "beach": ("on the beach", "at the beach", "by the sea"),
    "snow": ("in the snow", "on a snowy mountain", "in winter"),
    "forest": ("in the forest", "in the woods", "among trees"),
    "city": ("in the city", "on a city street", "downtown"),
    "desert": ("in the desert", "among cacti", "on a sand dune"),
    "space": ("in space", "in outer space", "among the stars"),
    "room": ("in a room", "at home", "in the living room"),
    "meadow": ("in a meadow", "on the grass", "in a field of flowers"),
    "underwater": ("under the sea", "underwater", "at the bottom of the ocean"),
    "plain": ("on a plain background", "", "in a studio"),
}
OPENINGS = {
    "photo": ("a photo of", "a picture of", ""),
    "watercolor": ("a watercolor of", "a watercolor painting of"),
    "sketch": ("a pencil sketch of", "a drawing of"),
    "pixel": ("pixel art of", "a pixel art picture of"),
    "night": ("a night photo of", "a dark night picture of"),
}
ENDINGS = {
    "photo": ("",),
    "watercolor": ("watercolor", "watercolor style"),
    "sketch": ("pencil sketch", "sketch style"),
    "pixel": ("pixel art", "pixel art style"),
    "night": ("at night", "night"),
}
SYNONYMS = {
    "dog": ("dog", "dog", "puppy"),
    "cat": ("cat", "cat", "kitten"),
    "mug": ("mug", "mug", "cup"),
    "car": ("car", "car", "red car"),
    "rocket": ("rocket", "rocket", "spaceship"),
    "sunflower": ("sunflower", "sunflower", "flower"),
}


@dataclass(frozen=True)
class Facts:
    """What a picture shows."""

    subject: str
    scene: str
    style: str
    hue: str | None = None


def draw_facts(rng: random.Random) -> Facts:
    """The training distribution: 40 % plain photos, the rest over the other styles."""
    style = "photo" if rng.random() < 0.4 else rng.choice([s for s in STYLES if s != "photo"])
    subject = rng.choice(SUBJECTS)
    hue = rng.choice(list(HUES)) if subject in COLOURABLE and rng.random() < 0.5 else None
    return Facts(subject, rng.choice(list(SCENES)), style, hue)


def article(noun: str) -> str:
    """The noun phrase with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def caption(rng: random.Random, facts: Facts, noun: str | None = None) -> str:
    """One of the ways to say the facts; `noun` overrides the subject's words (a concept's trigger)."""
    if noun is None:
        noun = facts.subject if facts.hue else rng.choice(SYNONYMS.get(facts.subject, (facts.subject,)))
        noun = article(f"{facts.hue} {noun}" if facts.hue else noun)
    place = rng.choice(PLACES[facts.scene])
    if rng.random() < 0.5:
        parts, tail = [rng.choice(OPENINGS[facts.style]), noun, place], ""
    else:
        parts, tail = [rng.choice(OPENINGS["photo"]), noun, place], rng.choice(ENDINGS[facts.style])
    text = " ".join(part for part in parts if part)
    return f"{text}, {tail}" if tail else text
