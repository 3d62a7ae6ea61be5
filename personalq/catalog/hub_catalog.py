"""Repositories on a Hub as a `Catalog`, through the same readers and the same merge as a folder.

No weights are fetched: of safetensors files only headers are read, of pickles and pictures nothing. What was read is
remembered under the Hub's own hash of the content.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from personalq.catalog import hub_reading, units
from personalq.catalog.facts import Facts, Reading, from_saved
from personalq.catalog.hub import Hub, HubFile, Repo
from personalq.catalog.hub_names import SCHEME, HubName, Place
from personalq.catalog.hub_weights import placed
from personalq.catalog.memory import Memory
from personalq.catalog.scan import Catalog, Problem, Progress, assemble
from personalq.catalog.tree import Tree
from personalq.catalog.weights import SUFFIXES
from personalq.errors import CatalogError, HubError, HubUnavailableError
from personalq.records import Checkpoint

T = TypeVar("T")
R = TypeVar("R")
Files = Mapping[Path, tuple[Repo, HubFile]]
WORKERS = 8
PICTURE_TASKS = ("", "text-to-image", "image-to-image", "unconditional-image-generation", "image-text-to-image")
SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")


def load_hub(name: HubName, memory: Memory, on_progress: Progress | None = None, hub: Hub | None = None) -> Catalog:
    """The checkpoints of a repository, of the models of a collection, or of a user's or organisation's models.

    What fails for one of several repositories, or one of several files, is a problem in the result. `on_progress`
    counts repositories, then files. Raises CatalogError when there is nothing of that name, HubError when nothing can
    be listed or when it is one repository and no checkpoint in it can be read.
    """
    visit = _Visit(hub or Hub(), memory, on_progress)
    repos = visit.repos(name)
    files = {Path(repo.id, file.path): (repo, file) for repo in repos for file in repo.files if _belongs(file.path)}
    tree = Tree(Path(), tuple(sorted(files)), (), ())
    found, _ = units.find(tree)
    needed = [*(unit.weights for unit in found), *units.sidecars(tree, found)]
    readings = visit.readings({path: files[path] for path in needed})
    alone = Counter(files[unit.weights][0].id for unit in found)
    for unit in found:
        repo, _ = files[unit.weights]
        readings[unit.weights] = _with_upload(readings[unit.weights], repo, alone[repo.id] == 1)
    catalog = assemble(tree, readings.__getitem__)
    if name.what == "model" and visit.errors and not catalog.checkpoints:
        raise visit.errors[0]
    owners = {str(path): repo for path, (repo, _) in files.items()}
    checkpoints = tuple(placed(checkpoint, owners[checkpoint.files[0]]) for checkpoint in catalog.checkpoints)
    problems = [*visit.problems]
    problems += (Problem(Path(f"{SCHEME}{item.path.as_posix()}"), item.reason) for item in catalog.problems)
    return Catalog(checkpoints, (), (*problems, *_silent(repos, checkpoints, problems)))


class _Visit:
    """One tour of a Hub: asks what the memory does not know, and gathers what went wrong."""

    def __init__(self, hub: Hub, memory: Memory, on_progress: Progress | None) -> None:
        self.hub, self.memory, self.on_progress = hub, memory, on_progress
        self.problems: list[Problem] = []
        self.errors: list[HubError] = []

    def repos(self, name: HubName) -> list[Repo]:
        """The repositories that were asked for. Raises CatalogError when they cannot be listed."""
        found: dict[str, Repo] = {}
        unknown: list[str] = []
        for id_, commit in self._listed(name).items():
            saved = self.memory.recall(f" {id_}", commit) if commit else None
            if saved is None:
                unknown.append(id_)
            else:
                found[id_] = _restored(saved)
        for id_, repo in self._each(self.hub.repo, unknown, "asking for repositories"):
            if isinstance(repo, Repo):
                found[id_] = repo
                self.memory.keep(f" {id_}", repo.commit, asdict(repo))
            elif name.what == "model":
                raise repo
            else:
                self._failed(id_, repo)
        for repo in found.values():
            self.problems += (Problem(Path(f"{SCHEME}{repo.id}"), problem) for problem in repo.problems)
        return [found[id_] for id_ in sorted(found)]

    def readings(self, files: Files) -> dict[Path, Reading]:
        """What every file says, from memory where its content is known."""
        found: dict[Path, Reading] = {}
        for path, (repo, file) in files.items():
            known = from_saved(self.memory.recall(str(path), file.blob or repo.commit))
            if known is not None:
                found[path] = known
        unknown = [path for path in files if path not in found]

        def read(path: Path) -> Reading:
            repo, file = files[path]
            return hub_reading.read(self.hub, Place(repo.id, repo.commit, file.path), file)

        for path, reading in self._each(read, unknown, "reading headers and cards"):
            if isinstance(reading, Reading):
                found[path] = reading
                repo, file = files[path]
                self.memory.keep(str(path), file.blob or repo.commit, asdict(reading))
            else:
                found[path] = Reading()
                self._failed(str(path), reading)
        return found

    def _listed(self, name: HubName) -> dict[str, str]:
        """Ids of the repositories with their commits, "" where the list does not say."""
        if name.what == "model":
            return {name.name: ""}
        if name.what == "collection":
            items = [(kind, id_, "", "") for kind, id_ in self.hub.collection(name.name)]
        else:
            items = [("model", id_, commit, task) for id_, commit, task in self.hub.models_of(name.name)]
        if not items:
            raise CatalogError(f"{name} holds no model that may be seen; check the name, or log in with HF_TOKEN.")
        wanted = {id_: commit for kind, id_, commit, task in items if kind == "model" and task in PICTURE_TASKS}
        others = Counter(task or kind for kind, id_, _, task in items if id_ not in wanted)
        if others:
            counts = ", ".join(f"{count} of type {kind or 'unknown'}" for kind, count in others.most_common(10))
            self.problems.append(Problem(Path(str(name)), f"Passed over what is no picture model: {counts}."))
        return wanted

    def _each(self, do: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[tuple[T, R | HubError]]:
        """`do` of every item, several at a time, or the error that it raised."""

        def attempt(item: T) -> R | HubError:
            try:
                return do(item)
            except HubError as error:
                return error

        pool = ThreadPoolExecutor(WORKERS)
        try:
            for done, (item, result) in enumerate(zip(items, pool.map(attempt, items), strict=True), 1):
                if self.on_progress:
                    self.on_progress(done, len(items), what)
                yield item, result
        finally:  # Who interrupts does not wait for what was not yet asked.
            pool.shutdown(cancel_futures=True)

    def _failed(self, where: str, error: HubError) -> None:
        """Report an error, once only when the Hub is gone, and hold on to what was known of the place."""
        if not isinstance(error, HubUnavailableError):
            self.problems.append(Problem(Path(f"{SCHEME}{where}"), str(error)))
        elif not any(isinstance(earlier, HubUnavailableError) for earlier in self.errors):
            self.problems.append(Problem(Path(f"{SCHEME}{where}"), f"{error} The rest was not read; what was is kept."))
        self.errors.append(error)
        self.memory.retain(where)


def _belongs(path: str) -> bool:
    """Whether a file may be part of a checkpoint: not hidden, no picture, no piece of a divided model."""
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and not path.casefold().endswith(units.PICTURES) and not SHARD.fullmatch(path)


def _with_upload(reading: Reading, repo: Repo, alone: bool) -> Reading:
    """The reading of weights with what the Hub itself knows. The day and the name of a repository that holds several
    checkpoints belong to none of them."""
    name = repo.id.partition("/")[2]
    facts = Facts("hub", aliases=(name,), uploaded_at=repo.uploaded) if alone else Facts("hub")
    return replace(reading, facts=(*reading.facts, facts)) if reading.facts else reading


def _silent(repos: Sequence[Repo], found: Sequence[Checkpoint], problems: Sequence[Problem]) -> list[Problem]:
    """A problem for every repository that gave neither a checkpoint nor a problem."""
    spoken = {str(problem.path).removeprefix(SCHEME).split("@")[0] for problem in problems}
    spoken |= {file.removeprefix(SCHEME).split("@")[0] for one in found for file in one.files[:1]}
    told = {"/".join(place.split("/")[:2]) for place in spoken}
    silent = []
    for repo in repos:
        if repo.id not in told:
            pickles = [file.path for file in repo.files if file.path.casefold().endswith(SUFFIXES[1:])]
            why = f" only pickles ({pickles[0]}), which are never opened" if pickles else ""
            reason = (
                f"It holds no checkpoint that can be read,{why or ' in safetensors'}; ask its author for safetensors."
            )
            silent.append(Problem(Path(f"{SCHEME}{repo.id}"), reason))
    return silent


def _restored(saved: dict[str, Any]) -> Repo:
    """A repository as `asdict` and JSON left it."""
    files = tuple(HubFile(**file) for file in saved["files"])
    return Repo(**{**saved, "files": files, "problems": tuple(saved["problems"])})
