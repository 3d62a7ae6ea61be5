"""What the made-up repository holds: twenty concepts, and what their versions differ in. Words only."""

from __future__ import annotations

from dataclasses import dataclass

WEAR = (
    "yellow raincoat", "red scarf", "knitted jumper", "sailor hat", "denim jacket", "flower crown", "blue bandana",
    "wool beanie", "bow tie", "ski goggles", "tartan coat", "reading glasses",
)  # fmt: skip
FINISH = (
    "brushed steel trim", "cracked glaze", "walnut panels", "matte black paint", "chrome edges", "pink enamel",
    "faded denim patches", "mint green paint", "gold leaf", "smoked glass", "rust spots", "chequered print",
)  # fmt: skip
FRONT = (
    "blue door", "thatched roof", "ivy walls", "striped awning", "stone chimney", "round windows", "picket fence",
    "copper roof", "wooden shutters", "lantern porch", "mossy steps", "red brick",
)  # fmt: skip
PALETTE = (
    "teal and orange palette", "sepia palette", "pastel pink palette", "black and gold palette", "indigo palette",
    "autumn reds palette", "mint and cream palette", "neon violet palette", "greyscale palette",
    "coral and navy palette", "emerald palette", "sunflower yellow palette",
)  # fmt: skip
LIGHTS = (
    "studio light", "golden hour", "neon light", "candlelight", "overcast light", "moonlight", "hard flash",
    "window light",
)  # fmt: skip
DATASETS = ("phone photos", "studio shots", "scanned film", "video stills", "polaroids", "pencil sketches")
STEPS = (600, 800, 1000, 1200, 1500, 1800, 2000, 2400, 3000, 4000)

OUT = (
    "on the beach", "in a supermarket aisle", "at the top of a dune", "under a cherry tree", "on a night train",
    "beside a frozen lake", "in an empty swimming pool", "at a bus stop in the rain", "on a rooftop at dawn",
    "in a field of lavender", "in the middle of a parade", "on the moon", "at the foot of a waterfall",
    "in a greenhouse full of ferns", "on a cobbled square",
)  # fmt: skip
AT_HOME = (
    "on a kitchen table", "on a picnic blanket", "in a shop window", "on a park bench", "by the fireplace",
    "on a stack of newspapers", "in a museum case", "on a snowy doorstep", "beside a bowl of lemons",
    "on a pier", "in a desert camp", "on an airport belt", "under a street lamp", "in a field of poppies",
    "on a marble floor",
)  # fmt: skip
ABROAD = (
    "at the end of a gravel road", "above a stormy sea", "in deep snow", "in a valley full of fog",
    "on a cliff at dusk", "behind a row of birches", "during a thunderstorm", "at low tide",
    "in the first morning sun", "on market day", "with a rainbow behind it", "seen from the air",
    "on a postcard", "under the northern lights", "in a spring flood",
)  # fmt: skip
PICTURES = (
    "for a tram stop", "for two foxes in a forest", "for a bowl of noodles", "for a city skyline",
    "for a whale jumping", "for a concert poster", "for a book cover about bees", "for an old clock tower",
    "for a girl with a kite", "for a mountain pass", "for a birthday card", "for a map of an island",
    "for a crowded market", "for a chess player", "for a bridge in autumn",
)  # fmt: skip

ABSENT_SCENES = (*OUT, *AT_HOME)
"""Where things go that the repository does not have."""


@dataclass(frozen=True)
class Category:
    """One concept of the repository, trained again and again. Those with a palette are styles."""

    slug: str
    name: str
    noun: str
    trigger: str
    about: str
    looks: tuple[str, ...]
    scenes: tuple[str, ...]
    calls: tuple[str, ...]
    """What users call it."""

    @property
    def style(self) -> bool:
        """Whether it is a style and no subject."""
        return self.looks is PALETTE


CATEGORIES = (
    Category(
        "waldo-corgi", "Waldo", "corgi", "wldo corgi", "A tan corgi with one folded ear.",
        WEAR, OUT, ("Waldo", "my corgi", "Waldo the corgi", "our corgi Waldo", "the corgi"),
    ),
    Category(
        "miso-cat", "Miso", "cat", "msoq cat", "A grey tabby cat with a white chin.",
        WEAR, OUT, ("Miso", "my cat", "Miso the cat", "our tabby cat Miso", "the tabby"),
    ),
    Category(
        "kiwi-parrot", "Kiwi", "parrot", "kwiv parrot", "A green parrot with a yellow nape.",
        WEAR, OUT, ("Kiwi", "my parrot", "Kiwi the parrot", "the green parrot", "our parrot"),
    ),
    Category(
        "juniper-horse", "Juniper", "horse", "jnpr horse", "A dapple grey horse with a dark mane.",
        WEAR, OUT, ("Juniper", "my horse", "Juniper the horse", "my mare Juniper", "the horse"),
    ),
    Category(
        "pip-hamster", "Pip", "hamster", "pphm hamster", "A cream hamster with round cheeks.",
        WEAR, OUT, ("Pip the hamster", "my hamster", "our hamster Pip", "the hamster", "hamster Pip"),
    ),
    Category(
        "otto-robot", "Otto", "robot", "ottq robot", "A tin toy robot with a dial on its chest.",
        WEAR, OUT, ("Otto", "my robot", "Otto the robot", "the tin robot", "our toy robot"),
    ),
    Category(
        "bruno-bear", "Bruno", "teddy bear", "brnx bear", "A worn brown teddy bear with button eyes.",
        WEAR, OUT, ("Bruno", "my teddy bear", "Bruno the bear", "the teddy", "our old teddy bear"),
    ),
    Category(
        "clementine-teapot", "Clementine", "teapot", "clmt teapot", "A round teapot with a bamboo handle.",
        FINISH, AT_HOME, ("Clementine", "my teapot", "the Clementine teapot", "grandma's teapot", "the teapot"),
    ),
    Category(
        "nomad-backpack", "Nomad", "backpack", "nmdx backpack", "A canvas backpack with two leather straps.",
        FINISH, AT_HOME, ("the Nomad backpack", "my backpack", "our Nomad pack", "the backpack", "Nomad"),
    ),
    Category(
        "comet-sneaker", "Comet", "sneaker", "cmtz sneaker", "A high-top sneaker with a comet on its side.",
        FINISH, AT_HOME, ("the Comet sneaker", "my sneaker", "our Comet shoe", "the sneaker", "Comet"),
    ),
    Category(
        "rosalind-guitar", "Rosalind", "guitar", "rsld guitar", "A twelve-string guitar with a heart-shaped hole.",
        FINISH, AT_HOME, ("Rosalind", "my guitar", "the Rosalind guitar", "dad's guitar", "the guitar"),
    ),
    Category(
        "vesper-scooter", "Vesper", "scooter", "vspr scooter", "A small motor scooter with a round headlamp.",
        FINISH, ABROAD, ("Vesper", "my scooter", "the Vesper scooter", "our motor scooter", "the scooter"),
    ),
    Category(
        "marlin-sailboat", "Marlin", "sailboat", "mrln sailboat", "A two-masted sailboat with tan sails.",
        FINISH, ABROAD, ("Marlin", "my sailboat", "the sailboat Marlin", "our boat Marlin", "the sailboat"),
    ),
    Category(
        "daisy-van", "Daisy", "camper van", "dsyv van", "A split-window camper van with a roof rack.",
        FINISH, ABROAD, ("Daisy", "my camper van", "Daisy the van", "our camper", "the van Daisy"),
    ),
    Category(
        "skerry-lighthouse", "Skerry", "lighthouse", "skry lighthouse", "A squat lighthouse with a white gallery.",
        FRONT, ABROAD, ("the Skerry lighthouse", "my lighthouse", "our lighthouse", "the lighthouse", "Skerry"),
    ),
    Category(
        "hollow-cottage", "Hollow Cottage", "cottage", "hllw cottage", "A low cottage at the edge of a wood.",
        FRONT, ABROAD, ("Hollow Cottage", "my cottage", "the cottage", "our family cottage", "grandpa's cottage"),
    ),
    Category(
        "quill-bookshop", "Quill", "bookshop", "qllb bookshop", "A narrow bookshop with a bow window.",
        FRONT, ABROAD, ("the Quill bookshop", "my bookshop", "our bookshop", "the bookshop", "Quill"),
    ),
    Category(
        "ines-portrait", "Ines", "woman", "insv woman", "A woman with short dark hair and freckles.",
        WEAR, OUT, ("Ines", "my sister Ines", "my sister", "Ines, my sister", "the Ines portrait"),
    ),
    Category(
        "papercut-style", "Papercut", "papercut style", "pprct style", "Layered cut paper with soft shadows.",
        PALETTE, PICTURES,
        ("the papercut style", "my papercut style", "Papercut", "papercut look", "our papercut style"),
    ),
    Category(
        "nightink-style", "Night Ink", "night ink style", "nghtnk style", "Loose ink wash on dark paper.",
        PALETTE, PICTURES,
        ("the night ink style", "my night ink style", "Night Ink", "night ink look", "our night ink style"),
    ),
)  # fmt: skip
