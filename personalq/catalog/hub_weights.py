"""Which files of a Hub repository a checkpoint needs, and fetching them when it is loaded. It opens none of them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from personalq.catalog.hub import LOG_IN, PUBLIC_ONLY, Repo
from personalq.catalog.hub_names import Place, place
from personalq.catalog.tree import PIPELINE
from personalq.errors import HubAccessError, HubError, HubUnavailableError
from personalq.records import Checkpoint

USED = (".safetensors", ".json", ".txt", ".model")
"""Kinds of files that loading may open. Pickles are not among them."""
UNUSED_PARTS = ("safety_checker", "feature_extractor")
VARIANT = re.compile(r"\.fp16\.")


def placed(checkpoint: Checkpoint, repo: Repo) -> Checkpoint:
    """The checkpoint with its files as places at the commit that was read, and without pictures, which stay there.

    A full model's files are all that loading it needs. Versions of a model share a group only within one owner.
    """
    paths = [file.removeprefix(f"{repo.id}/") for file in checkpoint.files]
    if checkpoint.kind == "dreambooth" and checkpoint.loadable:
        paths += (path for path in _parts(paths[0], repo) if path not in paths)
    group = checkpoint.group_id or checkpoint.id
    if not group.startswith("civitai-"):
        group = f"{repo.id.partition('/')[0]}/{group}"
    files = tuple(str(Place(repo.id, repo.commit, path)) for path in paths)
    return replace(checkpoint, files=files, preview=None, group_id=group)


def _parts(weights: str, repo: Repo) -> list[str]:
    """The files of the pipeline, or the lone denoiser, that the weights `<home>/unet/<file>` belong to."""
    component = PurePosixPath(weights).parent
    home = component.parent
    names = {file.path for file in repo.files}
    whole = str(home / PIPELINE) in names
    folders: dict[PurePosixPath, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        inside = path.parent == component or (whole and path.parent.parent == home and path.parent != home)
        if inside and path.suffix in USED and path.parent.name not in UNUSED_PARTS:
            folders.setdefault(path.parent, []).append(name)
    chosen = [str(home / PIPELINE)] if whole else []
    for folder, files in folders.items():
        tensors = [file for file in files if file.endswith(".safetensors")]
        half = [file for file in tensors if VARIANT.search(file)]
        full = [file for file in tensors if file not in half]
        wanted = [weights] if folder == component else (half or full) if VARIANT.search(weights) else (full or half)
        chosen += (file for file in files if file not in tensors or file in wanted)
    return chosen


def fetched(checkpoint: Checkpoint, endpoint: str | None = None, cache: Path | None = None) -> Checkpoint:
    """The checkpoint with the files that loading needs on this machine, in Hugging Face's cache or in `cache`, from the
    very commit that was read; unchanged when it lies here already or may not be loaded.

    A place that says `hub-public:` is fetched without the token. Raises HubAccessError, HubUnavailableError or
    HubError; each says what to do.
    """
    places = [at for file in checkpoint.files if (at := place(file)) and at.path.endswith(USED)]
    if not places or not checkpoint.loadable:
        return checkpoint
    api = HfApi(endpoint=endpoint, library_name="personalq")
    return replace(checkpoint, files=tuple(_fetch(api, at, cache) for at in places))


def _fetch(api: HfApi, at: Place, cache: Path | None) -> str:
    """The local path of one file, downloaded unless it is there."""
    try:
        token = False if at.public else None  # None is the token of whoever is logged in.
        return str(api.hf_hub_download(at.repo, at.path, revision=at.commit, token=token, cache_dir=cache))
    except (HTTPError, OSError, ValueError) as error:
        # huggingface_hub says "not found locally" of every refusal; what the Hub answered is the cause.
        hidden = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
        raise _explained(hidden or error, f"{at.path} of {at.repo}", at.public) from error


def _explained(error: BaseException, what: str, public: bool) -> HubError:
    """An error of huggingface_hub as one of ours."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in (401, 403) or isinstance(error, GatedRepoError | RepositoryNotFoundError):
        ask = PUBLIC_ONLY.capitalize() if public else f"Ask for access on its page, then {LOG_IN}"
        return HubAccessError(f"The Hub does not give {what}: it is private, gated or gone. {ask}.")
    if status == 429:
        return HubUnavailableError(
            f"The Hub wants no more requests for now (429); {what} was not fetched. Wait a little."
        )
    if status:
        return HubError(f"The Hub failed to give {what} ({status}); try again, or index the repository again.")
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | HTTPError):
        return HubUnavailableError(
            f"{what} is not on this machine and the Hub cannot be reached; check the connection and HF_HUB_OFFLINE."
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return HubError(f"{what} could not be downloaded ({reason}); check the free space and the cache folder.")
