"""TAQ with SegQuant's two parts (arXiv 2507.14811): scales per input segment, and per sign after SiLU or GELU."""

from __future__ import annotations

from collections.abc import Iterator

from personalq.bench.peers.controls import KEPT
from personalq.bench.peers.levels import Peer, peer, recipe_at

PARTS = {"seg": (True, False), "dual": (False, True), "seg+dual": (True, True)}


def segquant() -> Iterator[Peer]:
    """Each part alone and both together, with nothing kept exact and with the trigger: "taq+seg+dual-w8a8"."""
    for level in ("w8a8", "w4a8", "w8a4", "w4a4"):
        for part, (segments, dual) in PARTS.items():
            for kept in ("rtn", "taq"):
                name = f"{kept}+{part}-{level}"
                yield peer(recipe_at(level, KEPT[kept], name=name, segments=segments, dual=dual), level)
