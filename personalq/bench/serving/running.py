"""Starts the app in a process of its own and reads what that process holds. It knows nothing of the page."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from personalq.errors import BenchError
from personalq.settings import ROOT

PATIENCE = 300.0


@dataclass(frozen=True)
class App:
    """A running app."""

    url: str
    pid: int
    seconds_to_page: float
    """From the start of the process until the page was served."""
    started: float
    """When that was, by `time.perf_counter`."""

    def resident(self) -> int | None:
        """Bytes of the process that are resident now; None where the system does not say."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)


@contextmanager
def app(flags: Sequence[str], cache: Path) -> Iterator[App]:
    """The app on a free port with `flags`, its indexes below `cache`. Raises BenchError when it does not come up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PERSONALQ_CACHE": str(cache), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), *flags]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while time.perf_counter() - started < PATIENCE and process.poll() is None:
            try:
                urllib.request.urlopen(url, timeout=5).close()
            except OSError:
                time.sleep(0.05)
                continue
            yield App(url, process.pid, time.perf_counter() - started, started)
            return
        raise BenchError(f"The app did not come up: run {' '.join(command)} to see why.")
    finally:
        process.terminate()
        process.wait(30)
