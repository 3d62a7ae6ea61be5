"""The Hub's write side on this machine, as far as a Space needs it: it keeps what it was sent, and can refuse."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

DAY = "2024-05-06T07:08:09.000Z"


@dataclass
class SpaceHub:
    """One Space: what it holds, and every request for it."""

    token: str = "hf_maywrite"
    address: str = ""
    exists: bool = False
    sdk: str = "gradio"
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    """The end of a path -> status and what the Hub says."""
    lfs_from: int = 10_000_000
    stages: list[str] = field(default_factory=lambda: ["BUILDING", "RUNNING"])
    log: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path and body, as JSON where it is some."""
    files: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """LFS objects by their SHA-256."""

    def sent(self, end: str) -> list[Any]:
        return [body for _, path, body in self.requests if path.endswith(end)]

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]


@contextmanager
def serving(hub: SpaceHub) -> Iterator[SpaceHub]:
    """Answer requests in a thread until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            data = self.body()
            try:
                body = json.loads(data)
            except ValueError:
                body = data
            hub.requests.append((self.command, path, body))
            for end, (status, says) in hub.refuse.items():
                if path.endswith(end):
                    return self.send(status, {"error": says}, {"X-Error-Message": says})
            if not path.startswith("/store/") and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.send(401, {"error": "Invalid user token."})
            return self.route(path, body, data)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_PUT(self) -> None:
            self.answer()

        def log_message(self, *_: object) -> None:
            pass

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") == "chunked":
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def route(self, path: str, body: Any, data: bytes) -> None:
            space = {"id": "me/app", "sdk": hub.sdk, "sha": "0" * 40, "private": False, "siblings": []}
            if path == "/api/repos/create":
                url = {"url": f"{hub.address}/spaces/{body['organization']}/{body['name']}"}
                status, hub.exists = (409 if hub.exists else 200), True
                return self.send(status, url)
            if path == "/api/validate-yaml":
                return self.send(200, {"errors": [], "warnings": []})
            if path.endswith("/preupload/main"):
                modes = [(f["path"], "lfs" if f["size"] >= hub.lfs_from else "regular") for f in body["files"]]
                return self.send(
                    200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]}
                )
            if path.endswith("/info/lfs/objects/batch"):
                actions = [
                    {
                        "oid": o["oid"],
                        "size": o["size"],
                        "actions": {"upload": {"href": f"{hub.address}/store/{o['oid']}"}},
                    }
                    for o in body["objects"]
                ]
                return self.send(200, {"transfer": "basic", "objects": actions})
            if path.startswith("/store/"):
                hub.stored[hashlib.sha256(data).hexdigest()] = data
                return self.send(200, {})
            if path.endswith("/commit/main"):
                self.commit(data)
                return self.send(200, {"commitUrl": f"{hub.address}/spaces/me/app/commit/1", "commitOid": "1" * 40})
            if path.endswith("/variables"):
                return self.send(200, {body["key"]: {"value": body["value"]}})
            if path.endswith(("/secrets", "/volumes")):
                return self.send(200, {})
            if path.endswith("/hardware"):
                return self.send(200, {"stage": "BUILDING", "hardware": {"current": None, "requested": body["flavor"]}})
            if path.endswith("/runtime"):
                stage = hub.stages.pop(0) if len(hub.stages) > 1 else hub.stages[0]
                return self.send(200, {"stage": stage, "hardware": {}})
            if "/logs/" in path:
                return self.events()
            return self.send(200, space) if path.startswith("/api/spaces/") else self.send(404, {"error": "not here"})

        def commit(self, data: bytes) -> None:
            for line in data.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.stored[value["oid"]]

        def events(self) -> None:
            data = "".join(f"data: {json.dumps({'data': line, 'timestamp': DAY})}\n\n" for line in hub.log).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            for key, one in (headers or {}).items():
                self.send_header(key, one)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
