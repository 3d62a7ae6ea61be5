"""A Hub repository that a visitor names for a session, as a `Catalog`. It downloads no weights and keeps no index.

Whoever names a repository reads it as a stranger would: the server's token is not sent unless that is asked for.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from personalq.catalog.hub import Hub, HubFile, Repo
from personalq.catalog.hub_catalog import load_hub
from personalq.catalog.hub_names import REPO, SCHEME, HubName, Place, place
from personalq.catalog.memory import Memory
from personalq.catalog.own import GROUP, ID, LIMIT
from personalq.catalog.scan import Catalog, Problem, Progress
from personalq.catalog.units import PICTURES
from personalq.catalog.untrusted import MAX_SIDECAR
from personalq.errors import HubError
from personalq.records import Checkpoint

MOST = 20
"""Checkpoints of one repository."""
LOOKED_AT = 2 * MOST
"""Weights whose headers are read, and as many descriptions beside them: each is a question to the Hub."""
HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
NO_MODELS = ("collection", "collections", "datasets", "spaces", "user", "papers")
WANTED = "write owner/name, as on the page of one model"


def from_hub(
    named: str,
    folder: Path,
    *,
    anonymous: bool = True,
    limit: int = LIMIT,
    endpoint: str | None = None,
    on_progress: Progress | None = None,
) -> Catalog:
    """The LoRAs and textual inversions of the model repository `named` ("owner/name", or its page's address).

    At most 20, none over `limit` bytes; what was left out stands among the problems. The weights stay on the Hub until
    `hub_weights.fetched` brings them, without the token where `anonymous`. What is read is remembered in `folder`, the
    visitor's own, if at all. Raises HubError when the name is no model's, the Hub refuses, or nothing there can be
    used.
    """
    hub = _Guarded(limit, endpoint, anonymous)
    repo = repo_named(named, hub.endpoint)
    found = load_hub(HubName("model", repo), Memory(folder / "hub.json"), on_progress, hub)
    usable = [each for each in found.checkpoints if each.loadable and each.kind != "dreambooth"]
    problems = list(found.problems)
    if not usable:
        why = f" {problems[0].reason}" if problems else ""
        raise HubError(f"{repo} holds no LoRA or textual inversion that can be used.{why} Choose another repository.")
    if len(usable) < len(found.checkpoints):
        left = len(found.checkpoints) - len(usable)
        problems.append(Problem(Path(f"{SCHEME}{repo}"), f"{left} in it are whole models or pickles; left out."))
    if len(usable) > MOST:
        problems.append(Problem(Path(f"{SCHEME}{repo}"), f"It holds {len(usable)}; only the first {MOST} are taken."))
    return Catalog(tuple(_owned(each, anonymous) for each in usable[:MOST]), (), tuple(problems))


def repo_named(text: str, endpoint: str = "") -> str:
    """The "owner/name" in what a visitor typed or pasted. Raises HubError for anything but one model at `main`."""
    typed = text.strip()[:500].removeprefix(SCHEME)
    bare = re.sub(r"^https?://", "", typed, flags=re.IGNORECASE)
    host, _, rest = bare.partition("/")
    if host.casefold() in (*HOSTS, urlsplit(endpoint).netloc):
        bare = rest
    elif bare != typed:
        raise HubError(f"{host[:80]!r} is not the Hub; {WANTED}.")
    parts = [part for part in re.split("[?#]", bare)[0].split("/") if part]
    if parts and parts[0].casefold() in NO_MODELS:
        raise HubError(f"{'/'.join(parts)[:80]!r} is no single model; {WANTED}.")
    if len(parts) > 2 and (parts[2] not in ("tree", "blob", "resolve") or parts[3:4] != ["main"]):
        raise HubError(f"Only what a repository holds now (main) can be used; {WANTED}.")
    repo = "/".join(parts[:2])
    if not REPO.fullmatch(repo):
        raise HubError(f"{typed[:80]!r} names no model on the Hub; {WANTED}.")
    return repo


class _Guarded(Hub):
    """A Hub that tells of a repository only what a visitor may cost."""

    def __init__(self, limit: int, endpoint: str | None, anonymous: bool) -> None:
        super().__init__(endpoint, timeout=10, pauses=(1,), anonymous=anonymous)
        self.limit = limit

    def repo(self, id_: str) -> Repo:
        """The repository without pictures, weights that are too large, and more files than are looked at."""
        whole = super().repo(id_)
        problems = list(whole.problems)
        weights: list[HubFile] = []
        others: list[HubFile] = []
        for file in whole.files:
            if file.path.casefold().endswith(PICTURES):
                continue
            if not file.path.casefold().endswith(".safetensors"):
                others.append(file)
            elif file.size <= self.limit:
                weights.append(file)
            else:
                sizes = f"{file.size / 2**20:.0f} MB, and {self.limit / 2**20:g} MB is the most for a session"
                problems.append(f"{file.path[:100]!r} is left out: it has {sizes}.")
        if len(weights) > LOOKED_AT:
            problems.append(f"It holds {len(weights)} weights; only the first {LOOKED_AT} are looked at.")
        files = (*weights[:LOOKED_AT], *others[:LOOKED_AT])
        return replace(whole, files=files, problems=tuple(problems[:MOST]))

    def start_of(self, at: Place, count: int) -> bytes:
        """As a Hub does; raises HubError rather than read a start that no LoRA has."""
        if count > MAX_SIDECAR:
            raise HubError(f"{at.path[:100]!r} begins with a header of {count} bytes; add the file itself instead.")
        return super().start_of(at, count)


def _owned(checkpoint: Checkpoint, anonymous: bool) -> Checkpoint:
    """The checkpoint as the visitor's own, which belongs to no lineage of the catalogue."""
    places = [(file, place(file)) for file in checkpoint.files]
    files = tuple(str(replace(at, public=anonymous)) if at else file for file, at in places)
    group = f"{GROUP}{checkpoint.group_id or checkpoint.id}"
    return replace(checkpoint, id=f"{ID}{secrets.token_hex(16)}", files=files, group_id=group)
