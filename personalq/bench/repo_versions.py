"""One version of a concept, and the words and dates that describe it. It draws no query."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from personalq.bench.repo_concepts import WEAR, Category

VERSIONS = 50
TODAY = date(2026, 1, 15)
"""The day on which all requests are made."""
Row = dict[str, Any]

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
SEASONS = {"spring": 3, "summer": 6, "autumn": 9}
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty")
MARGIN = 21
"""Days by which people differ on where a season begins and ends."""


@dataclass(frozen=True)
class Trained:
    """One version: when and how it was trained."""

    category: Category
    number: int
    made: date
    look: str
    light: str
    dataset: str
    steps: int

    @property
    def id(self) -> str:
        """Such as "waldo-corgi-v17"."""
        return f"{self.category.slug}-v{self.number}"

    @property
    def file(self) -> str:
        """The file's stem."""
        return f"{self.category.slug.replace('-', '_')}_v{self.number}"

    def record(self) -> Row:
        """The checkpoint as a line of a catalogue."""
        joint = "with the" if self.category.style or self.category.looks is not WEAR else "wearing the"
        return {
            "id": self.id,
            "name": self.category.name,
            "version": f"v{self.number}",
            "kind": "lora",
            "base_model": "SD 1.5",
            "triggers": [self.category.trigger],
            "class_noun": None if self.category.style else self.category.noun,
            "description": f"{self.category.about} {joint.capitalize()} {self.look}, {self.light}. "
            f"{self.steps} steps on {self.dataset}.",
            "tags": ["style" if self.category.style else self.category.noun],
            "category": "style" if self.category.style else None,
            "created_at": self.made.isoformat(),
            "file": f"{self.file}.safetensors",
        }


def fill(frames: Sequence[str], meant: Trained, draw: random.Random, period: str = "") -> str:
    """A frame with everything in it that `meant` has."""
    category, number = meant.category, meant.number
    return draw.choice(frames).format(
        thing=draw.choice(category.calls),
        noun=category.noun,
        scene=draw.choice(category.scenes),
        n=number,
        nth=ordinal(number),
        word=spelled(number) if number < 60 else str(number),
        other=number + 1 if number < VERSIONS else number - 1,
        file=meant.file,
        day=_day(meant.made, draw),
        month=month_of(meant.made),
        monthname=MONTHS[meant.made.month - 1],
        season=season_of(meant.made)[0],
        look=meant.look,
        light=meant.light,
        dataset=meant.dataset,
        steps=meant.steps,
        period=period,
    )


def ordinal(number: int) -> str:
    """1st, 2nd, 11th, 23rd."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def spelled(number: int) -> str:
    """A number below 60 in words."""
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


def _day(made: date, draw: random.Random) -> str:
    name = MONTHS[made.month - 1]
    return draw.choice(
        (
            made.isoformat(),
            f"{made.day} {name} {made.year}",
            f"{name} {made.day}, {made.year}",
            f"the {ordinal(made.day)} of {name} {made.year}",
        )
    )


def month_of(made: date) -> str:
    """Such as "March 2024"."""
    return f"{MONTHS[made.month - 1]} {made.year}"


def season_of(made: date) -> tuple[str, date, date]:
    """Name with year, first day and last day of the spring, summer or autumn of a day; "" in winter."""
    for name, first in SEASONS.items():
        begins, ends = date(made.year, first, 1), date(made.year, first + 3, 1) - timedelta(days=1)
        if begins <= made <= ends:
            past = made.year == TODAY.year - 1
            return (f"last {name}" if past else f"{name} {made.year}"), begins, ends
    return "", made, made


def alone_in_season(meant: Trained, versions: Sequence[Trained]) -> bool:
    """Whether no other version was made in the season of `meant`, or close to it."""
    name, begins, ends = season_of(meant.made)
    margin = timedelta(days=MARGIN)
    return bool(name) and sum(begins - margin <= each.made <= ends + margin for each in versions) == 1


def period_of(meant: Trained, versions: Sequence[Trained], draw: random.Random) -> tuple[str, list[Trained]]:
    """A month, season or year around `meant`, and the versions made in it."""
    name, begins, ends = season_of(meant.made)
    which = draw.choice(("month", "season", "year"))
    if which == "season":
        return name, [each for each in versions if name and begins <= each.made <= ends]
    if which == "year":
        return str(meant.made.year), [each for each in versions if each.made.year == meant.made.year]
    return month_of(meant.made), [each for each in versions if month_of(each.made) == month_of(meant.made)]


def misspelt(row: Row, draw: random.Random) -> Row | None:
    """One slip of the fingers in a word of six letters or more: two letters swapped, one left out or one doubled."""
    words = str(row["query"]).split(" ")
    longer = [at for at, word in enumerate(words) if word.isalpha() and len(word) >= 6 and word not in MONTHS]
    if not longer:
        return None
    at = draw.choice(longer)
    word, spot = words[at], draw.randint(1, len(words[at]) - 3)
    words[at] = draw.choice(
        (
            word[:spot] + word[spot + 1] + word[spot] + word[spot + 2 :],
            word[:spot] + word[spot + 1 :],
            word[:spot] + word[spot] + word[spot:],
        )
    )
    return {**row, "query": " ".join(words)} if words[at] != word else None
