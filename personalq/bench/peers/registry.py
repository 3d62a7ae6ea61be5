"""Every row of the quantisation table by name: how to hold it, and what is known of it without a model."""

from __future__ import annotations

from personalq.backend.variants import REFERENCE, Variant
from personalq.bench.peers.ao import torchao
from personalq.bench.peers.bitsandbytes import llm_int8
from personalq.bench.peers.controls import controls, on_nf4
from personalq.bench.peers.dgq import dgq
from personalq.bench.peers.levels import Peer, Tag
from personalq.bench.peers.qdiffusion import qdiffusion
from personalq.bench.peers.seen import Calibration, OnCaptions
from personalq.bench.peers.segquant import segquant
from personalq.bench.peers.smoothquant import smoothquant
from personalq.bench.peers.svdquant import svdquant


def rows(calibration: Calibration) -> dict[str, Peer]:
    """The whole table; the rows that need it are calibrated by `calibration` when they are first held."""
    calibrated = (*smoothquant(calibration), *svdquant(calibration), *dgq(calibration))
    libraries = (*on_nf4(), *llm_int8(), *torchao())
    reference = Peer(REFERENCE, Tag("w16a16", 16))
    every = (reference, *controls(), *libraries, *qdiffusion(), *segquant(), *calibrated)
    return {peer.variant.name: peer for peer in every}


ROWS: dict[str, Peer] = rows(OnCaptions())
PEERS: dict[str, Variant] = {name: peer.variant for name, peer in ROWS.items()}
"""What `Engine(base, variants=PEERS)` knows; libraries are imported, and captions run, when a row is first held."""

TAGS: dict[str, Tag] = {name: peer.tag for name, peer in ROWS.items()}
"""Level, bits and what is simulated, by name."""


def missing(name: str) -> str:
    """Why a row cannot be run here, such as a library that is not installed; empty where it can."""
    return ROWS[name].missing()
