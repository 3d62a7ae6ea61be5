"""The files of a folder tree that may be read: no links out of it, no devices. It does not know what they hold."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from personalq.errors import CatalogError

BASES = "bases"
PIPELINE = "model_index.json"
PASSED_OVER = frozenset({"__pycache__", "node_modules"})


@dataclass(frozen=True)
class Tree:
    """Regular files outside `bases`, folders of base models inside it, and what was left out and why."""

    root: Path
    files: tuple[Path, ...]
    bases: tuple[Path, ...]
    problems: tuple[tuple[Path, str], ...]


def walk(root: Path) -> Tree:
    """Every file below `root` that is safe to open, sorted. Raises CatalogError when `root` is no readable folder."""
    if not root.is_dir():
        raise CatalogError(f"There is no folder at {root}. Pass the folder that holds the checkpoints.")
    root = root.resolve()
    files: list[Path] = []
    bases: list[Path] = []
    problems: list[tuple[Path, str]] = []

    def unreadable(error: OSError) -> None:
        problems.append((Path(str(error.filename)), f"The folder cannot be read ({error.strerror})."))

    for name, folders, names in os.walk(root, onerror=unreadable):
        here = Path(name)
        for folder in folders:
            if (here / folder).is_symlink():
                problems.append((here / folder, "It is a link to a folder; links are not followed. Copy the folder."))
        folders[:] = sorted(folder for folder in folders if folder[0] != "." and folder not in PASSED_OVER)
        if BASES in (root.name, *here.relative_to(root).parts):
            if PIPELINE in names:
                bases.append(here)
                folders.clear()
            continue
        for file in sorted(names):
            if file[0] != ".":
                reason = _refusal(here / file, root)
                if reason:
                    problems.append((here / file, reason))
                else:
                    files.append(here / file)
    return Tree(root, tuple(files), tuple(bases), tuple(problems))


def _refusal(path: Path, root: Path) -> str | None:
    """Why the file must not be opened; None when it may be."""
    try:
        path.name.encode()
        mode = path.stat().st_mode
        inside = not path.is_symlink() or path.resolve().is_relative_to(root)
    except UnicodeEncodeError:
        return "Its name is not UTF-8; rename it."
    except (OSError, RuntimeError):
        return "It is a broken link or cannot be examined; repair or remove it."
    if not inside:
        return "It is a link that leads out of the repository; copy the file instead."
    return None if stat.S_ISREG(mode) else "It is no regular file; remove it."
