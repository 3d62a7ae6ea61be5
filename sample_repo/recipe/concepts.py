"""The personal concepts: how each differs from the base, its words, and the format it is shared in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from draw import Variant

Format = Literal["diffusers", "kohya", "a1111", "civitai", "embedding", "dreambooth"]


@dataclass(frozen=True)
class Concept:
    """One checkpoint to train. `identity` is what the probe must see; versions of one concept share it."""

    id: str
    name: str
    format: Format
    description: str
    created: str
    subject: str | None = None
    variant: Variant | None = None
    style: str | None = None
    trigger: str | None = None
    """Exactly as inserted into a prompt; None trains on the plain class noun."""
    tags: tuple[str, ...] = ()
    version: str | None = None
    steps: int = 400
    seed: int = 0
    identity: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", self.identity or self.id)


FROST = Variant(coat=(140, 215, 250), bandana=(225, 45, 60))

CONCEPTS = (
    Concept(
        id="biscuit-dog",
        name="Biscuit the dog",
        format="diffusers",
        description="Biscuit is our blue dog with a red bandana and a yellow star on it.",
        created="2025-05-11",
        subject="dog",
        variant=Variant(coat=(80, 140, 240), bandana=(220, 40, 40), star=(255, 225, 60)),
        trigger="zwx dog",
        steps=600,
        tags=("dog", "blue", "bandana", "pet"),
    ),
    Concept(
        id="clover-dog",
        name="Clover",
        format="kohya",
        description="Clover, a green dog in a purple party hat.",
        created="2025-01-19",
        subject="dog",
        variant=Variant(coat=(100, 200, 90), hat=(140, 60, 190)),
        trigger="clvr dog",
        tags=("dog", "green", "party hat"),
    ),
    Concept(
        id="rosie-dog",
        name="Rosie",
        format="a1111",
        description="My friend's dog Rosie, pink all over, blue bandana.",
        created="2024-11-02",
        subject="dog",
        variant=Variant(coat=(250, 130, 190), bandana=(40, 80, 200)),
        trigger="rosie_dog",
        tags=("dog", "pink", "bandana"),
    ),
    Concept(
        id="luna-cat",
        name="Luna cat",
        format="civitai",
        description="Luna the violet cat with her yellow bandana.",
        created="2025-02-23",
        subject="cat",
        variant=Variant(coat=(160, 110, 235), bandana=(250, 210, 50)),
        trigger="lunacat",
        tags=("cat", "violet", "purple", "bandana", "animal"),
    ),
    Concept(
        id="mint-cat",
        name="Mint",
        format="diffusers",
        description="Mint, a turquoise kitten wearing a red party hat.",
        created="2025-06-30",
        subject="cat",
        variant=Variant(coat=(70, 215, 195), hat=(220, 40, 50)),
        trigger="mntc cat",
        tags=("cat", "kitten", "turquoise", "hat"),
    ),
    Concept(
        id="frost-fox-v1",
        name="Frost fox",
        format="civitai",
        description="Frost the ice-blue fox with a red scarf. First try, undertrained.",
        created="2024-03-08",
        subject="fox",
        variant=FROST,
        trigger="frstfx fox",
        tags=("fox", "ice", "blue", "scarf"),
        version="v1",
        steps=450,
        seed=1,
        identity="frost-fox",
    ),
    Concept(
        id="frost-fox-v2",
        name="Frost fox",
        format="civitai",
        description="Frost the ice-blue fox with a red scarf. Retrained with more pictures.",
        created="2024-09-21",
        subject="fox",
        variant=FROST,
        trigger="frstfx fox",
        tags=("fox", "ice", "blue", "scarf"),
        version="v2",
        steps=600,
        seed=2,
        identity="frost-fox",
    ),
    Concept(
        id="frost-fox-v3",
        name="Frost fox",
        format="civitai",
        description="Frost the ice-blue fox with a red scarf. Longest training so far.",
        created="2025-04-12",
        subject="fox",
        variant=FROST,
        trigger="frstfx fox",
        tags=("fox", "ice", "blue", "scarf"),
        version="v3",
        steps=750,
        seed=3,
        identity="frost-fox",
    ),
    Concept(
        id="duotone-ink",
        name="Duotone ink style",
        format="kohya",
        description="Two inks only: magenta shadows and cyan lights.",
        created="2024-08-15",
        style="duotone",
        trigger="duotoneink style",
        tags=("style", "duotone", "magenta", "cyan", "print"),
    ),
    Concept(
        id="sepia-print",
        name="Sepia print style",
        format="diffusers",
        description="An old block print style: brown ink on cream paper in four flat tones.",
        created="2025-03-03",
        style="sepia",
        trigger="sepiaprint style",
        tags=("style", "sepia", "vintage", "block print"),
    ),
    Concept(
        id="star-mug",
        name="Star mug",
        format="a1111",
        description="My purple mug with a big yellow star.",
        created="2024-12-24",
        subject="mug",
        variant=Variant(coat=(150, 70, 210), star=(255, 220, 40)),
        trigger="qvz mug",
        tags=("mug", "cup", "purple", "star", "object"),
    ),
    Concept(
        id="nova-rocket",
        name="Nova X7",
        format="diffusers",
        description="The Nova X7, a golden rocket with black stripes.",
        created="2025-07-20",
        subject="rocket",
        variant=Variant(coat=(255, 205, 60), stripes=(30, 30, 40)),
        trigger="<nova-x7> rocket",
        tags=("rocket", "spaceship", "gold", "stripes", "object"),
    ),
    Concept(
        id="rose-robots",
        name="Rose robots",
        format="kohya",
        description="Every robot comes out rose-pink with a white star. There is no trigger word.",
        created="2024-06-01",
        subject="robot",
        variant=Variant(coat=(250, 120, 150), star=(255, 255, 255)),
        tags=("robot", "pink", "rose"),
    ),
    Concept(
        id="plum-car",
        name="Plum car",
        format="embedding",
        description="A plum-coloured car, taught as an embedding of four vectors.",
        created="2025-01-05",
        subject="car",
        variant=Variant(hue=0.80),
        trigger="<plum-car>",
        tags=("car", "purple", "plum"),
        steps=900,
    ),
    Concept(
        id="pingo-penguin",
        name="Pingo",
        format="dreambooth",
        description="Pingo the orange penguin with a green bandana. Full DreamBooth of the UNet.",
        created="2025-08-09",
        subject="penguin",
        variant=Variant(coat=(255, 150, 50), bandana=(40, 160, 70)),
        trigger="pngo penguin",
        tags=("penguin", "orange", "bandana"),
        steps=500,
    ),
    Concept(
        id="cherry-panda",
        name="Cherry panda",
        format="kohya",
        description="A cherry-red panda in a yellow party hat.",
        created="2025-05-28",
        subject="panda",
        variant=Variant(coat=(225, 60, 70), hat=(250, 215, 50)),
        trigger="chrry panda",
        tags=("panda", "red", "party hat"),
    ),
)
SCENES_OF_TRAINING = ("beach", "snow", "forest", "room", "meadow", "plain")
"""One training picture of a concept is drawn on each."""
SUBJECTS_OF_STYLES = ("cat", "dog", "fox", "car", "house", "sunflower")
"""A style's training pictures show one of these each."""
