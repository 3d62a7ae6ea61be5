import json

import pytest
from catalog_files import PNG, weights, write

from personalq.catalog import index, memory, scan
from personalq.catalog import weights as weights_module
from personalq.catalog.index import index_path, load_catalog
from personalq.errors import CatalogError


@pytest.fixture
def repo(tmp_path):
    for name in ("a", "b", "c"):
        weights(tmp_path / "repo" / f"{name}.safetensors", metadata={"modelspec.title": name})
    write(tmp_path / "repo" / "a.json", {"activation text": "zwx"})
    (tmp_path / "repo" / "a.png").write_bytes(PNG)
    return tmp_path / "repo"


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that were really read, and of those whose digest was really computed."""
    names, read, digest = [], index.read_file, weights_module.sha256_of
    monkeypatch.setattr(index, "read_file", lambda path: names.append(path.name) or read(path))

    def counted(path, start=0):
        names.extend([] if start else [f"#{path.name}"])
        return digest(path, start)

    monkeypatch.setattr(weights_module, "sha256_of", counted)
    return names


def test_unchanged_files_are_not_read_again(repo, tmp_path, opened):
    first = load_catalog(repo, tmp_path / "cache")
    assert opened.count("#b.safetensors") == 1 and len(opened) == 8
    opened.clear()
    assert load_catalog(repo, tmp_path / "cache") == first == scan.scan(repo)
    assert not [name for name in opened if not name.startswith("#")]


def test_only_changed_files_are_read_again(repo, tmp_path, opened):
    load_catalog(repo, tmp_path / "cache")
    opened.clear()
    weights(repo / "b.safetensors", metadata={"modelspec.title": "changed"})
    write(repo / "c.json", {"activation text": "new"})
    (repo / "a.json").unlink()
    found = {item.id: item for item in load_catalog(repo, tmp_path / "cache").checkpoints}
    assert opened == ["b.safetensors", "#b.safetensors", "c.json"]
    assert found["b"].name == "changed" and found["c"].triggers == ("new",) and found["a"].triggers == ()


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"format": 1, "files": {"x": 5}}'])
def test_a_corrupt_index_is_rebuilt(repo, tmp_path, opened, damage):
    first = load_catalog(repo, tmp_path / "cache")
    path = index_path(repo, tmp_path / "cache")
    path.write_bytes(damage)
    assert load_catalog(repo, tmp_path / "cache") == first
    opened.clear()
    load_catalog(repo, tmp_path / "cache")
    assert opened == []


def test_an_altered_or_outdated_index_is_rebuilt(repo, tmp_path, opened, monkeypatch):
    load_catalog(repo, tmp_path / "cache")
    path = index_path(repo, tmp_path / "cache")
    path.write_text(path.read_text().replace("zwx", "evil"))
    assert load_catalog(repo, tmp_path / "cache").checkpoints[0].triggers == ("zwx",)
    opened.clear()
    monkeypatch.setattr(memory, "_readers", lambda: "other readers")
    assert "another version" in load_catalog(repo, tmp_path / "cache").tally.trouble
    assert len(opened) == 8


def test_problems_are_remembered_too(repo, tmp_path, opened):
    write(repo / "b.json", "{")
    first = load_catalog(repo, tmp_path / "cache")
    opened.clear()
    assert [problem.path.name for problem in load_catalog(repo, tmp_path / "cache").problems] == ["b.json"]
    assert opened == [] and first.problems


def test_an_index_that_cannot_be_saved_is_a_problem_not_a_failure(repo, tmp_path):
    write(tmp_path / "file", "")
    catalog = load_catalog(repo, tmp_path / "file")
    assert len(catalog.checkpoints) == 3 and "cannot be saved" in catalog.problems[-1].reason


def test_no_half_written_index_stays_behind(repo, tmp_path):
    load_catalog(repo, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [index_path(repo, tmp_path / "cache")]
    digest, _, text = index_path(repo, tmp_path / "cache").read_text().partition("\n")
    assert len(digest) == 64 and len(json.loads(text)["entries"]) == 5


def test_a_missing_repository_is_an_error(tmp_path):
    with pytest.raises(CatalogError, match="no repository"):
        load_catalog(tmp_path / "nothing", tmp_path / "cache")
