"""The named recipes: which layers get which format, and what happens to the text's keys and values.

It applies nothing. `taq-*` and `rtn-*` differ in `protect` alone, so any difference between them is the protection.
"""

from __future__ import annotations

from personalq.errors import QuantizationError
from personalq.quant.formats import INT4, INT8, LINEAR8, NF4
from personalq.quant.rules_joint import EDGES_JOINT, joint_rules
from personalq.records import Protected, QType, Recipe, Rule

GROUP = 64
"""It divides the widths of the Stable Diffusion family (320, 640, 768, 1280), where 128 does not."""

EDGES = Rule(r"(^|\.)conv_(in|out)$", None, reason="first and last layer: few bytes, and their error shows directly")
TEXT = Rule(
    r"(^|\.)attn2\.to_[kv]$",
    None,
    reason="run once per prompt; protected rows must come from full-precision weights",
)
"""Cross-attention's text projections. They run once per prompt and not once per step, so packing them saves no time,
and K, V of a protected token are at full precision only if the weights they come from are. They stay in 16 bits, in
every recipe of ours alike, and are counted so (2.2 % of SD1.5's parameters, 13.3 % of SDXL's)."""


def _integer(name: str, weight: QType, group: int | None, *protect: Protected) -> Recipe:
    everything = Rule(r".*", weight, activation=INT8, group=group)
    rules = (*joint_rules(everything), EDGES, TEXT, everything)
    return Recipe(name, rules, text_rows=INT8, probabilities=LINEAR8, protect=protect)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _integer("taq-w8a8", INT8, None, "trigger"),
        _integer("taq-w4a8", INT4, GROUP, "trigger"),
        _integer("rtn-w8a8", INT8, None),
        _integer("rtn-w4a8", INT4, GROUP),
        Recipe("nf4", (EDGES_JOINT, EDGES, Rule(r".*", NF4, group=GROUP))),
    )
}
"""`rtn` is plain round-to-nearest at the same bits with nothing protected; `nf4` is bitsandbytes on linears."""


def recipe_named(name: str) -> Recipe:
    """The recipe called `name`. Raises QuantizationError when there is none."""
    try:
        return RECIPES[name]
    except KeyError:
        raise QuantizationError(f"No recipe is called {name!r}: choose one of {', '.join(RECIPES)}.") from None
