"""A small project to deploy, and a Hub to deploy it to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_write_stand_in import SpaceHub, serving
from huggingface_hub import constants

SPACEFILE = """
v: 0
icon: assets/icon.png
micros:
  - {name: app, src: ., engine: custom, primary: true, run: python app.py,
     presets: {env: [{name: HF_TOKEN, description: private concepts, default: ""}]}}
huggingface:
  repo: me/app
  hardware: cpu-basic
  front_matter:
    title: An app
    emoji: 🎨
    colorFrom: red
    colorTo: blue
    sdk: gradio
    sdk_version: "6.31.0"
    python_version: "3.12"
    app_file: app.py
    short_description: An app
  variables: {GREETING: hello}
  secrets: [HF_TOKEN, OTHER_KEY]
  volumes: []
"""
REQUIREMENTS = """# The app.
torch==2.13.0
huggingface_hub==2.4.0
gradio[mcp]==6.31.0
pillow==12.3.0  # pictures

# The tests and checks.
pytest==9.2.0
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose README lacks its front matter."""
    root = tmp_path / "project"
    files = {
        "Spacefile": SPACEFILE,
        "README.md": "# An app\n\nText – with a rule:\n\n---\n\nmore\r\n",
        "requirements.txt": REQUIREMENTS,
        "app.py": "print('app')\n",
        "assets/icon.png": "png",
        "personalq/a.py": "A = 1\n",
        "sample_repo/concepts/dog/dog.safetensors": "weights",
        "sample_repo/concepts/dog/training/01.png": "png",
        "sample_repo/recipe/train.py": "pass\n",
        "tests/test_a.py": "pass\n",
        "personalq/__pycache__/a.pyc": "x",
        ".env": "HF_TOKEN=oops\n",
        ".venv/lib/site.py": "pass\n",
        "personalq/.hidden/note": "x",
        "outputs/mine.png": "png",
        "private.safetensors": "mine",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    return root


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SpaceHub]:
    with serving(SpaceHub()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        monkeypatch.delenv("OTHER_KEY", raising=False)
        yield hub
