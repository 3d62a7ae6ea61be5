"""Every row of the quantisation table by name: how to hold it, and what is known of it without a model."""

from __future__ import annotations

from personalq.backend.variants import REFERENCE, Variant
from personalq.bench.peers.controls import Peer, controls, on_nf4
from personalq.bench.peers.levels import Tag

ROWS: dict[str, Peer] = {REFERENCE.name: Peer(REFERENCE, Tag("w16a16", 16))} | {
    peer.variant.name: peer for peer in (*controls(), *on_nf4())
}
PEERS: dict[str, Variant] = {name: peer.variant for name, peer in ROWS.items()}
"""What `Engine(base, variants=PEERS)` knows; libraries are imported, and captions run, when a row is first held."""

TAGS: dict[str, Tag] = {name: peer.tag for name, peer in ROWS.items()}
"""Level, bits and what is simulated, by name."""
