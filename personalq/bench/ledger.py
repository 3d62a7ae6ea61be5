"""Finished rows of a table in a folder, so that a long run goes on where it stopped. It measures nothing.

A row is one JSON file, with its pictures beside it where it has some. Delete a row's JSON file to have it made anew:
the folder cannot tell that the code behind a row has changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from personalq.errors import BenchError

Row = dict[str, Any]
Pictures = NDArray[np.uint8]
"""[n, height, width, 3]"""


class Ledger:
    """The rows finished so far; in memory alone where no folder is given."""

    def __init__(self, folder: Path | None, plan: Mapping[str, Any]) -> None:
        """`plan` says what all rows have in common, in words that JSON can hold.

        Raises BenchError where the folder's rows were made by another plan.
        """
        self.folder = folder
        self.rows: dict[str, Row] = {}
        self.pictures: dict[str, Pictures] = {}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "plan.json"
        if not path.exists():
            _write(path, plan)
        elif _read(path) != json.loads(json.dumps(plan)):
            raise BenchError(f"{folder} holds rows of other prompts or settings: choose another folder or empty it.")

    def row(self, name: str) -> Row | None:
        """The finished row called `name`, if there is one. Raises BenchError where its file is damaged."""
        if name not in self.rows and self.folder and (path := self._path(name, "json")).exists():
            self.rows[name] = _read(path)
        return self.rows.get(name)

    def seen(self, name: str) -> Pictures:
        """The pictures of a finished row. Raises BenchError where they are missing or damaged."""
        if name not in self.pictures and self.folder:
            path = self._path(name, "npz")
            try:
                with np.load(path, allow_pickle=False) as file:
                    self.pictures[name] = file["pictures"]
            except (OSError, ValueError, KeyError) as error:
                raise BenchError(
                    f"{path} cannot be read ({error}): delete {name}.json to have its pictures made anew."
                ) from error
        return self.pictures[name]

    def add(self, name: str, row: Row, pictures: Pictures | None = None) -> None:
        """Keep a finished row; its JSON file is written last and at once, so that it is whole if it is there."""
        self.rows[name] = row
        if pictures is not None:
            self.pictures[name] = pictures
        if self.folder:
            if pictures is not None:
                np.savez_compressed(self._path(name, "npz"), pictures=pictures)
            _write(self._path(name, "json"), row)

    def _path(self, name: str, kind: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', name)}.{kind}"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    part.replace(path)


def _read(path: Path) -> Row:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} cannot be read ({error}): delete it to have it made anew.") from error
    if not isinstance(content, dict):
        raise BenchError(f"{path} does not hold a row: delete it to have it made anew.")
    return content
