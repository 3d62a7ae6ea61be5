"""The named recipes: which layers get which format, and what happens to the text's keys and values.

It applies nothing. `taq-*` and `rtn-*` differ in `protect` alone, so any difference between them is the protection.
"""

from __future__ import annotations

from dataclasses import replace

from personalq.errors import QuantizationError
from personalq.quant.formats import INT4, INT8, LINEAR8, NF4
from personalq.quant.rules_joint import EDGES_JOINT, joint_rules
from personalq.records import Protected, QType, Recipe, Rule

GROUP = 64
"""It divides the widths of the Stable Diffusion family (320, 640, 768, 1280), where 128 does not."""

EDGES = Rule(r"(^|\.)conv_(in|out)$", None, reason="first and last layer: few bytes, and their error shows directly")
TEXT = r"(^|\.)attn2\.to_[kv]$"
"""Cross-attention's text projections. They run once per prompt, so inputs stay in 16 bits and only weights are packed:
2.2 % of SD1.5's parameters, 13.3 % of SDXL's. What a LoRA adds to a trigger's rows stays in 16 bits beside them. On the
embedded model packing them at four bits cannot be seen beside the other layers: alone it is 46.6 dB from the reference,
and W4A8 is 31.0 dB with it and without."""


def rules_for(rest: Rule) -> tuple[Rule, ...]:
    """The rules of a recipe whose layers follow `rest`, but for edges, text and what conditions all tokens."""
    text = replace(rest, pattern=TEXT, activation=None, segments=False, dual=False)
    return (*joint_rules(rest), EDGES, text, rest)


def _integer(name: str, weight: QType, group: int | None, *protect: Protected) -> Recipe:
    rules = rules_for(Rule(r".*", weight, activation=INT8, group=group))
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
