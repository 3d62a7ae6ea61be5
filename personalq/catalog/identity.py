"""Ids and lineage, which need all checkpoints at once. It looks at names and paths, never into files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from personalq.catalog.versions import slug, split_version
from personalq.records import Checkpoint


def identified(found: Sequence[tuple[str, Path, Checkpoint]]) -> tuple[Checkpoint, ...]:
    """The checkpoints with their ids; each comes with its own name and its weights' path relative to the root.

    An id is the slug of the name; where several collide, parent folders are put in front until they differ, then the
    suffix and at last a number behind.
    """
    ids = [slug(name) or "checkpoint" for name, _, _ in found]
    for depth in range(1, 12):
        taken = Counter(ids)
        if max(taken.values(), default=1) == 1:
            break
        for i, (name, path, _) in enumerate(found):
            if taken[ids[i]] > 1:
                parents = [part for part in path.parts[:-1] if slug(part) != slug(name)]
                ids[i] = slug("-".join([*parents[-depth:], name]))
    ids = _distinct(ids, [path.suffix for _, path, _ in found])
    return tuple(replace(checkpoint, id=id_) for id_, (_, _, checkpoint) in zip(ids, found, strict=True))


def _distinct(ids: list[str], suffixes: Sequence[str]) -> list[str]:
    taken = Counter(ids)
    ids = [
        f"{id_}{suffix.replace('.', '-')}" if taken[id_] > 1 else id_ for id_, suffix in zip(ids, suffixes, strict=True)
    ]
    seen: Counter[str] = Counter()
    numbered = []
    for id_ in ids:
        seen[id_] += 1
        numbered.append(id_ if seen[id_] == 1 else f"{id_}-{seen[id_]}")
    return numbered


def with_lineage(checkpoints: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """Versions of one model joined: a checkpoint grouped by its name takes the model id a namesake brought along."""
    known: dict[str, set[str]] = defaultdict(set)
    for checkpoint in checkpoints:
        if checkpoint.group_id and checkpoint.group_id.startswith("civitai-"):
            known[slug(split_version(checkpoint.name)[0])].add(checkpoint.group_id)
    return tuple(
        replace(checkpoint, group_id=next(iter(known[checkpoint.group_id])))
        if checkpoint.group_id and len(known.get(checkpoint.group_id, ())) == 1
        else checkpoint
        for checkpoint in checkpoints
    )
