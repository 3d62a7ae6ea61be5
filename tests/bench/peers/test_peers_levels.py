"""Rows of one level share their formats, and a tag says what of them is simulated."""

import pytest

from personalq.bench.peers.levels import LEVELS, recipe_at, tag_of
from personalq.bench.peers.registry import PEERS, ROWS, TAGS, missing
from personalq.quant.formats import LINEAR4, LOG4
from personalq.quant.recipe import recipe_named

WANTED = [
    *("reference", "nf4", "llm-int8", "torchao-int8-weight-only", "torchao-int8-dynamic", "torchao-int4-weight-only"),
    *(f"{name}-{level}" for name in ("rtn", "smoothquant", "qdiffusion", "dgq") for level in ("w8a8", "w4a8", "w4a4")),
    *("svdquant-w4a8", "svdquant-w4a4", "qdiffusion-w8a8-softmax16", "taq-nf4", "rtn-nf4"),
    *(f"taq-{level}" for level in LEVELS),
    *(f"{name}-w8a4" for name in ("start", "random", "top-mass", "end", "suffix", "all", "taq+start", "taq+noun")),
    *("taq-w8a8-linear4", "taq-w8a8-log4", "taq-w8a4-linear4", "taq-w8a4-linear8", "taq+seg+dual-w8a8"),
]


def test_the_rows_asked_for_are_there_under_their_own_names() -> None:
    assert not set(WANTED) - PEERS.keys()
    assert all(name == variant.name for name, variant in PEERS.items())
    assert PEERS.keys() == TAGS.keys() == ROWS.keys()


def test_the_products_own_recipes_are_rows_of_these_levels() -> None:
    for level in ("w8a8", "w4a8"):
        for name, protect in (("taq", ("trigger",)), ("rtn", ())):
            assert recipe_at(level, protect, name=f"{name}-{level}") == recipe_named(f"{name}-{level}")


@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_a_level_are_matched_in_bits(level: str) -> None:
    names = [name for name in PEERS if name.endswith(f"-{level}") and name != "torchao-int8-dynamic"]
    assert len(names) >= 10
    tags = [TAGS[name] for name in names]
    assert {tag.level for tag in tags} == {level}
    assert len({(tag.activation_bits, tag.text_bits) for tag in tags}) == 1
    assert {tag.attention_bits for name, tag in zip(names, tags, strict=True) if "dgq" not in name} == {
        LEVELS[level].probabilities.bits
    }


def test_what_is_simulated_is_said() -> None:
    assert TAGS["taq-w8a8"].real and TAGS["reference"].real and TAGS["llm-int8"].real
    assert TAGS["rtn-w8a4"].simulated == "four-bit inputs in int8 products, four-bit probabilities in fp32 products"
    assert TAGS["rtn-w8attn4"].simulated == "four-bit probabilities in fp32 products"
    assert not TAGS["rtn-w4a4"].real and not TAGS["dgq-w8a8"].real
    assert tag_of(recipe_at("w8a8", (), None, name="x"), "w8a8").attention_bits == 16


def test_only_what_is_kept_differs_between_controls() -> None:
    kept = {name: recipe_at("w8a4", (name,), LINEAR4, name="x") for name in ("trigger", "start", "random")}
    assert len({recipe.rules for recipe in kept.values()}) == 1
    assert {recipe.probabilities for recipe in kept.values()} == {LINEAR4}
    assert recipe_at("w8a4", name="x").probabilities == LOG4


def test_only_rows_of_libraries_can_be_missing() -> None:
    assert {name for name in PEERS if missing(name)} <= {name for name in PEERS if name.startswith("torchao")}
