"""What one file of a Hub repository says, from as few of its bytes as tell. It weighs nothing and remembers nothing."""

from __future__ import annotations

from pathlib import Path

from personalq.catalog import sidecar, weights
from personalq.catalog.facts import Facts, Reading
from personalq.catalog.header import header_length, parse_header
from personalq.catalog.hub import Hub, HubFile
from personalq.catalog.hub_names import Place
from personalq.catalog.untrusted import MAX_SIDECAR
from personalq.errors import BrokenFileError
from personalq.records import Kind

FIRST_BYTES = 100_000
"""Enough for the header of nearly every LoRA."""
PICKLES: dict[str, Kind] = {
    "learned_embeds.bin": "ti",
    "pytorch_lora_weights.bin": "lora",
    "adapter_model.bin": "lora",
}
"""Pickles whose names say what they are: they are listed and never read."""


def read(hub: Hub, at: Place, file: HubFile) -> Reading:
    """Facts of weights, a sidecar or a card; a broken one gives its problem instead. Raises HubError."""
    path = Path(at.path)
    try:
        if path.suffix.lower() == ".safetensors":
            return _header(hub, at, file)
        if path.suffix.lower() in weights.SUFFIXES:
            kind = PICKLES.get(path.name.casefold())
            named = (Facts("weights", kind=kind, loadable=False),) if kind else ()
            return Reading(weights.unopened(path) or named, (), file.digest)
        if file.size > MAX_SIDECAR:
            raise BrokenFileError(f"It is larger than {MAX_SIDECAR} bytes, too large for a description.")
        return sidecar.interpret(path, hub.start_of(at, file.size) if file.size else b"")
    except BrokenFileError as error:
        return Reading(problems=(str(error),))


def _header(hub: Hub, at: Place, file: HubFile) -> Reading:
    start = hub.start_of(at, min(file.size, FIRST_BYTES)) if file.size else b""
    end = 8 + header_length(start, file.size)
    if end > len(start):
        start = hub.start_of(at, end)
    facts, problems = weights.described(Path(at.path), parse_header(start[8:end], file.size))
    return Reading(facts, problems, file.digest if facts else None)
