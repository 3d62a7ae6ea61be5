"""The rules that SD3 and FLUX need before a recipe's own. They match no layer of a UNet, so every recipe may have them.

It applies nothing, and knows nothing of models beyond the names of their layers.
"""

from __future__ import annotations

from dataclasses import replace

from personalq.quant.formats import INT8
from personalq.records import Rule

EDGES_JOINT = Rule(
    r"^(pos_embed(\.proj)?|x_embedder|proj_out)$",
    None,
    reason="first and last layer: few bytes, and their error shows directly",
)
TEXT_JOINT = Rule(
    r"^context_embedder$",
    None,
    reason="every text row enters here, the trigger's too, and 0.1 to 0.3 % of the parameters are here",
)
CONDITIONS = r"^time_text_embed\.|^norm_out\.linear$|^(single_)?transformer_blocks\.\d+\.norm(1(_context)?)?\.linear$"
"""Time, guidance and pooled text, and the modulations (AdaLN) made of them: one row a picture, which scales and shifts
all tokens of a block. In FLUX the pooled text carries the trigger too."""
PICTURE_ALONE = r"^transformer_blocks\.\d+\.attn2\.to_[kv]$"
"""SD3.5's second attention sees the picture alone; in a UNet `attn2` is the text's."""


def joint_rules(rest: Rule) -> tuple[Rule, ...]:
    """The rules to put first in a recipe whose last rule is `rest`: edges, text, conditions at no less than int8."""
    conditions = replace(rest, pattern=CONDITIONS)
    if rest.weight is not None and rest.weight.bits < INT8.bits:
        conditions = replace(conditions, weight=INT8, group=None)
    if rest.activation is not None and rest.activation.bits < INT8.bits:
        conditions = replace(conditions, activation=INT8)
    return EDGES_JOINT, TEXT_JOINT, conditions, replace(rest, pattern=PICTURE_ALONE)
