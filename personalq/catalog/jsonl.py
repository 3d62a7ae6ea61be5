"""A catalogue written as one JSON record a line. It looks for weights only beside the file, never elsewhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from personalq.catalog import roles
from personalq.catalog.bases import normal_base
from personalq.catalog.clean import description as clean_description
from personalq.catalog.memory import Memory
from personalq.catalog.scan import Catalog, Problem, Progress
from personalq.catalog.triggers import insertable, is_generic, unique
from personalq.catalog.untrusted import Fields, decode, parse_json
from personalq.catalog.versions import iso_date, ordinal, slug, split_version
from personalq.catalog.weights import GENERIC_STEM
from personalq.errors import BrokenFileError, CatalogError
from personalq.records import Checkpoint, Kind

MAX_LINE = 2**20
MAX_PROBLEMS = 100
MAX_NAME = 300  # characters
KINDS: dict[str, Kind] = {"lora": "lora", "dreambooth": "dreambooth", "ti": "ti"}


def read_jsonl(path: Path, memory: Memory | None = None, on_progress: Progress | None = None) -> Catalog:
    """The records of `path`, in order; broken and repeated ones are reported with their line.

    Records whose line `memory` knows are not interpreted again. Raises CatalogError when the file cannot be read or
    holds no record at all.
    """
    checkpoints: dict[str, Checkpoint] = {}
    problems: list[Problem] = []
    ids = {str(stamp): id_ for id_, (stamp, _) in memory.known.items()} if memory else {}
    try:
        total = _count(path)
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), 1):
                if on_progress:
                    on_progress(number, total, path.name)
                if not line.strip():
                    continue
                try:
                    stamp = hashlib.sha256(line.strip()).hexdigest()
                    saved = memory.recall(ids[stamp], stamp) if memory and stamp in ids else None
                    record = _restored(saved) if saved else _record(line)
                    id_, complaints = record.checkpoint.id, record.complaints
                    if id_ in checkpoints:
                        raise BrokenFileError(f"The id {id_!r} is taken; give every record its own.")
                    checkpoints[id_] = record.beside(path.parent)
                    if memory and not saved:
                        memory.keep(id_, stamp, asdict(record))
                except BrokenFileError as error:
                    complaints = (str(error),)
                problems += (Problem(path, f"Line {number}: {complaint}") for complaint in complaints)
    except OSError as error:
        raise CatalogError(f"The catalogue {path} cannot be read ({error.strerror}); check the path.") from error
    if not checkpoints:
        why = problems[0].reason if problems else "It is empty."
        raise CatalogError(f"The catalogue {path} holds no record: {why} Write one JSON object a line, as UTF-8.")
    return Catalog(tuple(checkpoints.values()), (), _shortened(problems, path))


@dataclass(frozen=True)
class _Record:
    """What one line says. `file` is the name of the weights, which may or may not lie beside the catalogue."""

    checkpoint: Checkpoint
    file: str
    complaints: tuple[str, ...]

    def beside(self, folder: Path) -> Checkpoint:
        weights = _beside(folder, self.file)
        return replace(self.checkpoint, files=(str(weights),)) if weights else self.checkpoint


def _restored(saved: dict[str, Any]) -> _Record:
    """A record as `asdict` and JSON left it."""
    stored: dict[str, Any] = saved["checkpoint"]
    stored = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return _Record(Checkpoint(**stored), saved["file"], tuple(saved["complaints"]))


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(MAX_LINE), b""))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of `file`; of one that is too long, only as much as shows that it is."""
    while line := file.readline(MAX_LINE):
        yield line
        while len(line) >= MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)


def _shortened(problems: Sequence[Problem], path: Path) -> tuple[Problem, ...]:
    """At most a hundred problems, and how many more there are."""
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    return (*problems[:MAX_PROBLEMS], Problem(path, f"{len(problems) - MAX_PROBLEMS} more problems of this kind."))


def _record(line: bytes) -> _Record:
    """One record and what is odd about it. Raises BrokenFileError when it is none."""
    if len(line) >= MAX_LINE:
        raise BrokenFileError("It is longer than 1 MiB; shorten the description.")
    value = parse_json(decode(line))
    if not isinstance(value, dict):
        raise BrokenFileError("It is no JSON object.")
    record = Fields(value)
    id_ = record.text("id")
    if not id_ or len(id_) > 200:
        raise BrokenFileError("It has no id of at most 200 characters; add one.")
    kind = KINDS.get(record.text("kind"))
    if kind is None:
        raise BrokenFileError(f"Its kind is {record.text('kind')[:40]!r}; it must be lora, dreambooth or ti.")
    file = record.text("file")[:MAX_NAME]
    stem = re.sub(r"\.(?:safetensors|pt|bin|ckpt)$", "", file, flags=re.IGNORECASE)
    name = (record.text("name") or stem or id_)[:MAX_NAME]
    triggers = unique(trigger for stored in record.texts("triggers") for trigger in insertable(stored))
    triggers = tuple(sorted(triggers, key=is_generic))
    tags, text = record.texts("tags"), clean_description(record.text("description"))
    category = record.text("category").casefold() or None
    version, base = record.text("version")[:MAX_NAME] or None, record.text("base_model")[:MAX_NAME]
    spoken = record.text("class_noun") or roles.spoken_noun(triggers)
    style = category == "style" or (category is None and roles.is_style(name, triggers, tags))
    noun = spoken or (None if style else roles.implied_noun(name, tags))
    thing = category if category in roles.SUBJECTS else None
    utility = record.flag("negative") or (not thing and roles.is_utility(name, kind, triggers, tags, text, noun))
    sample = record.text("sample_prompt")
    checkpoint = Checkpoint(
        id=id_,
        name=name,
        kind=kind,
        base=normal_base(base),
        base_raw=base or None,
        triggers=triggers,
        trigger_sources=("jsonl",) * len(triggers),
        class_noun=noun or None,
        category=category,
        role=roles.role_of(utility, style, None if style else spoken, noun or thing),
        tags=tags,
        aliases=unique(alias for alias in (stem,) if alias and alias != name and not GENERIC_STEM.fullmatch(alias)),
        description=text,
        sample_prompts=(sample,) if sample else (),
        version=version or split_version(name)[1],
        version_ordinal=ordinal(version or split_version(name)[1]),
        group_id=_lineage(id_, name),
        created_at=iso_date(record.text("created_at")),
        license=record.text("license") or None,
        source_format=record.text("raw_format") or "jsonl",
        loadable=not file.casefold().endswith((".pt", ".bin", ".ckpt")),
    )
    return _Record(checkpoint, file, tuple(record.complaints))


def _lineage(id_: str, name: str) -> str:
    """`<site>-<model>` of an id that names model and version; else the name without its version, kept per site."""
    match = re.fullmatch(r"([a-z]+-\d+)-\d+", id_)
    return match[1] if match else f"{id_.partition('-')[0]}-{slug(split_version(name)[0])}"


def _beside(folder: Path, file: str) -> Path | None:
    """The weights, when a plain file of that name lies beside the catalogue."""
    if not file or "/" in file or "\\" in file or file.startswith("."):
        return None
    path = folder.resolve() / file
    try:
        return path if path.is_file() and not path.is_symlink() else None
    except OSError:  # Such as a name longer than the file system allows.
        return None
