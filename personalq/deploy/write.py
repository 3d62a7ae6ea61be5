"""Holds the README's front matter to what the Spacefile says. It changes no other byte of the README."""

from __future__ import annotations

from pathlib import Path

from personalq.deploy.front_matter import block, difference, split
from personalq.deploy.spacefile import Spacefile, read_spacefile
from personalq.errors import DeployError


def checked(root: Path) -> Spacefile:
    """The Spacefile of the project at `root`. Raises DeployError when it is wrong or the README differs from it."""
    space = read_spacefile(root)
    wrong = difference(readme(root), space.front_matter)
    if wrong:
        raise DeployError(f"{wrong}: run `python -m personalq deploy write`.")
    return space


def written(root: Path) -> bool:
    """Write the README's front matter; whether anything changed. Raises DeployError and then changes nothing."""
    space = read_spacefile(root)
    there = readme(root)
    wanted = block(space.front_matter) + split(there)[1]
    if wanted == there:
        return False
    beside = root / "README.md.new"
    try:
        beside.write_bytes(wanted)
        beside.replace(root / "README.md")
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DeployError(f"README.md cannot be written ({error.strerror}): check its permissions.") from error
    return True


def readme(root: Path) -> bytes:
    """The README's bytes. Raises DeployError."""
    try:
        return (root / "README.md").read_bytes()
    except OSError as error:
        raise DeployError(f"README.md cannot be read ({error.strerror}): run this in the project's folder.") from error
