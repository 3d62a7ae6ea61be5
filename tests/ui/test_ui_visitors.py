"""Folders of visitors: each its own, none outside the root, the oldest run goes, leaving removes all."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from personalq.ui.visitors import RUNS, Visitors


@pytest.fixture()
def visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitors]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield Visitors()


def root(visitors: Visitors) -> Path:
    return visitors.folder("someone").parent


def aged(folder: Path, seconds: int) -> Path:
    """A folder as if last written then."""
    (folder / "picture.png").write_bytes(b"x")
    os.utime(folder, (seconds, seconds))
    return folder


def test_each_visitor_has_a_folder_that_only_we_read(visitors: Visitors) -> None:
    folders = [visitors.folder(name) for name in ("127.0.0.1 a", "127.0.0.1 b", "127.0.0.2 a")]
    assert len(set(folders)) == 3 and visitors.folder("127.0.0.1 a") == folders[0]
    for folder in (*folders, visitors.run("127.0.0.1 a"), folders[0].parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "name",
    ["../..", "/etc", "..", ".", "", "a/b", "a\\b", "a\x00b", "~", "x" * 100_000, "\ud800", "猫", "CON", "runs", "-rf"],
)
def test_no_name_leads_out_of_the_root(visitors: Visitors, name: str) -> None:
    folder = visitors.folder(name)
    assert folder.parent == root(visitors) and folder.resolve() == folder and folder.name.isalnum()
    assert visitors.run(name).parent == folder / "runs"
    visitors.leave(name)
    assert not folder.exists() and root(visitors).exists()


def test_names_that_look_alike_are_others(visitors: Visitors) -> None:
    names = ["one", "One", "one ", " one", "one\n", "one\x00", "../one", "./one"]
    assert len({visitors.folder(name) for name in names}) == len(names)


def test_a_run_has_a_new_folder_that_cannot_be_guessed(visitors: Visitors) -> None:
    runs = {visitors.run("one") for _ in range(RUNS)}
    assert len(runs) == RUNS and all(run.is_dir() and len(run.name) == 16 for run in runs)


def test_the_oldest_run_goes_and_only_that_one(visitors: Visitors) -> None:
    runs = [aged(visitors.run("one"), 1000 + i) for i in range(RUNS)]
    other = aged(visitors.run("two"), 1)
    new = visitors.run("one")
    assert not runs[0].exists() and new.is_dir() and other.is_dir()
    assert all((run / "picture.png").exists() for run in runs[1:])


def test_runs_never_exceed_their_number(visitors: Visitors) -> None:
    for i in range(3 * RUNS):
        aged(visitors.run("one"), 1000 + i)
        assert len(list((visitors.folder("one") / "runs").iterdir())) <= RUNS


def test_own_concepts_outlast_runs(visitors: Visitors) -> None:
    own = visitors.folder("one") / "own"
    own.mkdir()
    (own / "weights.safetensors").write_bytes(b"x")
    os.utime(own, (1, 1))
    for i in range(2 * RUNS):
        aged(visitors.run("one"), 1000 + i)
    assert (own / "weights.safetensors").exists()


def test_leaving_removes_all_of_one_and_nothing_of_others(visitors: Visitors) -> None:
    mine, other = aged(visitors.run("one"), 5), aged(visitors.run("two"), 5)
    visitors.leave("one")
    assert not mine.exists() and not mine.parent.parent.exists() and (other / "picture.png").exists()
    assert visitors.run("one").is_dir()


def test_leaving_without_having_been_there_is_nothing(visitors: Visitors) -> None:
    visitors.leave("nobody")
    visitors.leave("nobody")
    assert not [one for one in root(visitors).iterdir() if one != visitors.folder("someone")]


def test_two_servers_do_not_share_folders(visitors: Visitors) -> None:
    assert Visitors().folder("one") != visitors.folder("one")


def test_many_at_once_each_get_their_own(visitors: Visitors) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda i=i: found.extend(visitors.run(f"v{i % 4}") for _ in range(3)))
        for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 36 == len(set(found))
