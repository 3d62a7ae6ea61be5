"""Asking a Hub over HTTP: lists, descriptions of repositories, first bytes of files. It knows no metadata format.

It uses huggingface_hub's session and token, so `HF_ENDPOINT`, `HF_TOKEN`, a login, proxies and the offline switch
count, but reads every reply itself: with a time-out, no further than a limit, and as untrusted data. Its own methods
read replies of any length, and those that list models or collections wait for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session

from personalq.catalog.hub_names import COMMIT, REPO, Place, unsafe
from personalq.catalog.untrusted import Fields, decode, parse_json
from personalq.errors import BrokenFileError, HubAccessError, HubError, HubUnavailableError

MAX_REPLY = 32 * 2**20
MAX_PAGES = 200
PAGE = 100
MAX_FILES = 5000
BLOCK = 64 * 1024
LOG_IN = "log in with `hf auth login` (`huggingface-cli login` in older versions) or set HF_TOKEN"
PUBLIC_ONLY = "only public repositories can be used here; add the file itself instead"
TRY_AGAIN = (500, 502, 503, 504)
NO_DATE = "2022-03-02T23:29:04"
"""What the Hub gives as the time of upload of everything that is older."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository. `digest` is its SHA-256 where the Hub knows it, `blob` what git calls its content."""

    path: str
    size: int
    digest: str | None
    blob: str


@dataclass(frozen=True)
class Repo:
    """A model repository at one commit; `task` is what it says it is for, "" when it does not say."""

    id: str
    commit: str
    files: tuple[HubFile, ...]
    uploaded: str = ""
    task: str = ""
    problems: tuple[str, ...] = ()


class Hub:
    """One Hub. After it could not be reached once, every further question fails at once with the same reason."""

    def __init__(
        self,
        endpoint: str | None = None,
        timeout: float = 20,
        pauses: Sequence[float] = (1, 4),
        anonymous: bool = False,
    ) -> None:
        """`endpoint` is an address without a trailing slash, by default `HF_ENDPOINT` or https://huggingface.co.

        A reply may keep silent for `timeout` seconds and take three times as long in all; a question that met trouble
        on the other side is asked again after each of `pauses` (seconds). `anonymous` sends no token, whoever is
        logged in: for names that somebody else gave. Raises HubError when it is no address.
        """
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        try:
            parts = urlsplit(self.endpoint)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise HubError(f"{self.endpoint[:200]!r} is no address of a Hub; set HF_ENDPOINT to one or unset it.")
        self.timeout = timeout
        self.pauses = tuple(pauses)
        self.anonymous = anonymous
        self._gone: HubUnavailableError | None = None

    def repo(self, id_: str) -> Repo:
        """A model repository as it is now. Raises HubError."""
        address = f"{self.endpoint}/api/models/{quote(id_)}"
        reply, _ = self._json(address, f"the model {id_}", {"blobs": "true"})
        return _repo(id_, Fields(reply))

    def models_of(self, user: str) -> Iterator[tuple[str, str, str]]:
        """Id, commit and task of every model of a user or organisation. Raises HubError."""
        address: str | None = f"{self.endpoint}/api/models"
        asked: dict[str, str] | None = {"author": user, "limit": str(PAGE), "full": "true"}
        for _ in range(MAX_PAGES):
            reply, address = self._json(str(address), f"the models of {user}", asked)
            for item in reply if isinstance(reply, list) else ():
                model = Fields(item)
                if REPO.fullmatch(id_ := model.text("id", "modelId")):
                    yield id_, model.text("sha"), model.text("pipeline_tag")
            if address is None:
                return
            asked = None  # The address of the next page carries them.
        raise HubError(f"The Hub's list of the models of {user} has more than {MAX_PAGES} pages; name single models.")

    def collection(self, slug: str) -> list[tuple[str, str]]:
        """Type ("model", "dataset", "space", "paper") and id of every item of a collection. Raises HubError."""
        reply, _ = self._json(f"{self.endpoint}/api/collections/{quote(slug)}", f"the collection {slug}")
        items = reply.get("items") if isinstance(reply, dict) else None
        if not isinstance(items, list):
            raise HubError(f"What the Hub sent as the collection {slug} is none; check the name.")
        return [(item.text("type"), item.text("id")) for item in map(Fields, items)]

    def start_of(self, at: Place, count: int) -> bytes:
        """The first `count` bytes of a file, or all of it when it is shorter. Raises HubError."""
        address = f"{self.endpoint}/{at.repo}/resolve/{at.commit}/{quote(at.path)}"
        data, _ = self._get(address, f"{at.repo}/{at.path}", count, span=True)
        return data

    def _json(self, address: str, what: str, asked: Mapping[str, str] | None = None) -> tuple[object, str | None]:
        """A reply as a JSON value, and the address of the next page at this same Hub."""
        data, following = self._get(address, what, MAX_REPLY + 1, asked)
        if len(data) > MAX_REPLY:
            raise HubError(f"The Hub's answer about {what} is longer than {MAX_REPLY} bytes; it is not read.")
        try:
            value = parse_json(decode(data))
        except BrokenFileError as error:
            raise HubError(f"The Hub's answer about {what} cannot be read: {error} Check HF_ENDPOINT.") from error
        if following is None:
            return value, None
        here, there = urlsplit(self.endpoint), urlsplit(following)
        return value, urlunsplit((here.scheme, here.netloc, there.path, there.query, ""))

    def _get(
        self, address: str, what: str, count: int, asked: Mapping[str, str] | None = None, span: bool = False
    ) -> tuple[bytes, str | None]:
        """The first `count` bytes of a reply, and where its next page is said to be."""
        headers = {"User-Agent": "personalq", "Accept-Encoding": "identity"}
        token = None if self.anonymous or constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if span:
            headers["Range"] = f"bytes=0-{count - 1}"
        for pause in (*self.pauses, None):
            if self._gone:
                raise self._gone
            try:
                with get_session().stream(
                    "GET", address, params=asked, headers=headers, timeout=self.timeout
                ) as response:
                    status = response.status_code
                    if status < 300:
                        return self._taken(response, count), response.links.get("next", {}).get("url")
                    if status not in TRY_AGAIN or pause is None:
                        self._refused(status, response.headers, what)
            except OfflineModeIsEnabled:
                self._lost("The program is offline (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set); unset it")
            except (HTTPError, OSError) as error:
                if pause is None:
                    reason = f"{type(error).__name__}: {error}".strip(": ")[:200]
                    self._lost(f"The Hub at {self.endpoint} cannot be reached ({reason}); check the connection")
            time.sleep(pause or 0)
        raise AssertionError("The last round returns or raises.")

    def _taken(self, response: Any, count: int) -> bytes:
        """The first `count` bytes of a body, whatever the server goes on to send."""
        data, end = bytearray(), time.monotonic() + 3 * self.timeout
        for block in response.iter_raw(BLOCK):
            data += block
            if len(data) >= count:
                break
            if time.monotonic() > end:
                raise TimeoutError(f"the answer took longer than {3 * self.timeout:g} s")
        return bytes(data[:count])

    def _refused(self, status: int, headers: Mapping[str, str], what: str) -> NoReturn:
        """Raises what a status of 300 or more means. `X-Error-Code` is the Hub's own word for it."""
        code = headers.get("X-Error-Code", "")
        if self.anonymous and (status in (401, 403) or code == "GatedRepo"):
            raise HubAccessError(
                f"The Hub does not show {what} to everyone ({status}): it is private, gated or not there. Check the "
                f"name; {PUBLIC_ONLY}."
            )
        if status == 403 or code == "GatedRepo":
            raise HubAccessError(
                f"The Hub does not give {what} to this user ({status}): ask for access on its page at {self.endpoint}, "
                f"then {LOG_IN} with a token that may read it."
            )
        if status == 401:
            raise HubAccessError(
                f"The Hub does not show {what} to strangers (401): it is private, gated or not there. "
                f"Check the name, then {LOG_IN}."
            )
        if status == 404:
            raise HubError(f"There is no {what.removeprefix('the ')} on the Hub (404); check the name.")
        if status == 429:
            wait = headers.get("Retry-After", "")
            after = f"in {wait} seconds" if wait.isdigit() and len(wait) < 7 else "in a few minutes"
            higher = "" if self.anonymous else f", or {LOG_IN} for a higher limit"
            self._lost(f"The Hub wants no more requests for now (429): try again {after}{higher}")
        if status >= 500:
            raise HubError(f"The Hub failed to give {what} ({status}); try again later.")
        raise HubError(f"The Hub answered {status} when asked for {what}; check the name and HF_ENDPOINT.")

    def _lost(self, why: str) -> NoReturn:
        instead = "add the file itself" if self.anonymous else "pass a folder that is on this machine"
        self._gone = HubUnavailableError(f"{why}, or {instead}.")
        raise self._gone


def _repo(id_: str, reply: Fields) -> Repo:
    """A repository as the Hub describes it, checked. Raises HubError when the description is useless."""
    commit, stored = reply.text("sha"), reply.values.get("siblings")
    if not COMMIT.fullmatch(commit) or not isinstance(stored, list):
        raise HubError(f"What the Hub says of {id_} names no commit or no files; check the name and HF_ENDPOINT.")
    files, problems = [], []
    for item in map(Fields, stored[:MAX_FILES]):
        file = _file(item)
        if file:
            files.append(file)
        else:
            problems.append(
                f"A file named {item.text('rfilename')[:100]!r} is passed over: its name or size is unsafe."
            )
    if len(stored) > MAX_FILES:
        problems.append(f"It holds {len(stored)} files; only the first {MAX_FILES} are looked at.")
    uploaded = "" if reply.text("createdAt").startswith(NO_DATE) else reply.text("createdAt")
    return Repo(id_, commit, tuple(files), uploaded, reply.text("pipeline_tag"), tuple(problems[:20]))


def _file(item: Fields) -> HubFile | None:
    """One entry of a file list; None when its name is unsafe or its size unknown."""
    path, lfs = item.values.get("rfilename"), item.child("lfs")
    size = lfs.number("size") if lfs.values else item.number("size")
    if not isinstance(path, str) or unsafe(path) or size is None or not 0 <= size < 2**48:
        return None
    digest = lfs.text("sha256", "oid").casefold()
    return HubFile(path, int(size), digest if len(digest) == 64 else None, digest or item.text("blobId"))
