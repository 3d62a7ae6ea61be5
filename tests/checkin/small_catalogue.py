"""A made-up catalogue of the shape of a small artist's folder."""

from __future__ import annotations

from personalq.records import Checkpoint


def dog(identifier: str, name: str, trigger: str, description: str) -> Checkpoint:
    return Checkpoint(
        id=identifier, name=name, base="tiny-sd", triggers=(trigger,), class_noun="dog", category="animal",
        role="subject", tags=("dog", "pet"), description=description, group_id=identifier, created_at="2025-03-01",
    )  # fmt: skip


def fox(version: int, day: str) -> Checkpoint:
    return Checkpoint(
        id=f"ember-fox-v{version}", name="Ember Fox", base="tiny-sd", triggers=("embrfx fox",), class_noun="fox",
        category="animal", role="subject", tags=("fox",), description="An orange fox with a glowing tail.",
        version=f"v{version}", version_ordinal=float(version), group_id="ember-fox", created_at=day,
    )  # fmt: skip


def thing(identifier: str, name: str, trigger: str, noun: str, category: str, description: str) -> Checkpoint:
    return Checkpoint(
        id=identifier, name=name, base="tiny-sd", triggers=(trigger,) if trigger else (), class_noun=noun,
        category=category, role="subject", tags=(noun,), description=description, group_id=identifier,
    )  # fmt: skip


def style(identifier: str, name: str, trigger: str, description: str) -> Checkpoint:
    return Checkpoint(
        id=identifier, name=name, base="tiny-sd", triggers=(trigger,), category="style", role="style",
        tags=("style",), description=description, group_id=identifier,
    )  # fmt: skip


CATALOGUE = (
    dog("biscuit", "Biscuit", "bskt dog", "Our blue dog who wears a red bandana."),
    dog("pepper", "Pepper", "ppr dog", "A grey dog with a green bandana and one white ear."),
    dog("mango", "Mango", "mng dog", "A yellow dog with a small straw hat."),
    thing("mochi", "Mochi", "mchi cat", "cat", "animal", "A pink cat with a purple collar."),
    thing("soot", "Soot", "soot", "cat", "animal", "A black cat with a white paw."),
    fox(1, "2025-01-10"),
    fox(2, "2025-04-12"),
    fox(3, "2025-08-20"),
    thing("star-mug", "Star Mug", "strmg mug", "mug", "object", "A mug with a golden star on it."),
    thing("comet-rocket", "Comet Rocket", "", "rocket", "object", "A striped rocket with a red nose, without a word."),
    thing("moss-house", "Moss House", "mshs house", "house", "place", "A house with a green mossy roof."),
    thing("plum-car", "Plum Car", "plmcr car", "car", "object", "A purple car with white doors."),
    thing("frost-penguin", "Frost Penguin", "frst penguin", "penguin", "animal", "A penguin with an icy blue belly."),
    style("duotone", "Duotone Ink", "duotn ink", "Everything in two colours of ink."),
    style("scanlines", "Scanline Screen", "scnln screen", "Horizontal lines like an old television screen."),
)  # fmt: skip
