"""What goes up: the app and its repository; no caches, tests, secrets or private files beside them."""

from pathlib import Path

import pytest

from personalq.deploy.files import LARGE, chosen
from personalq.errors import DeployError

ROOT = Path(__file__).resolve().parents[2]
WANTED = ["README.md", "Spacefile", "app.py", "assets/icon.png", "personalq/a.py"]
WANTED += ["sample_repo/concepts/dog/dog.safetensors"]


def test_only_what_the_app_needs_goes_up(project: Path) -> None:
    upload = chosen(project, "app.py")
    assert [path for path, _ in upload.files] == WANTED
    assert upload.bytes == sum((project / path).stat().st_size for path in WANTED)
    assert upload.large == ()


def test_large_files_are_known(project: Path) -> None:
    with (project / "personalq" / "big.safetensors").open("wb") as file:
        file.truncate(LARGE + 1)
    assert chosen(project, "app.py").large == ("personalq/big.safetensors",)


def test_a_link_out_of_the_project_is_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (project / "assets" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(DeployError, match="assets/link is a link out"):
        chosen(project, "app.py")


def test_the_project_itself_goes_up_whole_and_no_more() -> None:
    paths = {path for path, _ in chosen(ROOT, "app.py").files}
    assert {"app.py", "README.md", "personalq/settings.py", "personalq/checkin/rerank/forest.safetensors"} <= paths
    assert {"sample_repo/bases/tiny-sd/model_index.json", "sample_repo/concepts/biscuit-dog/preview.png"} <= paths
    assert not [path for path in paths if path.startswith(("tests/", ".", "sample_repo/recipe/")) or ".pyc" in path]
    assert chosen(ROOT, "app.py").bytes < 100_000_000
