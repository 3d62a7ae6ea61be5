"""History, own concepts and settings over a scripted desk; pictures and weights are real files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from scripted_desk import FEW, OWN, PIP, PLENTY, REX, Desk, browser, controls, event, made, session, settle

from personalq.catalog.scan import Catalog
from personalq.errors import GenerationError, HubError, SettingsError
from personalq.records import Checkpoint, Job, Span
from personalq.ui import present
from personalq.ui.controls import LAST_SEED, ROWS
from personalq.ui.events import shelves as module
from personalq.ui.events.comparison import KEEP
from personalq.ui.events.conversation import Conversation
from personalq.ui.events.shelves import MOST_OWN, Restored, Shelves
from personalq.ui.keepsakes import MOST_FAVOURITES, Kept, remembered
from personalq.ui.limits import Allowance, Limits
from personalq.ui.runs import Runs
from personalq.ui.visitors import Visitors

JOB = Job(
    "zwx dog at sea", "blurred", (Span(0, 7, "trigger", "pip"),), ((PIP, 0.75),), 12, 30, 5.0, 384, 512,
    protect=("trigger", "noun"),
)  # fmt: skip
WEBP = "data:image/webp;base64,AAAA"


@pytest.fixture()
def visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visitors:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Visitors()


@pytest.fixture()
def page(visitors: Visitors) -> Shelves:
    return page_of(visitors)


def page_of(visitors: Visitors, desk: Any = None, allowed: Allowance = PLENTY) -> Shelves:
    desk, limits = desk or Desk(), Limits(allowed)
    return Shelves(desk, limits, visitors, Conversation(desk, limits), (Runs(), Runs()))


def entry(job: Job = JOB, precision: str = "nf4", **changed: Any) -> dict[str, Any]:
    return remembered({**made(job, "reference", 0), **changed}, WEBP, precision)


def kept(*entries: dict[str, Any]) -> dict[str, Any]:
    return Kept(tuple(entries)).plain()


def used(page: Shelves, one: dict[str, Any], sess: Any = None) -> Restored:
    return page.on_history([], {} if sess is None else sess, kept(one), event("use"))


# --- history -----------------------------------------------------------------------------------


def test_an_entry_is_used_again_with_everything(page: Shelves) -> None:
    back = used(page, entry())
    assert (back.prompt_box, back.negative) == ("zwx dog at sea", "blurred")
    assert (back.seed["value"], back.locked, back.steps, back.guidance["value"]) == (12, True, 30, 5.0)
    assert (back.size, back.batch, back.precision) == ("Portrait", 1, "nf4")
    assert back.protect == "The trigger and its class noun"
    assert (back.weight_a["value"], back.weight_a["visible"], back.weight_b["visible"]) == (0.75, True, False)
    assert back.prompt[0] == ("zwx dog", "trigger") and back.studio["visible"]
    assert not back.intro["visible"] and not back.shelf["visible"] and back.tabs.selected == "draw"
    assert back.kept is KEEP and "your history" in back.chat[-1]["content"] and "options" not in back.chat[-1]


def test_what_is_used_again_makes_the_same_job(page: Shelves) -> None:
    back = used(page, entry())
    given = {
        "prompt_box": back.prompt_box, "negative": back.negative, "steps": back.steps, "size": back.size,
        "guidance": back.guidance["value"], "seed": back.seed["value"], "weight_a": back.weight_a["value"],
        "protect": back.protect,
    }  # fmt: skip
    again = controls(**given)
    job = present.job(back.sess["chosen"], page.desk.known, again, again.chosen_seed())
    pixels = again.pixels(page.desk.size())
    assert pixels and replace(job, width=pixels[0], height=pixels[1]) == JOB


def test_using_again_settles_what_was_pending_and_keeps_what_is_the_visitors(page: Shelves) -> None:
    sess = {**present.with_own(session(REX), [OWN]), "pending": {"x": 1}, "options": {"o1": "x"}, "cards": [1]}
    back = used(page, entry(), sess).sess
    assert back["chosen"]["ids"] == ["pip"] and present.own(back) == (OWN,) and back["visitor"] == sess["visitor"]
    assert (back["pending"], back["options"], back["cards"]) == (None, {}, [])


def test_a_missing_concept_is_named_and_can_be_added(page: Shelves) -> None:
    stranger = Checkpoint("lost", "Lost <one>", triggers=("lst",), weight_sha256="c" * 64)
    back = used(page, entry(Job("a lst", spans=(Span(2, 5, "trigger", "lost"),), checkpoints=((stranger, 1.0),))))
    said = back.chat[-1]
    assert "Lost &lt;one&gt;" in said["content"] and [one["value"] for one in said["options"]] == [present.ADD]
    assert back.sess["options"] == {present.ADD: "Add a concept"} and back.sess["chosen"]["ids"] == []
    assert back.prompt_box == "a lst" and back.prompt == [("a lst", None)]
    clicked = settle(page.conversation.on_option(back.chat, back.sess, "Square", event(present.ADD), browser()))
    assert clicked.tabs.selected == "concepts"


def test_an_own_concept_is_missing_only_while_it_is_not_there(page: Shelves) -> None:
    own = replace(OWN, weight_sha256="d" * 64)
    one = entry(Job("a qvz cat", checkpoints=((own, 1.0),)))
    assert "Not here" in used(page, one).chat[-1]["content"]
    again = replace(own, id="own-2")
    back = used(page, one, present.with_own({}, [again]))
    assert back.sess["chosen"]["ids"] == ["own-2"] and "Not here" not in back.chat[-1]["content"]


@pytest.mark.parametrize(
    ("seed", "shown", "most"),
    [(0, 0, LAST_SEED), (LAST_SEED + 1, LAST_SEED + 1, LAST_SEED + 1), (2**32 - 1, 2**32 - 1, 2**32 - 1)],
)
def test_seeds_of_other_programs_fit_into_the_widget(page: Shelves, seed: int, shown: int, most: int) -> None:
    back = used(page, entry(replace(JOB, seed=seed)))
    assert (back.seed["value"], back.seed["maximum"]) == (shown, most)


@pytest.mark.parametrize("seed", [-1, 2**53, 2**64 - 1])
def test_a_seed_that_no_browser_holds_is_said_and_not_set(page: Shelves, seed: int) -> None:
    back = used(page, entry(replace(JOB, seed=seed)))
    assert back.seed is KEEP and "cannot be set here" in back.chat[-1]["content"]


def test_values_outside_the_sliders_widen_them(page: Shelves) -> None:
    back = used(page, entry(replace(JOB, guidance=0.0, checkpoints=((PIP, -3.0),))))
    assert (back.guidance["value"], back.guidance["minimum"], back.guidance["maximum"]) == (0, 0, 12)
    assert (back.weight_a["value"], back.weight_a["minimum"], back.weight_a["maximum"]) == (-3, -3, 2)
    far = used(page, entry(replace(JOB, guidance=99.0, steps=150, checkpoints=((PIP, 9.0),))))
    assert (far.guidance["value"], far.weight_a["value"], far.steps) == (30, 4, 50)
    assert "At most 50 steps" in far.chat[-1]["content"]


def test_what_this_page_does_not_know_leaves_the_widget(page: Shelves) -> None:
    back = used(page, entry(replace(JOB, protect=("random",)), "int1"))
    assert back.precision is KEEP and back.protect == next(iter(ROWS))


def test_an_entry_is_loved_and_dropped(page: Shelves) -> None:
    before = kept(entry(replace(JOB, seed=1)), entry(replace(JOB, seed=2)))
    loved = page.on_history([], {}, before, event("love", 1))
    assert [one["favourite"] for one in loved.kept["history"]] == [False, True]
    assert "Favourites" in loved.history and loved.sess is KEEP and loved.chat is KEEP
    dropped = page.on_history([], {}, loved.kept, event("drop", 0))
    assert [one["data"]["seed"] for one in dropped.kept["history"]] == [2]


def test_a_favourite_too_many_is_told(page: Shelves) -> None:
    full = Kept()
    for seed in range(MOST_FAVOURITES + 1):
        full = full.with_entry(entry(replace(JOB, seed=seed))).loved(0)
    with pytest.raises(gr.Error, match="30 favourites"):
        page.on_history([], {}, full.plain(), event("love", 0))


@pytest.mark.parametrize("value", [None, "", "unlove", 1, {}])
def test_a_click_that_is_not_known_drops_nothing(page: Shelves, value: Any) -> None:
    with pytest.raises(gr.Error, match="expired"):
        page.on_history([], {}, kept(entry()), event(value))


@pytest.mark.parametrize("action", ["use", "love", "drop"])
@pytest.mark.parametrize("index", [-1, 1, 10**9])
def test_an_entry_that_is_gone_says_so(page: Shelves, action: str, index: int) -> None:
    with pytest.raises(gr.Error, match="expired"):
        page.on_history([], {}, kept(entry()), event(action, index))
    with pytest.raises(gr.Error, match="expired"):
        page.on_history([], {}, {"history": "rubbish"}, event(action, 0))


HOSTILE: dict[str, Any] = {
    "prompt": "<img src=x onerror=alert(1)> " + "x" * 1900,
    "negative": "![x](http://example.com)",
    "seed": "9999999999",
    "steps": 9_999,
    "guidance": 1e300,
    "width": 60_000,
    "height": 7,
    "spans": [{"start": 5, "end": 2}, {"start": -1, "end": 10**9, "role": "trigger", "id": "pip"}, None],
    "concepts": [{"id": "pip", "name": "<b>" * 9999, "weight": "inf"}, {"id": ["x"]}, 7, None] * 5,
    "protect": {"chosen": ["trigger", {}, "__import__"]},
    "precision": "<script>",
    "base": {"name": "<script>alert(1)</script>"},
    "versions": [],
}


@pytest.mark.parametrize("name", [*HOSTILE, "all"])
def test_hostile_entries_are_taken_up_harmless(page: Shelves, name: str) -> None:
    changed = HOSTILE if name == "all" else {name: HOSTILE[name]}
    back = used(page, {**entry(), "data": {**entry()["data"], **changed}})
    assert all("<" not in message["content"] and "![" not in message["content"] for message in back.chat)
    assert len(json.dumps(back.sess)) < 50_000 and len(back.prompt_box) <= 2000
    assert "".join(text for text, _ in back.prompt) == back.prompt_box
    assert 1 <= back.steps <= 50 and 0 <= back.guidance["value"] <= 30
    assert all(-4 <= update.get("value", 0) <= 4 for update in (back.weight_a, back.weight_b))
    assert set(back.sess["chosen"]["ids"]) <= {"pip", "rex"}


# --- a picture that was dropped ----------------------------------------------------------------


def saved(page: Shelves, folder: Path, precision: str = "taq-w4a8", job: Job = JOB) -> str:
    path = folder / "picture.png"
    page.desk.save(Image.new("RGB", (8, 8)), path, job, precision, 0, None)  # type: ignore[arg-type]
    return str(path)


def test_a_picture_made_here_is_taken_up(page: Shelves, tmp_path: Path) -> None:
    back = page.on_drop([], {}, saved(page, tmp_path), browser())
    assert back.prompt_box == JOB.prompt and back.seed["value"] == 12 and back.precision == "taq-w4a8"
    assert "the picture" in back.chat[-1]["content"]
    reference = page.on_drop([], {}, saved(page, tmp_path, "reference"), browser())
    assert reference.precision is KEEP


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_such_picture_is_told(page: Shelves, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(gr.Error) as told:
        page.on_drop([], session(), str(tmp_path / "x.png"), browser())
    assert "<" not in told.value.message


def test_a_plain_picture_does_not_say_how_it_was_made(page: Shelves, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(gr.Error, match="no longer says how it was made"):
        page.on_drop([], {}, str(tmp_path / "x.png"), browser())
    assert page.on_drop([], {}, None, browser()) == Restored()


def test_too_many_pictures_are_told(visitors: Visitors, tmp_path: Path) -> None:
    page = page_of(visitors, allowed=FEW)
    path = saved(page, tmp_path)
    page.on_drop([], {}, path, browser())
    with pytest.raises(gr.Error, match="1 files an hour"):
        page.on_drop([], {}, path, browser())


def test_without_a_base_what_is_missing_is_said(visitors: Visitors) -> None:
    with pytest.raises(gr.Error, match="choose one with"):
        used(page_of(visitors, Desk(fails=SettingsError("No base: choose one with it"))), entry())


# --- own concepts ------------------------------------------------------------------------------


def weights(folder: Path, name: str = "fox.safetensors") -> str:
    path = folder / name
    tensors = {
        f"lora_unet_down_blocks_0_attn2_to_k.lora_{side}.weight": np.zeros(shape, np.float16)
        for side, shape in (("down", (2, 8)), ("up", (320, 2)))
    }
    save_file(tensors, path)
    return str(path)


def adding(page: Shelves, sess: Any = None, path: str | None = None, **form: Any) -> Iterator[tuple[Any, ...]]:
    given = {"repo": "", "trigger": "qvz", "noun": "fox", "base": "tiny-sd", "license": "mine", "consent": True, **form}
    return page.on_add(browser(), session() if sess is None else sess, path, *given.values())


def refused(page: Shelves, sess: Any = None, path: str | None = None, **form: Any) -> gr.Error:
    """What adding raises; the same is said on the page, and nothing else changes."""
    shown = []
    with pytest.raises(gr.Error) as told:
        for one in adding(page, sess, path, **form):
            shown.append(one)
    assert shown == [("Reading…", KEEP, KEEP, KEEP), (told.value.message, KEEP, KEEP, KEEP)]
    return told.value


def files(visitors: Visitors) -> list[Path]:
    return [path for path in visitors.folder("127.0.0.1 one").rglob("*") if path.is_file()]


def test_a_file_becomes_a_concept_of_this_visitor_alone(page: Shelves, visitors: Visitors, tmp_path: Path) -> None:
    said, listed, shelf, sess = list(adding(page, path=weights(tmp_path)))[-1]
    (one,) = present.own(sess)
    assert (one.name, one.triggers, one.class_noun, one.base, one.license) == (
        "fox",
        ("qvz",),
        "fox",
        "tiny-sd",
        "mine",
    )
    assert "Added: fox" in said and "qvz" in listed and "fox" in shelf["value"]
    assert [str(path) for path in files(visitors)] == list(one.files)
    assert one.id not in page.desk.known and "fox" not in page.conversation.shelf({})
    assert sess["chosen"] == session()["chosen"]
    assert page.on_added() == [None, "", "", "", "", "", False]


def test_who_has_no_session_any_more_is_still_known_by_their_files(page: Shelves, tmp_path: Path) -> None:
    sess = list(adding(page, {}, weights(tmp_path)))[-1][3]
    assert sess["visitor"] == "127.0.0.1 one"


def test_a_repository_of_the_hub_becomes_concepts(page: Shelves, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def from_hub(repo: str, folder: Path) -> Catalog:
        asked.append((repo, folder))
        return Catalog((OWN, replace(OWN, id="own-2", name="Other <b>")), (), ())

    monkeypatch.setattr(module, "from_hub", from_hub)
    said, listed, _, sess = list(adding(page, repo=" someone/foxes "))[-1]
    assert asked[0][0] == "someone/foxes" and asked[0][1] == page.visitors.folder("127.0.0.1 one")
    assert [one.id for one in present.own(sess)] == ["own-1", "own-2"]
    assert "Other &lt;b&gt;" in said and "Other &lt;b&gt;" in listed


def test_a_refusal_of_the_hub_is_told(page: Shelves, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_hub(repo: str, folder: Path) -> Catalog:
        raise HubError(f"{repo} is not there: choose another.")

    monkeypatch.setattr(module, "from_hub", from_hub)
    assert "&lt;x&gt;/y is not there" in refused(page, repo="<x>/y").message


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"consent": False}, "Tick the box"),
        ({"trigger": "x" * 101}, "shorten it"),
        ({"trigger": "", "base": ""}, "does not say"),
    ],
)
def test_what_is_missing_or_wrong_is_told_and_nothing_stays(
    page: Shelves, visitors: Visitors, tmp_path: Path, form: dict[str, Any], said: str
) -> None:
    assert said in refused(page, None, weights(tmp_path), **form).message
    assert files(visitors) == []


def test_no_file_and_no_repository_is_told(page: Shelves) -> None:
    assert "safetensors file" in refused(page, repo="  ").message.replace("&#46;", ".")


@pytest.mark.parametrize("name", ["fox.ckpt", "fox.png", "fox.safetensors"])
def test_other_files_are_refused_and_nothing_stays(
    page: Shelves, visitors: Visitors, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04 not weights")
    refused(page, None, str(tmp_path / name))
    assert files(visitors) == []


def test_too_many_uploads_are_told(visitors: Visitors, tmp_path: Path) -> None:
    page = page_of(visitors, allowed=FEW)
    list(adding(page, path=weights(tmp_path)))
    assert "1 files an hour" in refused(page, None, weights(tmp_path)).message
    assert len(files(visitors)) == 1


def test_no_more_than_twenty_are_kept_and_nothing_stays_of_another(
    page: Shelves, visitors: Visitors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [replace(OWN, id=f"own-{i}") for i in range(MOST_OWN)]
    assert "Up to 20" in refused(page, present.with_own({}, many), weights(tmp_path)).message
    assert files(visitors) == []
    assert list(adding(page, present.with_own({}, many[1:]), weights(tmp_path)))[-1][0].startswith("Added")
    monkeypatch.setattr(module, "from_hub", lambda repo, folder: Catalog(tuple(many[:2]), (), ()))
    assert "Up to 20" in refused(page, present.with_own({}, many[1:]), repo="a/b").message


def test_an_own_concept_is_used_on_the_first_screen(page: Shelves) -> None:
    sess = present.with_own(session(), [OWN])
    used = settle(page.on_use([], sess, event("use", 0)))
    assert used.tabs.selected == "draw" and used.sess["chosen"]["ids"] == ["own-1"]
    assert used.prompt_box == "a picture of cat" and page.desk.heard[-1][2] == "own-1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("value", "index"), [("drop", 0), ("use", 1), ("use", -1), (None, 0)])
def test_using_nothing_changes_nothing(page: Shelves, value: Any, index: int) -> None:
    for sess in ({}, present.with_own({}, [OWN])):
        used = settle(page.on_use([], sess, event(value, index)))
        assert all(one is KEEP for one in used)


@pytest.mark.parametrize(("value", "index"), [("use", 0), ("drop", 1), ("drop", -1), (None, 0)])
def test_removing_nothing_changes_nothing(page: Shelves, value: Any, index: int) -> None:
    for sess in ({}, present.with_own({}, [OWN])):
        assert page.on_own(sess, event(value, index)) == (KEEP,) * 5


def test_a_removed_concept_is_gone_everywhere(page: Shelves, visitors: Visitors, tmp_path: Path) -> None:
    sess = list(adding(page, present.with_own({}, [OWN]), weights(tmp_path)))[-1][3]
    mine = present.own(sess)[1]
    preview = Path(mine.files[0]).with_suffix(".png")
    preview.write_bytes(b"x")
    sess = present.with_own(
        {**sess, **session(replace(mine, triggers=("qvz",)))}, [OWN, replace(mine, preview=str(preview))]
    )
    listed, shelf, left, studio, cands = page.on_own(sess, event("drop", 1))
    assert present.own(left) == (OWN,) and files(visitors) == []
    assert left["chosen"] is None and not studio["visible"] and not cands["visible"]
    assert page.desk.forgotten == [mine.id] and "fox" not in listed and "fox" not in shelf["value"]  # type: ignore[attr-defined]


def test_removing_one_keeps_the_choice_of_another(page: Shelves) -> None:
    other = replace(OWN, id="own-2", files=("hub:a/b@c/x.safetensors",))
    sess = present.with_own(session(), [OWN, other])
    _, _, left, studio, cands = page.on_own(sess, event("drop", 1))
    assert left["chosen"] == session()["chosen"] and present.own(left) == (OWN,) and studio is cands is KEEP


# --- settings, clearing, leaving ---------------------------------------------------------------

SETTINGS = {"protect": "Every word", "blind": True, "previews": False, "theme": "Dark", "precision": "nf4"}


def test_settings_are_kept_and_come_back(page: Shelves) -> None:
    stored = page.on_setting({"tally": {"nf4": {"same": 2}}}, *SETTINGS.values())
    sess, _, tally, *settings = page.on_load(json.loads(json.dumps(stored)), browser())
    assert settings == list(SETTINGS.values()) and sess == {"visitor": "127.0.0.1 one"}
    assert "NF4 4-bit" in tally


def test_a_first_visit_has_the_settings_of_the_page(page: Shelves) -> None:
    for nothing in ({}, None, "rubbish", {"settings": {"protect": "x", "theme": 1, "precision": "x", "blind": "no"}}):
        sess, history, tally, *settings = page.on_load(nothing, browser())
        assert settings == [KEEP, False, True, "System", KEEP] and set(sess) == {"visitor"}
        assert "listed here" in history and "No blind votes" in tally


def test_history_and_votes_are_shown_as_they_are(page: Shelves) -> None:
    now = {**kept(entry()), "tally": {"nf4": {"reference": 3}}}
    history, tally = page.on_kept(now)
    assert "zwx dog at sea" in history and "NF4 4-bit" in tally
    assert page.on_kept(None) == (page.on_kept({})[0], page.on_kept({})[1])


def test_clearing_leaves_nothing(page: Shelves, visitors: Visitors, tmp_path: Path) -> None:
    sess = list(adding(page, path=weights(tmp_path)))[-1][3]
    run = visitors.run("127.0.0.1 one")
    gone = page.on_clear(sess, browser())
    assert Kept.of(gone.kept) == Kept() and gone.sess == {"visitor": "127.0.0.1 one"} and gone.own_list == ""
    assert "listed here" in gone.history and "No blind votes" in gone.tally and "Gone" in gone.cleared
    assert "fox" not in gone.shelf["value"] and gone.shelf["visible"]
    assert not run.exists() and files(visitors) == []
    assert page.desk.forgotten == [one.id for one in present.own(sess)]  # type: ignore[attr-defined]


def test_clearing_empties_the_page_as_well(page: Shelves) -> None:
    page_ = page.on_clear({}, browser())
    assert (page_.box, page_.chat, page_.negative, page_.own_repo) == ("", None, "", "")
    assert page_.intro["visible"] and not page_.studio["visible"]
    kept_ = page.on_setting({}, *(getattr(page_, name) for name in SETTINGS))
    assert page.on_load(kept_, browser())[4:7] == page.on_load({}, browser())[4:7]


def test_clearing_waits_for_a_stopped_run_to_end(page: Shelves, visitors: Visitors) -> None:
    with page.runs[1].begun("127.0.0.1 one"):
        folder = visitors.run("127.0.0.1 one")
        clearing = threading.Thread(target=page.on_clear, args=({}, browser()), daemon=True)
        clearing.start()
        clearing.join(0.1)
        assert clearing.is_alive() and folder.exists()
    clearing.join(30)
    assert not clearing.is_alive() and not folder.exists()


def test_clearing_works_without_a_session_and_spares_others(page: Shelves, visitors: Visitors) -> None:
    mine, other = visitors.run("127.0.0.1 one"), visitors.run("127.0.0.1 two")
    page.on_clear({}, browser())
    assert not mine.exists() and other.exists()


def test_clearing_never_removes_whom_the_session_names(page: Shelves, visitors: Visitors) -> None:
    other = visitors.run("127.0.0.1 two")
    page.on_clear({"visitor": "127.0.0.1 two"}, browser())
    assert other.exists()


def test_leaving_removes_files_and_checkpoints(page: Shelves, visitors: Visitors) -> None:
    mine, other = visitors.run("127.0.0.1 one"), visitors.run("127.0.0.1 two")
    page.leave(present.with_own(session(), [OWN]))
    assert not mine.exists() and other.exists() and page.desk.forgotten == ["own-1"]  # type: ignore[attr-defined]


def test_leaving_before_anything_was_done_is_nothing(page: Shelves) -> None:
    page.leave({})
    assert page.desk.forgotten == []  # type: ignore[attr-defined]


def test_a_failed_recall_keeps_the_session(visitors: Visitors) -> None:
    sess = session(REX)
    before = json.dumps(sess)
    with pytest.raises(gr.Error):
        used(page_of(visitors, Desk(fails=GenerationError("x"))), entry(), sess)
    assert json.dumps(sess) == before
