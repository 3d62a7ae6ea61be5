"""From what `--repo` names to a catalogue, reading only what changed since the last time. It knows no format."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path

from personalq.catalog.facts import Reading, from_saved
from personalq.catalog.hub_names import hub_name
from personalq.catalog.jsonl import read_jsonl
from personalq.catalog.memory import Memory
from personalq.catalog.scan import Catalog, Problem, Progress, read_file, scan
from personalq.errors import CatalogError

JSONL = (".jsonl", ".ndjson")


def load_catalog(source: Path, cache: Path, on_progress: Progress | None = None) -> Catalog:
    """The catalogue of a folder, a `.jsonl` file, or what `source` names on the Hub (`hub:owner/name` and so on).

    The index is kept below `cache`; a corrupt or outdated one is rebuilt, and one that cannot be written is a problem
    in the result, as is a repository without checkpoints. `on_progress` counts all files; unchanged ones pass without
    being opened. Raises CatalogError when `source` cannot be read at all, HubError when the Hub refuses.
    """
    name = hub_name(source.as_posix())
    if name is None:
        _check(source)
    memory = Memory(index_path(source, cache))
    if name is not None:
        from personalq.catalog.hub_catalog import load_hub  # huggingface_hub takes long to import

        catalog = load_hub(name, memory, on_progress)
    elif source.is_dir():
        catalog = scan(source, on_progress, lambda path: _remembered(path, memory))
    else:
        catalog = read_jsonl(source, memory, on_progress)
    problems = (
        [] if catalog.checkpoints else [Problem(source, "No checkpoint was found; add weights or check the path.")]
    )
    unsaved = memory.save()
    if unsaved:
        problems.append(Problem(memory.path, unsaved))
    return replace(catalog, problems=(*catalog.problems, *problems), tally=memory.tally())


def _check(source: Path) -> None:
    """Raise CatalogError unless `source` is a folder or a regular file named `.jsonl`."""
    named = source.suffix.lower() in JSONL
    if source.is_dir() and named:
        raise CatalogError(f"{source} is a folder, though it is named like a file of records; rename it.")
    if not source.exists():
        raise CatalogError(f"There is no repository at {source}. Pass a folder of checkpoints or a catalog.jsonl.")
    if not source.is_dir() and not (named and source.is_file()):
        raise CatalogError(f"{source} is neither a folder nor a .jsonl file; pass the folder that holds it.")


def index_path(source: Path, cache: Path) -> Path:
    """Where the index of a repository is kept."""
    name = source if hub_name(source.as_posix()) else source.resolve()
    return cache / f"catalog-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.json"


def _remembered(path: Path, memory: Memory) -> Reading:
    """What is remembered of an unchanged file, else what `read_file` says.

    A file counts as unchanged while its size and both its times are; the second, of its last change of any kind,
    betrays content that was exchanged under an old date.
    """
    try:
        state = path.stat()
    except OSError as error:
        return Reading(problems=(f"It vanished while the folder was read ({error.strerror}); scan again.",))
    stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    reading = from_saved(memory.recall(str(path), stamp))
    if reading is None:
        reading = read_file(path)
        memory.keep(str(path), stamp, asdict(reading))
    return reading
