"""A small Hub on this machine: its API and its files over HTTP, made-up repositories, and trouble when asked for.

What it sends follows the Hub's API: `siblings` with `blobs=true`, pages by `Link`, `X-Error-Code`, ranges, and for
downloads the commit and content hashes in headers.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

DAY = "2024-05-06T07:08:09.000Z"


@dataclass
class StandIn:
    """The repositories, who may see them, and every request that came."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    """More fields of a repository's description, or other values of them."""
    collections: dict[str, Any] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_letmein"
    trouble: dict[str, Any] = field(default_factory=dict)
    """Path or its beginning -> a status, seconds of silence, bytes to send in place of the answer, or headers too."""
    ranges: bool = True
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes that were sent of every path."""
    address: str = ""

    def add(self, id_: str, files: dict[str, bytes | str], **details: Any) -> None:
        self.repos[id_] = {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
        self.details[id_] = details

    def commit(self, id_: str) -> str:
        told = hashlib.sha1()
        for name, data in sorted(self.repos[id_].items()):
            told.update(name.encode("utf-8", "surrogatepass") + hashlib.sha1(data).digest())
        return told.hexdigest()

    def paths(self, method: str = "GET") -> list[str]:
        return [path for verb, path, _ in self.requests if verb == method]

    def forget(self) -> None:
        self.requests.clear()
        self.sent.clear()


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob(data)}
    if name.endswith((".safetensors", ".ckpt", ".bin", ".pt")):
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


@contextmanager
def serving(stand_in: StandIn) -> Iterator[StandIn]:
    """Answer requests in a thread until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, body: bool) -> None:
            parts = urlsplit(self.path)
            path, query = unquote(parts.path), parse_qs(parts.query)
            stand_in.requests.append((self.command, path, {key.casefold(): v for key, v in self.headers.items()}))
            for start, trouble in stand_in.trouble.items():
                if path.startswith(start):
                    if isinstance(trouble, float):
                        time.sleep(trouble)
                    elif isinstance(trouble, bytes):
                        return self.send(200, trouble, body=body)
                    else:
                        status, headers = trouble if isinstance(trouble, tuple) else (trouble, {})
                        return self.send(status, b'{"error": "trouble"}', headers, body)
            known = self.headers.get("Authorization") == f"Bearer {stand_in.token}"
            if path == "/api/models":
                return self.listing(query, known)
            if path.startswith("/api/collections/"):
                found = stand_in.collections.get(path.removeprefix("/api/collections/"))
                return self.send(*((200, json.dumps(found).encode()) if found else (404, b"{}")), body=body)
            if path.startswith("/api/models/"):
                return self.description(path.removeprefix("/api/models/"), known)
            return self.file(path, known, body)

        def listing(self, query: dict[str, list[str]], known: bool) -> None:
            owner, limit = query["author"][0], int(query["limit"][0])
            start = int(query.get("cursor", ["0"])[0])
            ids = [id_ for id_ in stand_in.repos if id_.split("/")[0] == owner]
            ids = [id_ for id_ in ids if known or id_ not in stand_in.private]
            page = [
                {"id": id_, "sha": stand_in.commit(id_)} | stand_in.details[id_] for id_ in ids[start : start + limit]
            ]
            following = f"{stand_in.address}/api/models?author={owner}&limit={limit}&cursor={start + limit}"
            links = {"Link": f'<{following}>; rel="next"'} if start + limit < len(ids) else {}
            self.send(200, json.dumps(page).encode(), links)

        def description(self, id_: str, known: bool) -> None:
            if id_ not in stand_in.repos or (id_ in stand_in.private and not known):
                return self.send(401, b'{"error": "Invalid username or password."}', {"X-Error-Code": "RepoNotFound"})
            files = [sibling(name, data) for name, data in stand_in.repos[id_].items()]
            reply = {"id": id_, "sha": stand_in.commit(id_), "createdAt": DAY, "siblings": files}
            return self.send(200, json.dumps(reply | stand_in.details[id_]).encode())

        def file(self, path: str, known: bool, body: bool) -> None:
            id_, _, rest = path.strip("/").partition("/resolve/")
            commit, _, name = rest.partition("/")
            files = stand_in.repos.get(id_, {})
            if id_ in stand_in.gated and not known:
                return self.send(401, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            if id_ in stand_in.private and not known:
                return self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            if name not in files or commit != stand_in.commit(id_):
                return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
            data, entry = files[name], sibling(name, files[name])
            etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            asked = self.headers.get("Range", "")
            if stand_in.ranges and asked.startswith("bytes="):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                end = min(int(last or len(data) - 1), len(data) - 1)
                headers["Content-Range"] = f"bytes {first}-{end}/{len(data)}"
                return self.send(206, data[int(first) : end + 1], headers, body)
            return self.send(200, data, headers, body)

        def send(self, status: int, data: bytes, headers: dict[str, str] | None = None, body: bool = True) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            path = unquote(urlsplit(self.path).path)
            try:
                for start in range(0, len(data) if body else 0, 65536):
                    block = data[start : start + 65536]
                    stand_in.sent[path] = stand_in.sent.get(path, 0) + len(block)
                    self.wfile.write(block)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that hangs up in the middle is no error here."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stand_in.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
