"""Which files of the project a Space gets. It reads names and sizes, and sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.utils import filter_repo_objects

from personalq.errors import DeployError

KEEP = [
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Spacefile",
    "pyproject.toml",
    "personalq/*",
    "sample_repo/*",
    "assets/*",
]
"""All that goes up beside the app's file, so that whatever else lies in the folder stays here."""
LEAVE = [".*", "*/.*", "*.pyc", "*__pycache__/*", ".venv/*", "tests/*", "outputs/*", "requirements.txt"]
LEAVE += ["sample_repo/recipe/*", "sample_repo/concepts/*/training/*"]
"""Caches, the tests, how the embedded model was made, and the requirements: the Space has its own."""
LARGE = 10_000_000
"""Bytes from which on the Hub keeps a file outside git."""


@dataclass(frozen=True)
class Upload:
    """What goes up: every file's path in the project and its bytes."""

    files: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(size for _, size in self.files)

    @property
    def large(self) -> tuple[str, ...]:
        """The files that the Hub keeps outside git."""
        return tuple(path for path, size in self.files if size > LARGE)


def chosen(root: Path, app_file: str) -> Upload:
    """What `upload_folder` will send with the same patterns. Raises DeployError for links that leave the project."""
    paths = sorted(path for path in root.glob("**/*") if path.is_file())
    names = filter_repo_objects(
        [path.relative_to(root).as_posix() for path in paths], allow_patterns=[*KEEP, app_file], ignore_patterns=LEAVE
    )
    files = []
    for name in names:
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise DeployError(f"{name} is a link out of the project: put the file itself there, or remove the link.")
        files.append((name, (root / name).stat().st_size))
    return Upload(tuple(files))
