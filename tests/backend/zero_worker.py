"""Run by itself: the real `spaces` package, with a device service on this machine and no torch, borrows and is refused.

It prints one JSON object. Without torch `spaces` leaves out what needs a GPU; scheduling, forking, pickling stay.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SEEN: list[tuple[str, str]] = []
REFUSE: list[bool] = []


class Service(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        SEEN.append((parts.path, parse_qs(parts.query).get("durationSeconds", [""])[0]))
        reply: dict[str, Any] = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "let"}
        status = 200
        if parts.path == "/schedule" and REFUSE:
            status, reply = 429, {"left": 12, "wait": 3600}
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    group = Path(tempfile.mkdtemp()) / "cgroup"
    group.write_text("0::/space")
    os.environ["SPACES_ZERO_GPU"] = "true"
    os.environ["SPACES_ZERO_DEVICE_API_URL"] = f"http://127.0.0.1:{server.server_address[1]}"
    os.environ["ZEROGPU_PROC_SELF_CGROUP_PATH"] = str(group)
    sys.modules["torch"] = None  # type: ignore[assignment]
    from personalq.backend.zero import leased
    from personalq.errors import GenerationError, PersonalQError
    from personalq.records import Frame

    changed: list[int] = []

    class Desk:
        def __init__(self) -> None:
            self.unpicklable = threading.Lock()
            self.borrow = leased(self.frames, lambda kind: 7)

        def frames(self, kind: str) -> Iterator[Any]:
            with self.unpicklable:
                changed.append(1)
                yield Frame("reference", 1, 2, warning=str(os.getpid()))
                if kind == "ours":
                    raise GenerationError("choose a smaller size")
                if kind == "theirs":
                    raise KeyError("secret detail")
                if kind == "killed":
                    os._exit(1)
                yield Frame("reference", 2, 2)

    desk, told = Desk(), {}
    made = list(desk.borrow("fine"))
    for kind in ("ours", "theirs", "killed", "refused"):
        if kind == "refused":
            REFUSE.append(True)
        try:
            list(desk.borrow(kind))
        except PersonalQError as error:
            told[kind] = f"{type(error).__name__}: {error}"
    print(
        json.dumps(
            {
                "steps": [f.step for f in made],
                "elsewhere": made[0].warning != str(os.getpid()),
                "kept": len(changed),
                "told": told,
                "seen": SEEN,
            }
        )
    )
    sys.stdout.flush()
    for worker in multiprocessing.active_children():  # they would wait for more work, and hold this program's output
        worker.kill()


if __name__ == "__main__":
    main()
