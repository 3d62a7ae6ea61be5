"""The README's front matter: written from the Spacefile, and nothing else of the README changes."""

from pathlib import Path

import pytest
import yaml

from personalq.deploy.front_matter import block, difference, split
from personalq.deploy.write import checked, written
from personalq.errors import DeployError

FRONT = {"title": "An app", "emoji": "🎨", "python_version": "3.12", "tags": ["a", "b"]}


def test_versions_stay_text() -> None:
    text = block(FRONT).decode()
    assert text.startswith("---\n") and text.endswith("\n---\n")
    assert yaml.safe_load(text.strip("-\n")) == FRONT
    assert "python_version: '3.12'" in text and "🎨" in text


@pytest.mark.parametrize(
    ("readme", "front", "rest"),
    [
        (b"# A\n---\nb\n---\n", b"", b"# A\n---\nb\n---\n"),
        (b"---\na: 1\n---\n# A\n---\n", b"---\na: 1\n---\n", b"# A\n---\n"),
        (b"---\r\na: 1\r\n---\r\n# A\r\n", b"---\r\na: 1\r\n---\r\n", b"# A\r\n"),
        (b"---\n---\nb", b"---\n---\n", b"b"),
        (b"---\na: 1\n---", b"---\na: 1\n---", b""),
        (b"", b"", b""),
        (b"----\nb\n---\n", b"", b"----\nb\n---\n"),
    ],
)
def test_front_matter_is_told_from_rules_and_line_ends_stay(readme: bytes, front: bytes, rest: bytes) -> None:
    assert split(readme) == (front, rest)


def test_a_front_matter_without_end_is_not_guessed() -> None:
    with pytest.raises(DeployError, match="no second one"):
        split(b"---\na: 1\n# A\n")


@pytest.mark.parametrize(
    ("readme", "says"),
    [
        (b"# A\n", "no front matter"),
        (block({**FRONT, "title": "Another", "pinned": True}), "differs in title, pinned"),
        (b"---\ntitle: 'An app'\nemoji: \xf0\x9f\x8e\xa8\npython_version: '3.12'\ntags: [a, b]\n---\n", "laid out"),
        (b"---\n[\n---\n", "not YAML"),
        (b"---\n\xff\n---\n", "not YAML"),
    ],
)
def test_a_difference_is_named(readme: bytes, says: str) -> None:
    assert says in difference(readme, FRONT)
    assert difference(block(FRONT) + b"# A\n", FRONT) == ""


def test_write_keeps_the_rest_byte_for_byte_and_is_done_once(project: Path) -> None:
    before = (project / "README.md").read_bytes()
    with pytest.raises(DeployError, match="deploy write"):
        checked(project)
    assert written(project)
    assert (project / "README.md").read_bytes().endswith(b"---\n" + before)
    assert checked(project).repo == "me/app"
    assert not written(project)


def test_write_replaces_an_old_block_alone(project: Path) -> None:
    rest = (project / "README.md").read_bytes()
    (project / "README.md").write_bytes(b"---\ntitle: Old\n---\n" + rest)
    assert written(project)
    front, after = split((project / "README.md").read_bytes())
    assert b"Old" not in front and after == rest
    assert sorted(path.name for path in project.glob("README*")) == ["README.md"]


def test_a_wrong_spacefile_changes_nothing(project: Path) -> None:
    before = (project / "README.md").read_bytes()
    (project / "Spacefile").write_text("v: 0\n")
    with pytest.raises(DeployError):
        written(project)
    assert (project / "README.md").read_bytes() == before
