"""Repositories that are wrong, empty or tiny as a whole: each has one clear outcome, up to what Check-in says of it."""

import json
import os

import pytest
from catalog_files import weights, write

from personalq.catalog import jsonl
from personalq.catalog.index import load_catalog
from personalq.checkin.dialogue import CheckIn
from personalq.errors import CatalogError
from personalq.records import NoMatch, Request, Selection

FOX = {"id": "a", "kind": "lora", "name": "Frost fox", "triggers": ["frstfx fox"], "description": "An icy fox."}
OWL = {"id": "b", "kind": "lora", "name": "Brass owl", "triggers": ["brsowl owl"], "description": "A mechanical owl."}


@pytest.fixture
def load(tmp_path):
    return lambda source: load_catalog(source, tmp_path / "cache")


def catalogue(path, *records):
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "It is empty"),
        (b"\n\n  \n\xef\xbb\xbf\n", "Line 4|It is empty"),
        (json.dumps(FOX).encode("utf-16"), "not UTF-8"),
        (json.dumps(FOX | {"name": "fuchs\u00e4"}, ensure_ascii=False).encode("latin-1"), "not UTF-8"),
        (b"\0" * 500, "not valid JSON"),
        (b"PK\x03\x04" + bytes(range(256)), "Line 1"),
        (json.dumps([FOX, OWL]).encode(), "no JSON object"),
        (json.dumps({"records": [FOX]}, indent=1).encode(), "not valid JSON"),
        (b'{"id": "a"}\n{"kind": "lora"}', "must be lora"),
    ],
)
def test_a_jsonl_without_one_good_record_is_an_error_that_says_why(tmp_path, load, content, says):
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value) and "UTF-8" in str(caught.value)


def test_what_is_named_like_a_catalogue_and_is_none(tmp_path, load):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(CatalogError, match="it is named like a file of records; rename it"):
        load(tmp_path / "folder.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(CatalogError, match="neither a folder nor"):
        load(tmp_path / "pipe.jsonl")
    with pytest.raises(CatalogError, match="neither a folder nor"):
        load(weights(tmp_path / "fox.safetensors"))
    (tmp_path / "dead.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.raises(CatalogError, match="no repository"):
        load(tmp_path / "dead.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with pytest.raises(CatalogError):
        load(tmp_path / "loop.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_an_error(tmp_path, load):
    path = catalogue(tmp_path / "c.jsonl", FOX)
    path.chmod(0)
    with pytest.raises(CatalogError, match="cannot be read"):
        load(path)


def test_one_good_record_among_thousands_of_broken_ones_is_found(tmp_path, load):
    path = tmp_path / "c.jsonl"
    path.write_text("{\n" * 5000 + json.dumps(FOX) + "\n" + "nonsense\n" * 5000)
    catalog = load(path)
    assert [item.id for item in catalog.checkpoints] == ["a"]
    assert len(catalog.problems) == jsonl.MAX_PROBLEMS + 1 and "9900 more" in catalog.problems[-1].reason


def test_an_endless_line_is_one_problem_and_moves_no_line_number(tmp_path, load):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(FOX) + "\n" + '{"id": "' + "x" * 5_000_000 + '"}\n' + json.dumps(OWL) + "\n{\n")
    catalog = load(path)
    assert [item.id for item in catalog.checkpoints] == ["a", "b"]
    assert [problem.reason[:7] for problem in catalog.problems] == ["Line 2:", "Line 4:"]


def test_a_folder_without_checkpoints_is_empty_and_says_so(tmp_path, load):
    repo = tmp_path / "repo"
    write(repo / "notes.txt", "hello")
    for _ in range(2):
        catalog = load(repo)
        assert catalog.checkpoints == ()
        assert [problem.path for problem in catalog.problems] == [repo]
        assert "No checkpoint was found" in catalog.problems[0].reason
    decision = CheckIn(catalog.checkpoints).ask(Request("a fox in the snow"))
    assert isinstance(decision, NoMatch) and "empty" in decision.why


def test_duplicate_ids_keep_the_first_and_report_the_others(tmp_path, load):
    path = catalogue(tmp_path / "c.jsonl", FOX, OWL | {"id": "a"}, OWL, FOX)
    for _ in range(2):  # The second time from the index.
        catalog = load(path)
        assert [(item.id, item.name) for item in catalog.checkpoints] == [("a", "Frost fox"), ("b", "Brass owl")]
        assert [problem.reason[:7] for problem in catalog.problems] == ["Line 2:", "Line 4:"]
        assert all("is taken" in problem.reason for problem in catalog.problems)


def test_one_entry_is_found_and_not_forced_on_anyone(tmp_path, load):
    checkin = CheckIn(load(catalogue(tmp_path / "c.jsonl", FOX)).checkpoints)
    found = checkin.ask(Request("frost fox in a garden"))
    assert isinstance(found, Selection) and found.prompt.startswith("frstfx fox")
    assert isinstance(checkin.ask(Request("a submarine made of cheese")), NoMatch)


def test_a_catalogue_without_any_trigger_selects_and_inserts_nothing(tmp_path, load):
    path = catalogue(tmp_path / "c.jsonl", *(record | {"triggers": []} for record in (FOX, OWL)))
    found = CheckIn(load(path).checkpoints).ask(Request("brass owl in a garden"))
    assert isinstance(found, Selection) and [item.id for item in found.checkpoints] == ["b"]
    assert found.prompt == "brass owl in a garden" and found.warnings
    assert not [span for span in found.spans if span.role == "trigger"]
