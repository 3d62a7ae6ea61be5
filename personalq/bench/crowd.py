"""A made-up catalogue of any size, and requests for it, from a seed. It measures nothing.

Names and descriptions are drawn from a small vocabulary of everyday words and a large one of invented words, the rarer
the more, so that posting lists have the lengths that real metadata gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from personalq.records import Checkpoint

Some = TypeVar("Some")
_ADJECTIVES = """amber brass brittle chalk cobalt copper crooked dusty ember faded feather frosty gentle gilded glass
hazel hollow inky ivory jade knitted lacquer lantern lemon linen lunar marble meadow misty mossy nettle paper pearl
pepper plum quilted rusty saffron salty silver smoky speckled striped sunny tin velvet waxen wicker willow woolly"""
_NOUNS = """badger barn bell boat bridge broom castle cat chair clock cottage crab dog donkey dragon drum fern ferry
fiddle fox frog goose hare harbour hedgehog heron horse jug kettle kite ladder lamp lighthouse lizard mill mole moth
mug octopus otter owl pear piano pony rabbit raven robot sheep ship snail sofa sparrow teapot toad tower train tram
turtle violin wagon walrus whale windmill wolf wren"""
_STYLES = """aquatint charcoal collage crayon embroidery engraving etching fresco gouache linocut mosaic pastel
patchwork plasticine silhouette sketch stencil tapestry watercolour woodcut"""
_PLACES = """on a beach|in the snow|under a bridge|by the sea|on the moon|in a kitchen|at night|on a red sofa|in the
rain|beside a river|on a hill at dawn|in a market"""
_EVERYDAY = """a and the of with in on for is this was made trained style model lora picture pictures light colour
small large old new soft bright dark works best at weight use trigger word images set steps good results prompt"""
_ONSETS = (*"bcdfghklmnprstvwz", "br", "cl", "dr", "fl", "gr", "pl", "qu", "st", "tr")
_MIDDLES, _ENDS = "aeiou", "lmnrstxk"
_BASES = ("SD 1.5", "SD 1.5", "SD 1.5", "SDXL 1.0", "SDXL 1.0", "FLUX.1-dev", "SD 2.1", None)
_INVENTED = 40_000
_MEDIAN_WORDS = 75
_PER_MODEL = 3


def catalogue(count: int, seed: int = 0) -> Iterator[Checkpoint]:
    """`count` checkpoints, up to three versions of one model after each other; about 100 words of metadata each."""
    draw = np.random.default_rng(seed)
    invented = list(dict.fromkeys(_invent(draw) for _ in range(_INVENTED)))
    rare = invented[200:]
    adjectives, nouns, styles = _ADJECTIVES.split(), _NOUNS.split(), _STYLES.split()
    made = model = 0
    while made < count:
        first, second, own = _pick(draw, adjectives), _pick(draw, adjectives), _pick(draw, rare)
        is_style = draw.random() < 0.25
        what = _pick(draw, styles if is_style else nouns)
        name = f"{own.title()} {first.title()} {what.title()}"
        for version in range(1, min(int(draw.integers(1, _PER_MODEL + 1)), count - made) + 1):
            yield Checkpoint(
                id=f"made-{model}-v{version}",
                name=name,
                kind="ti" if draw.random() < 0.1 else "lora",
                base=_pick(draw, _BASES),
                triggers=(f"{own[:4]}{model % 97} {what}",),
                class_noun=None if is_style else what,
                role="style" if is_style else "subject",
                tags=(what, first, second, _pick(draw, invented)),
                aliases=(f"{own}_{what}_v{version}",),
                description=_description(draw, invented, f"{first} {what}"),
                version=f"v{version}",
                version_ordinal=float(version),
                group_id=f"made-{model}",
                created_at=f"20{int(draw.integers(22, 26))}-{int(draw.integers(1, 13)):02}-11",
            )
            made += 1
        model += 1


def requests(checkpoints: list[Checkpoint], count: int, seed: int = 1) -> list[str]:
    """`count` different requests: by name, misspelt, by trigger, by looks, in a style, and for what is not there."""
    draw = np.random.default_rng(seed)
    places = " ".join(_PLACES.split()).split("|")
    subjects = [each for each in checkpoints if each.role == "subject"] or checkpoints
    looks = [each for each in checkpoints if each.role == "style"] or checkpoints
    found: dict[str, None] = {}
    while len(found) < count:
        each, look, place = _pick(draw, subjects), _pick(draw, looks), _pick(draw, places)
        own = each.name.split()[0]
        forms = (
            f"{each.name} {place}",
            f"{own[:2]}{own[3:]} {each.class_noun} {place}",
            f"{each.triggers[0]}, {place}",
            f"my {each.tags[1]} {each.class_noun} {place}, {each.version}",
            f"{each.name} in the {look.name} style {place}",
            f"a {_pick(draw, _ADJECTIVES.split())} {_pick(draw, _NOUNS.split())} {place} for SDXL",
            f"a {_invent(draw)} {_invent(draw)} {place}",
        )
        found[_pick(draw, forms)] = None
    return list(found)


def _pick(draw: np.random.Generator, some: Sequence[Some]) -> Some:
    return some[int(draw.integers(len(some)))]


def _invent(draw: np.random.Generator) -> str:
    syllables = [_pick(draw, _ONSETS) + _pick(draw, _MIDDLES) for _ in range(int(draw.integers(2, 4)))]
    return "".join(syllables) + _pick(draw, _ENDS)


def _description(draw: np.random.Generator, invented: list[str], shows: str) -> str:
    """Everyday words and invented ones in equal parts; the invented by Zipf's law."""
    length = max(8, int(draw.lognormal(np.log(_MEDIAN_WORDS), 0.6)))
    ranks = np.minimum(draw.zipf(1.3, length), len(invented)) - 1
    everyday = _EVERYDAY.split()
    plain = draw.integers(len(everyday), size=length)
    common = draw.random(length) < 0.5
    told = [everyday[p] if c else invented[r] for p, r, c in zip(plain, ranks.tolist(), common, strict=True)]
    return f"A {shows}. {' '.join(told)}"
