"""A folder of checkpoints as a `Catalog`. It knows no format: readers do, and `merge` decides whom to believe."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from personalq.catalog import identity, sidecar, units, weights
from personalq.catalog.bases import normal_base
from personalq.catalog.facts import Reading
from personalq.catalog.match import gathered
from personalq.catalog.memory import Tally
from personalq.catalog.merge import merge
from personalq.catalog.tree import PIPELINE, Tree, walk
from personalq.catalog.untrusted import Fields, decode, parse_json, read_limited
from personalq.errors import BrokenFileError, UnknownCheckpointError
from personalq.records import Checkpoint

Progress = Callable[[int, int, str], None]
"""Called with files done, files in all, and the file's path."""
SLOTS = re.compile(r"<s\d+>")
"""Words such as `<s0><s1>`, which a LoRA trained with an embedding does not know by itself."""
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")


@dataclass(frozen=True)
class Problem:
    """A file that was left out, wholly or in part, and why."""

    path: Path
    reason: str

    @property
    def place(self) -> str:
        """The path as text that is safe to show: what cannot be printed, as an escape."""
        shown = str(self.path)
        return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in shown)

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class Catalog:
    """Everything there is to choose from."""

    checkpoints: tuple[Checkpoint, ...]
    bases: tuple[Path, ...] = ()
    """Folders of base models."""
    problems: tuple[Problem, ...] = ()
    tally: Tally = field(default=Tally(), compare=False)
    """What was new or read again, when the catalogue came through an index."""

    def by_id(self, id_: str) -> Checkpoint:
        """The checkpoint with this id. Raises UnknownCheckpointError, which names the ids that come near."""
        for checkpoint in self.checkpoints:
            if checkpoint.id == id_:
                return checkpoint
        near = difflib.get_close_matches(id_.casefold(), [item.id for item in self.checkpoints], n=3, cutoff=0.5)
        hint = (
            f"Did you mean {', '.join(near)}?" if near else f"There are {len(self.checkpoints)}; list them with index."
        )
        raise UnknownCheckpointError(f"There is no checkpoint {id_!r}. {hint}")


def scan(root: Path, on_progress: Progress | None = None, read: Callable[[Path], Reading] | None = None) -> Catalog:
    """Every checkpoint and base model below `root`; what cannot be read is reported, never fatal.

    `read` replaces `read_file`, for example by one that remembers. Raises CatalogError when `root` is no folder.
    """
    return assemble(walk(root), read or read_file, on_progress)


def assemble(tree: Tree, read: Callable[[Path], Reading], on_progress: Progress | None = None) -> Catalog:
    """The catalogue of the files in `tree`, each opened by `read` alone."""
    found, troubles = units.find(tree)
    beside = units.sidecars(tree, found)
    pictures = {unit.picture for unit in found if unit.picture}
    order = [*(unit.weights for unit in found), *beside, *sorted(pictures)]
    readings: dict[Path, Reading] = {}
    for done, path in enumerate(order, 1):
        readings[path] = read(path)
        if on_progress:
            on_progress(done, len(order), str(path.relative_to(tree.root)))
    bases, bad_bases = _bases(tree)
    local = {name for base in bases if (name := normal_base(base.name))}
    known = [unit for unit in found if readings[unit.weights].facts]
    drafts = []
    for unit, facts, others in gathered(known, beside, readings):
        picture = unit.picture if unit.picture and not readings[unit.picture].problems else None
        files = tuple(str(path) for path in (unit.weights, *unit.companions, *others))
        read_from, shown = readings[unit.weights], str(picture) if picture else None
        draft = merge(facts, unit.name, local, files, shown, read_from.sha256, read_from.tensors_sha256)
        drafts.append((unit.name, unit.weights.relative_to(tree.root), draft))
        if _misses_embedding(draft, unit):
            troubles.append(
                (unit.weights, f"Its trigger {draft.triggers[0]} needs the embedding made with it; add it.")
            )
    problems = [*tree.problems, *troubles, *bad_bases]
    problems += [(path, reason) for path, reading in readings.items() for reason in reading.problems]
    return Catalog(
        identity.with_lineage(identity.identified(drafts)), bases, tuple(Problem(path, why) for path, why in problems)
    )


def _misses_embedding(draft: Checkpoint, unit: units.Unit) -> bool:
    """Whether a LoRA's trigger is one that only the embedding trained with it gives a meaning."""
    slots = draft.kind == "lora" and bool(draft.triggers) and bool(SLOTS.search(draft.triggers[0]))
    return slots and draft.loadable and not unit.companions


def read_file(path: Path) -> Reading:
    """What one file says. A broken file gives no facts and its problem; nothing is raised for it."""
    try:
        suffix = path.suffix.lower()
        if suffix in weights.SUFFIXES:
            return weights.read(path)
        if suffix in units.PICTURES:
            return _picture(path)
        return sidecar.read(path)
    except BrokenFileError as error:
        return Reading(problems=(str(error),))


def _picture(path: Path) -> Reading:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise BrokenFileError(f"The preview cannot be read ({error.strerror}); check its permissions.") from error
    if not start.startswith(SIGNATURES):
        raise BrokenFileError("The preview is no PNG, JPEG or WebP picture; replace it.")
    return Reading()


def _bases(tree: Tree) -> tuple[tuple[Path, ...], list[tuple[Path, str]]]:
    """The base folders whose `model_index.json` can be read, and what is wrong with the others."""
    good: list[Path] = []
    bad: list[tuple[Path, str]] = []
    for folder in tree.bases:
        try:
            index = Fields(parse_json(decode(read_limited(folder / PIPELINE))))
            if not index.text("_class_name"):
                raise BrokenFileError("It names no pipeline class; download the base model again.")
            good.append(folder)
        except BrokenFileError as error:
            bad.append((folder / PIPELINE, str(error)))
    return tuple(good), bad
