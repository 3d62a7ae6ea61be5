"""Names of base models: spotting one in a sentence, and whether two of them go together. It loads nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from personalq.catalog.bases import SOME_STABLE_DIFFUSION, family, normal_base

_SPOKEN = (
    ("SDXL 1.0", r"sd[\s-]?xl(?:\s?1\.0)?|stable diffusion xl"),
    ("SD 3.5", r"(?:sd|stable diffusion)\s?3(?:\.5)?"),
    ("SD 2.1", r"(?:sd|stable diffusion)[\s-]?v?2(?:\.[01])?|(?<=on )2\.[01]|(?<=for )2\.[01]"),
    ("SD 1.5", r"(?:sd|stable diffusion)[\s-]?v?1(?:\.[45])?|sd15|(?<=on )1\.[45]|(?<=for )1\.[45]"),
    ("FLUX.1-dev", r"flux(?:\.1)?(?:[\s-]?(?:dev|schnell))?"),
    ("Pony", r"pony (?:diffusion|xl|v6)(?: xl)?|(?<=on )pony(?= xl)"),
    ("Illustrious", r"illustrious(?:[\s-]?xl)?"),
    ("Z-Image", r"z[\s-]image"),
)

_STABLE = ("SD ", "SDXL", SOME_STABLE_DIFFUSION)


def fits(base: str | None, wanted: str | None) -> bool | None:
    """True or False when both names are known, else None: unknown is not a mismatch."""
    mine, theirs = (normal_base(name) if name else None for name in (base, wanted))
    if not mine or not theirs:
        return None
    if SOME_STABLE_DIFFUSION in (mine, theirs):
        return None if family(mine).startswith(_STABLE) and family(theirs).startswith(_STABLE) else False
    return family(mine) == family(theirs)


def spoken(text: str, known: Sequence[str] = ()) -> list[tuple[str, tuple[int, int]]]:
    """The bases a sentence names, each with where it stands; `known` adds the names a catalogue uses."""
    patterns = [*_SPOKEN, *((name, re.escape(name.casefold())) for name in known if len(name) > 3)]
    found: list[tuple[str, tuple[int, int]]] = []
    for name, pattern in patterns:
        for match in re.finditer(rf"(?<![\w.])(?:{pattern})(?!\w|\.\d)", text, re.IGNORECASE):
            if not any(start < match.end() and match.start() < end for _, (start, end) in found):
                found.append((name, match.span()))
    return sorted(found, key=lambda item: item[1])
