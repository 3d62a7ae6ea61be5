"""A real app in a process of its own, and a real browser that may reach nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from personalq.bench.serving.page import FLAGS

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = int(os.environ.get("BROWSER_PATIENCE_MS", "180000"))
"""Only how long a broken page may keep a slow machine waiting."""

COVERS = """
() => [...document.querySelectorAll('[data-testid=status-tracker]')]
  .filter((one) => one.querySelector('.error')?.checkVisibility()).map((one) => one.parentElement.id)
"""
"""The widgets over which Gradio shows that an event failed."""


class Apps:
    """Running apps by their addresses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __call__(self, *flags: str, port: int = 0) -> str:
        """Starts `app.py` with flags, waits until it answers, and gives its address."""
        port = port or free_port()
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE / 1000
        environment = {**os.environ, "PERSONALQ_CACHE": str(self.folder), "HF_HUB_OFFLINE": "1"}
        log = self.folder / f"{port}.log"
        with log.open("wb") as output:
            command = [sys.executable, "app.py", "--port", str(port), *flags]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        self.running[url] = process
        while time.monotonic() < until and process.poll() is None:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                return url
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"app.py did not answer:\n{log.read_text()}")

    def stop(self, url: str) -> None:
        process = self.running.pop(url)
        process.terminate()
        process.wait(30)

    def restart(self, url: str) -> None:
        """Stops the app at an address and starts it there again."""
        self.stop(url)
        self(port=int(url.rpartition(":")[2]))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apps]:
    """Starts `app.py` with flags and gives its address."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    apps = Apps(tmp_path_factory.mktemp("app"))
    yield apps
    for url in [*apps.running]:
        apps.stop(url)


@pytest.fixture(scope="session")
def app_url(serve: Apps) -> str:
    """An app on the embedded repository, which all modules share."""
    return serve()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for one module: as long as Playwright is there, nothing else can run an event loop in this thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture()
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end nothing but the app was asked for, no script failed, and no error lies over a widget."""
    strays: list[str] = []
    contexts: list[Any] = []

    def open_(url: str, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda asked: asked.url.startswith((url, "data:", "blob:")) or strays.append(asked.url))
        page.on("pageerror", lambda error: strays.append(f"script: {error}"))
        page.on("dialog", lambda dialog: (strays.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(url, wait_until="domcontentloaded")
        page.locator("#status .pq-status:not(.loading)").wait_for()
        return page

    yield open_
    for context in contexts:
        strays += [f"cover: {text}" for page in context.pages for text in page.evaluate(COVERS)]
        context.close()
    assert strays == []
