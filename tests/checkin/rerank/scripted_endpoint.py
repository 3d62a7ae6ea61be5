"""A real HTTP server in a thread that answers chat completions as a test scripts them, and keeps what it was sent."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from personalq.checkin.rerank.prompt import CLOSING, OPENING

KEY = "sk-not-for-anyone"
Write = Callable[[dict[str, Any]], str]
"""The data of a request in, the text of the model's reply out."""


@dataclass(frozen=True)
class Answer:
    """One scripted HTTP answer."""

    write: Write | str = "{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    raw: bytes | None = None
    """Sent instead of a completion."""
    hang: bool = False
    """Never answers."""
    drip: bytes = b""
    """Sent again and again for ever, after the body or, with `drip_headers`, instead of it."""
    drip_headers: bool = False


@dataclass(frozen=True)
class Call:
    """What the server was sent."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def user(self) -> str:
        return str(self.body["messages"][1]["content"])

    @property
    def data(self) -> dict[str, Any]:
        """The JSON between the markers."""
        return dict(json.loads(self.user[len(OPENING) : -len(CLOSING)]))


def favouring(*names: str, none: float = 1.0, best: float = 9.0) -> Answer:
    """A reply that scores the candidates of these names `best` and all others 0."""

    def write(data: dict[str, Any]) -> str:
        scores = [
            {"index": card["index"], "score": best if card["name"] in names else 0} for card in data["candidates"]
        ]
        return json.dumps({"scores": scores, "none": none})

    return Answer(write)


class Scripted:
    """The server; `script` is used up answer by answer, the last one stays."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}/v1"
        self.script: list[Answer] = []
        self.calls: list[Call] = []
        self.over = threading.Event()

    def answers(self, *script: Answer) -> None:
        self.script = list(script)
        self.calls.clear()

    def next(self, call: Call) -> Answer:
        self.calls.append(call)
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@contextmanager
def scripted(*script: Answer) -> Iterator[Scripted]:
    """Serve on a free port of this machine until the block ends."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    server = Scripted(http.server_port)
    http.scripted = server  # type: ignore[attr-defined]
    server.answers(*script)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        http.shutdown()
        http.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Scripted = self.server.scripted  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = Call(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        answer = server.next(call)
        if answer.hang:
            server.over.wait(20)
            return
        raw = _completion(answer, call) if answer.raw is None else answer.raw
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        if not answer.drip:
            self.send_header("Content-Length", str(len(raw)))
        if answer.drip_headers:
            self.flush_headers()
        else:
            self.end_headers()
        try:
            self.wfile.write(b"" if answer.drip_headers else raw)
            while answer.drip and not server.over.wait(0.05):
                self.wfile.write(answer.drip)
        except OSError:
            pass  # The client gave up, as it should.

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _completion(answer: Answer, call: Call) -> bytes:
    text = answer.write if isinstance(answer.write, str) else answer.write(call.data)
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    ).encode()


def closed_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def scores(values: Sequence[float], none: float = 0.0) -> str:
    """The text of a valid reply."""
    return json.dumps({"scores": [{"index": at, "score": value} for at, value in enumerate(values)], "none": none})
