"""Which checkpoint a sidecar speaks of. It compares names and digests; what the sidecar says is not its concern."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from personalq.catalog import sidecar
from personalq.catalog.facts import Facts, Reading
from personalq.catalog.units import Unit
from personalq.catalog.versions import slug
from personalq.catalog.weights import GENERIC_STEM

FOLDER_SIDECARS = frozenset({"metadata", "info", "model", "civitai", "adapter_config"})
SHORT_DIGEST = 10


class Neighbours:
    """Units, those of one folder or all of them, found by digest, stem or file name."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.by_digest: dict[str, list[tuple[str, Unit]]] = defaultdict(list)
        self.by_stem: dict[str, list[Unit]] = defaultdict(list)
        self.by_name: dict[str, list[Unit]] = defaultdict(list)

    def add(self, unit: Unit, digest: str) -> None:
        """One more unit with the SHA-256 of its weights."""
        self.units.append(unit)
        self.by_digest[digest[:SHORT_DIGEST]].append((digest, unit))
        self.by_stem[unit.weights.stem.casefold()].append(unit)
        self.by_name[unit.weights.name.casefold()].append(unit)

    def meant(self, file: Path, facts: Facts) -> list[tuple[Unit, Facts]]:
        """The units one entry of a sidecar speaks of: by digest, else by stem, else by file name."""
        for wanted in facts.hashes:
            near = self.by_digest.get(wanted[:SHORT_DIGEST], ())
            if exact := [unit for digest, unit in near if digest.startswith(wanted)]:
                return [(unit, facts) for unit in exact]
        alone = len(self.units) == 1
        if file.name.casefold() == sidecar.CARD:
            shared = facts if alone else Facts("card", bases=facts.bases, license=facts.license)
            return [(unit, shared) for unit in self.units]
        found: list[Unit] = []
        if facts.beside:
            stem = (sidecar.stem(file) or "").casefold()
            found = self.by_stem.get(stem) or self.by_name.get(stem) or []
            if not found and alone and (stem in FOLDER_SIDECARS or slug(stem) == slug(file.parent.name)):
                found = self.units
        return [(unit, facts) for unit in found or self.named(file.parent, facts)]

    def named(self, root: Path, facts: Facts) -> list[Unit]:
        """The units below `root` that an entry names by their file, or by their folder alone when only that is said.

        An everyday file name such as `pytorch_lora_weights` counts only in the folder the entry names, if it does.
        """
        found = [unit for name in dict.fromkeys(facts.names) for unit in self.by_name.get(name.casefold(), ())]
        found = [unit for unit in found if root == unit.folder or root in unit.folder.parents]
        if not facts.folder:
            return found
        home = slug(facts.folder)
        if facts.names:
            return [u for u in found if not GENERIC_STEM.fullmatch(u.weights.stem) or slug(u.folder.name) == home]
        below = [unit for unit in self.units if slug(unit.folder.name) == home]
        return below if len(below) == 1 and root in (below[0].folder, *below[0].folder.parents) else []


def gathered(
    units: Sequence[Unit], sidecars: Sequence[Path], readings: Mapping[Path, Reading]
) -> list[tuple[Unit, list[Facts], list[Path]]]:
    """Every unit with its facts, its own and those of the sidecars that speak of it, and with those sidecars."""
    found: dict[Unit, tuple[list[Facts], dict[Path, None]]] = {}
    folders: dict[Path, Neighbours] = defaultdict(Neighbours)
    everywhere = Neighbours()
    for unit in units:
        found[unit] = (list(readings[unit.weights].facts), {})
        for group in (folders[unit.folder], everywhere):
            group.add(unit, readings[unit.weights].sha256 or "")
    for file in sidecars:
        for item in readings[file].facts:
            meant = folders[file.parent].meant(file, item)
            if not meant and not item.beside:  # A list may lie above the weights it speaks of.
                meant = [(unit, item) for unit in everywhere.named(file.parent, item)]
            for unit, told in meant:
                found[unit][0].append(told)
                found[unit][1][file] = None
    return [(unit, facts, list(files)) for unit, (facts, files) in found.items()]
