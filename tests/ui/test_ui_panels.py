"""The small HTML panels."""

import re

import pytest
from page_tags import EVIL, Tags

from personalq.records import Checkpoint, MemoryReading
from personalq.ui import panels


def thumbnail(path: str | None) -> str:
    return f"data:{path}" if path else ""


def reading(weights: int, **given: object) -> MemoryReading:
    facts = {"kv_bytes": 2048, "peak_allocated": None, "peak_reserved": None, "process_rss": 3 * 2**30, "seconds": 1.25}
    return MemoryReading(device="cpu", weights_bytes=weights, how_measured="stored bytes", **{**facts, **given})


def test_cards_show_every_fact_and_count_their_place() -> None:
    known = {
        "a": Checkpoint("a", "Pip", triggers=("zwx dog",), base="tiny-sd", license="CC0", preview="p.png"),
        "b": Checkpoint("b"),
    }
    entries = [{"id": "gone", "reason": ""}, {"id": "a", "reason": "by name"}, {"id": "b", "reason": ""}]
    page = Tags(panels.gallery("Found", entries, known, thumbnail, picked=["a"]))
    cards = page.all("button")
    assert [card["data-index"] for card in cards] == ["1", "2"]
    assert [card["aria-pressed"] for card in cards] == ["true", "false"]
    assert [one["src"] for one in page.all("img")] == ["data:p.png"]
    for fact in ("Pip", "zwx dog", "tiny-sd", "CC0", "by name", "chosen", "no trigger word", "licence unknown"):
        assert fact in page.text


@pytest.mark.parametrize(("name", "told"), [("Frost fox", 1), ("Frost fox V2", 0)])
def test_versions_of_one_name_are_told_apart(name: str, told: int) -> None:
    known = {"a": Checkpoint("a", name, version="v2 <b>")} if told else {"a": Checkpoint("a", name, version="v2")}
    page = panels.gallery("Found", [{"id": "a", "reason": ""}], known, lambda _: "")
    assert page.count("v2") == told and "<b>" not in page


def test_weak_matches_say_so_and_an_empty_gallery_is_empty() -> None:
    known = {"a": Checkpoint("a", "Pip")}
    assert "weak match" in panels.gallery("Near", [{"id": "a", "reason": ""}], known, thumbnail, weak=True)
    assert "weak match" not in panels.gallery("Near", [{"id": "a", "reason": ""}], known, thumbnail, ["a"], weak=True)
    assert panels.gallery("Near", [{"id": "gone", "reason": ""}], known, thumbnail) == ""


@pytest.mark.parametrize("field", ["name", "license", "base"])
def test_card_text_is_inert(field: str) -> None:
    known = {"a": Checkpoint("a", **{field: EVIL}, triggers=(EVIL,))}
    page = Tags(panels.gallery(EVIL, [{"id": "a", "reason": EVIL, "score": EVIL}], known, thumbnail, note=EVIL))
    assert not page.all("img")
    assert page.text.count(EVIL) == 6


def test_a_card_tells_its_share_and_the_gallery_its_note() -> None:
    known = {"a": Checkpoint("a", "Pip")}
    page = Tags(
        panels.gallery("Found", [{"id": "a", "reason": "", "score": "83 %"}], known, thumbnail, note="3 hidden")
    )
    assert "83 %" in page.text and page.text.endswith("3 hidden")
    assert "pq-score" not in panels.gallery("Found", [{"id": "a", "reason": "", "score": ""}], known, thumbnail)


def test_status_counts_what_was_skipped() -> None:
    page = Tags(panels.status("ready", ["tiny-sd", "cpu"], [EVIL, "b.json: broken"]))
    assert "2 files were skipped" in page.text and EVIL in page.text
    assert "1 file was skipped" in panels.status("ready", [EVIL], ["x"])
    assert "skipped" not in panels.status("loading", ["tiny-sd"])
    assert not Tags(panels.status("ready", [EVIL])).all("img")


def test_progress_has_a_bar_only_with_steps() -> None:
    assert "step 5 of 20" in panels.progress("Full precision", 5, 20)
    assert "width:25%" in panels.progress("Full precision", 5, 20)
    assert "pq-bar" not in panels.progress("Stopped")


def test_memory_on_a_cpu_says_that_vram_was_not_measured() -> None:
    page = Tags(panels.memory([reading(30 * 2**20), reading(10 * 2**20)], ["reference", "taq"]))
    for words in ("30.0 MiB", "10.0 MiB", "2.0 KiB", "no GPU: not measured", "3.0 GiB", "1.2 s", "cpu: stored bytes"):
        assert words in page.text
    assert "Peak allocated" not in page.text


def test_the_saving_is_the_quotient_of_the_two_readings() -> None:
    assert "<strong>3.0×</strong> smaller" in panels.memory([reading(30), reading(10)], ["a", "b"])
    assert "<strong>2.0×</strong> larger" in panels.memory([reading(10), reading(20)], ["a", "b"])
    assert "×" not in panels.memory([reading(30)], ["a"])


def test_memory_on_a_gpu_shows_both_peaks() -> None:
    gpu = reading(2**30, peak_allocated=5 * 2**30, peak_reserved=6 * 2**30, process_rss=None)
    page = Tags(panels.memory([gpu, gpu], ["a", "b"]))
    assert "Peak allocated" in page.text and "5.0 GiB" in page.text and "6.0 GiB" in page.text
    assert "no GPU" not in page.text and "Process memory" not in page.text
    assert "not measured" in panels.memory([gpu, reading(1)], ["a", "b"])


def test_the_longest_bar_is_the_largest_value() -> None:
    page = panels.memory([reading(40), reading(10)], ["a", "b"])
    assert re.findall(r"width:(\d+)%", page)[:2] == ["100", "25"]
    nothing = panels.memory([reading(0, kv_bytes=0, seconds=0.0)], ["a"])
    assert "nan" not in nothing and Tags(nothing).text


def test_memory_tells_the_labels_and_how_it_was_measured_inert() -> None:
    page = Tags(panels.memory([reading(1), reading(1, peak_allocated=1)], [EVIL, EVIL]))
    assert page.text.count(EVIL) == 2 and not page.all("img")


def test_memory_is_empty_until_something_was_measured() -> None:
    assert panels.memory([], []) == ""


def test_one_finished_side_is_one_column() -> None:
    page = panels.memory([reading(1)], ["reference", "taq"])
    assert len(re.findall("<td>", page)) == len(re.findall('scope="row"', page)) and "taq" not in page
