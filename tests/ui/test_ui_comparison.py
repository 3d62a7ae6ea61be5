"""Generate, Stop, the batch and the blind test, over a scripted desk."""

from __future__ import annotations

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from scripted_desk import (
    BLUE,
    COLOURS,
    FEW,
    OWN,
    PIP,
    PLENTY,
    REX,
    Clock,
    Desk,
    browser,
    controls,
    event,
    selection,
    session,
    settle,
)

from personalq.errors import GenerationError, ModelError, PersonalQError
from personalq.ui import present
from personalq.ui.controls import LAST_SEED, PRECISIONS
from personalq.ui.events.comparison import KEEP, Comparison, Pictures
from personalq.ui.keepsakes import MOST_HISTORY, Kept
from personalq.ui.limits import Allowance, Limits
from personalq.ui.visitors import RUNS, Visitors

RED = COLOURS["reference"]


@pytest.fixture()
def visitors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visitors:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Visitors()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of_slow_steps(monkeypatch)


@pytest.fixture()
def page(visitors: Visitors) -> Comparison:
    return page_of(Desk(), visitors)


def page_of(desk: Desk, visitors: Visitors, allowed: Allowance = PLENTY) -> Comparison:
    return Comparison(desk, Limits(allowed), visitors)  # type: ignore[arg-type]


class Bar:
    """Gradio's own progress bar."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def __call__(self, at: tuple[int, int], desc: str, unit: str = "") -> None:
        self.told.append((at, desc))


def started(page: Comparison, sess: Any = None, bar: Any = None, **given: Any) -> Iterator[Pictures]:
    sess = session() if sess is None else sess
    return page.on_compare(browser(), sess, bar or Bar(), *controls(sess, **given))


def compared(page: Comparison, sess: Any = None, **given: Any) -> list[Pictures]:
    return list(started(page, sess, **given))


def begun(shown: Sequence[Pictures]) -> Pictures:
    """What is shown once it is known what will be made."""
    return next(one for one in shown if one.seed is not KEEP)


def running(page: Comparison) -> Iterator[Pictures]:
    """A run that makes its first picture."""
    run = started(page)
    assert any("step 1" in one.progress for one in run)
    return run


def colour(path: str) -> Any:
    with Image.open(path) as picture:
        return picture.convert("RGB").getpixel((0, 0))


def words(values: Sequence[Pictures]) -> list[str]:
    """Everything that is told beside the pictures themselves, one step after the other."""
    return [repr(one._replace(made=None, kept=None)) for one in values]


# --- both pictures -----------------------------------------------------------------------------


def test_both_pictures_arrive_with_their_readings(page: Comparison) -> None:
    shown = compared(page)
    job = page.desk.job  # type: ignore[attr-defined]
    assert job.seed == 7 and job.spans[0].role == "trigger" and job.checkpoints == ((PIP, 1.0),)
    last = settle(shown)
    assert (colour(last.picture_a["value"]), colour(last.picture_b["value"])) == (RED, BLUE)
    assert (last.picture_a["label"], last.picture_b["label"]) == ("Full precision", "TAQ 4-bit")
    tables = [one.memory for one in shown if one.memory is not KEEP and one.memory]
    assert "taq-w4a8 here" in tables[1] and "taq-w4a8" not in tables[0] and last.memory == tables[1]
    assert any("Full precision · step 2 of 3" in one.progress for one in shown)
    assert "Both pictures from seed 7" in last.progress and "Cut off." in last.progress
    assert "PSNR 31.4 dB" in last.legend and Path(last.heat["value"]).exists()
    assert last.views["visible"] and not last.votes["visible"] and not last.strip["visible"]


def test_a_run_empties_the_page_first_and_frees_the_buttons_last(page: Comparison) -> None:
    shown = compared(page)
    first, last = begun(shown), settle(shown)
    assert (first.picture_a["value"], first.picture_b["value"], first.heat["value"]) == (None, None, None)
    assert (first.memory, first.legend, first.verdict) == ("", "", "")
    assert first.stop["visible"] and not first.go["interactive"] and first.outputs["visible"]
    assert not last.stop["visible"] and last.go["interactive"]


def test_the_first_picture_is_shown_before_the_second_is_begun(page: Comparison) -> None:
    shown = compared(page)
    at = [i for i, one in enumerate(shown) if isinstance(one.picture_a, str)]
    begun = next(i for i, one in enumerate(shown) if "TAQ 4-bit" in one.progress)
    assert at[0] < begun and shown[at[0]].picture_b is KEEP


@pytest.mark.parametrize("previews", [True, False])
def test_previews_are_shown_when_they_are_wanted(page: Comparison, previews: bool) -> None:
    shown = compared(page, previews=previews)
    pictures = [one for value in shown for one in (value.picture_a, value.picture_b) if isinstance(one, Image.Image)]
    assert len(pictures) == (2 if previews else 0)


def test_fast_steps_are_shown_ten_times_a_second_with_the_newest_preview(page: Comparison, clock: Clock) -> None:
    clock.tick = 0.04
    shown = [one for one in compared(page, steps=12) if "Full precision · step" in str(one.progress)]
    assert [int(re.findall(r"\d+", one.progress)[0]) for one in shown] == [1, 4, 7, 10, 12]
    assert [isinstance(one.picture_a, Image.Image) for one in shown] == [False, True, True, True, False]
    assert colour(shown[-1].picture_a) == RED


def test_files_say_how_they_were_made_and_lie_in_the_visitors_folder(page: Comparison, visitors: Visitors) -> None:
    last = settle(compared(page, precision="nf4"))
    left, right = Path(last.picture_a["value"]), Path(last.picture_b["value"])
    assert (left.name, right.name) == ("personalq-7-reference.png", "personalq-7-nf4.png")
    assert left.parent.parent.parent == visitors.folder("127.0.0.1 one")
    data = page.desk.read(right)
    assert (data["precision"], data["seed"], data["concepts"][0]["id"]) == ("nf4", 7, "pip")


def test_every_precision_of_the_page_is_asked_for_by_its_name(page: Comparison) -> None:
    for precision, name in PRECISIONS.items():
        assert settle(compared(page, precision=precision)).picture_b["label"] == name


def test_the_concept_is_the_one_that_stood_there_when_it_was_asked_for(page: Comparison) -> None:
    """While a picture waits for its turn, the conversation goes on to another concept."""
    asked = session(PIP)
    later = present.with_chosen(asked, present.chosen(selection(REX, "a dog")))
    last = settle(list(page.on_compare(browser(), later, Bar(), *controls(asked))))
    job = page.desk.job  # type: ignore[attr-defined]
    assert job.checkpoints == ((PIP, 1.0),) and job.spans[0].id == "pip"
    assert last.progress.count("zwx dog") == 1


def test_what_is_loaded_is_told_on_gradios_own_bar(page: Comparison) -> None:
    bar = Bar()
    list(started(page, bar=bar))
    assert bar.told == [((1, 2), "Loading")] * 2


def test_an_empty_or_open_seed_is_drawn_and_written_back(page: Comparison) -> None:
    for given in ({"seed": None}, {"locked": False}):
        first = begun(compared(page, **given))
        assert first.seed == page.desk.job.seed and 0 <= first.seed <= LAST_SEED  # type: ignore[attr-defined]
    assert begun(compared(page, seed=9.0)).seed == 9


@pytest.mark.parametrize(
    ("size", "pixels"), [("Square", (None, None)), ("Portrait", (384, 512)), ("640 x 448", (640, 448))]
)
def test_sizes_are_of_the_base(page: Comparison, size: str, pixels: tuple[int | None, int | None]) -> None:
    compared(page, size=size)
    job = page.desk.job  # type: ignore[attr-defined]
    assert (job.width, job.height) == pixels


def test_a_visitors_own_concept_is_drawn(page: Comparison) -> None:
    compared(page, present.with_own(session(OWN), [OWN]))
    assert page.desk.job.checkpoints == ((OWN, 1.0),)  # type: ignore[attr-defined]


# --- what a run leaves behind ------------------------------------------------------------------


def finished(page: Comparison, **given: Any) -> dict[str, Any]:
    made: dict[str, Any] = settle(compared(page, **given)).made
    return made


def test_a_run_never_puts_an_older_session_or_history_back(page: Comparison) -> None:
    for one in compared(page):
        assert one.kept is KEEP and not hasattr(one, "sess") and not hasattr(one, "chat")


def test_a_finished_run_goes_into_the_history_as_it_is_then(page: Comparison) -> None:
    made = finished(page)
    meanwhile = Kept().with_settings(theme="Dark").with_vote("nf4", "same").plain()
    sess, kept = page.on_made(made, session(options={"o1": "x"}), meanwhile, browser())
    back = Kept.of(kept)
    assert back.history[0]["data"]["seed"] == 7 and back.history[0]["precision"] == "taq-w4a8"
    assert back.settings == {"theme": "Dark"} and back.tally == {"nf4": {"same": 1}}
    assert sess == session(options={"o1": "x"})


def test_who_has_no_session_any_more_is_still_known_by_their_files(page: Comparison) -> None:
    sess, _ = page.on_made(finished(page), {}, None, browser())
    assert sess == {"visitor": "127.0.0.1 one"}


def test_nothing_was_made_nothing_is_kept(page: Comparison) -> None:
    assert page.on_made({}, {}, {}, browser()) == (KEEP, KEEP)


def test_what_is_made_is_plain_data_and_small(page: Comparison) -> None:
    text = json.dumps(finished(page, batch=4))
    assert len(text) < 40_000


def test_the_history_stays_within_its_bounds(page: Comparison) -> None:
    made, kept = finished(page), {}
    for _ in range(MOST_HISTORY + 3):
        _, kept = page.on_made(made, {}, kept, browser())
    assert len(kept["history"]) == MOST_HISTORY


# --- a batch -----------------------------------------------------------------------------------


def test_a_batch_is_pairs_of_one_seed(page: Comparison) -> None:
    last = settle(compared(page, batch=3))
    assert last.strip["visible"] and last.strip["value"].count("<button") == 3
    for i in range(3):
        shown = page.on_strip(last.made, event(index=i))
        left, right = shown.picture_a["value"], shown.picture_b["value"]
        assert [Path(path).name for path in (left, right)] == [
            f"personalq-{7 + i}-reference.png",
            f"personalq-{7 + i}-taq-w4a8.png",
        ]
        assert Path(shown.heat["value"]).name == f"personalq-{7 + i}-difference.png"
        assert shown.strip["value"].split("aria-pressed")[i + 1].startswith('="true"')


def test_while_a_batch_is_made_its_newest_pair_is_shown(page: Comparison) -> None:
    shown = compared(page, batch=2)
    pairs = [(one.picture_a, one.picture_b) for one in shown if isinstance(one.picture_b, str)]
    assert [tuple(Path(path).name.split("-")[1] for path in pair) for pair in pairs] == [("7", "7"), ("8", "8")]


@pytest.mark.parametrize("index", [-1, 2, 10**9])
def test_a_pair_that_is_not_there_has_expired(page: Comparison, index: int) -> None:
    made = finished(page, batch=2)
    with pytest.raises(gr.Error, match="expired"):
        page.on_strip(made, event(index=index))
    with pytest.raises(gr.Error, match="expired"):
        page.on_strip({}, event(index=0))


def test_pictures_of_long_ago_have_expired(page: Comparison, visitors: Visitors) -> None:
    made = finished(page, batch=2, blind=True)
    for _ in range(RUNS):
        visitors.run("127.0.0.1 one")
    for late in (lambda: page.on_vote(made, {}, 0), lambda: page.on_strip({**made, "hidden": False}, event(index=1))):
        with pytest.raises(gr.Error, match="expired"):
            late()


# --- put away ---------------------------------------------------------------------------------


def test_what_is_cleared_leaves_nothing_of_the_pictures(page: Comparison) -> None:
    before, after = finished(page), page.on_away()
    told = [after.picture_a, after.picture_b, after.heat, after.legend, after.verdict, after.progress, after.memory]
    assert before and after.made == {} and not any(told)
    assert not any(one["visible"] for one in (after.outputs, after.views, after.votes, after.strip, after.stop))
    assert after.go["interactive"]


# --- blind -------------------------------------------------------------------------------------

TELLING = ("reference", "taq", "4-bit", "full precision", "quantised", "precision", "memory", " here", "zwx", "pip")


def blind(page: Comparison, batch: int = 1) -> list[Pictures]:
    return compared(page, blind=True, batch=batch)


@pytest.mark.parametrize("batch", [1, 2])
def test_until_the_vote_no_word_tells_the_sides_apart(page: Comparison, batch: int) -> None:
    shown = blind(page, batch)
    told = " ".join(words(shown)).lower().replace(str(page.visitors._root), "")
    told = told.replace("precision=", "").replace("memory=", "")
    assert [word for word in TELLING if word in told] == []
    assert (settle(shown).picture_a["label"], settle(shown).picture_b["label"]) == ("A", "B")


def test_until_the_vote_both_sides_are_counted_as_one(page: Comparison) -> None:
    steps = [one.progress for one in blind(page, 2) if "step" in one.progress]
    assert [f"Both pictures · step {i} of 12" in text for i, text in enumerate(steps, 1)] == [True] * 12


def test_a_vote_is_between_two_that_can_be_seen(page: Comparison) -> None:
    assert begun(blind(page)).view == "Side by side" and begun(compared(page)).view is KEEP
    assert "first of 2 pairs" in settle(blind(page, 2)).progress


def test_until_the_vote_no_picture_is_shown_before_the_other(page: Comparison) -> None:
    shown = blind(page, 2)
    for one in shown[shown.index(begun(shown)) + 1 : -1]:
        for value in (one.picture_a, one.picture_b, one.heat, one.strip, one.legend, one.memory, one.views):
            assert value is KEEP


def test_until_the_vote_no_small_picture_of_the_reference_is_there(page: Comparison) -> None:
    shown = blind(page, 2)
    assert "data:image" not in " ".join(words(shown)) and not settle(shown).strip["visible"]
    assert "data:image" in repr(settle(compared(page, batch=2)).strip)


def test_until_the_vote_files_tell_nothing(page: Comparison) -> None:
    last = settle(blind(page))
    for side, name in (("picture_a", "7-A.png"), ("picture_b", "7-B.png")):
        path = Path(getattr(last, side)["value"])
        assert path.name == name
        with Image.open(path) as picture:
            picture.load()
            assert picture.info == {} and picture.text == {}  # type: ignore[attr-defined]
        assert b"personalq" not in path.read_bytes().lower()


def test_until_the_vote_the_history_tells_nothing(page: Comparison) -> None:
    thumbs: Counter[str] = Counter()
    for _ in range(20):
        last = settle(blind(page))
        _, kept = page.on_made(last.made, {}, {}, browser())
        thumb = kept["history"][0]["thumb"]
        thumbs[thumb] += 1
        assert "A" in last.picture_a["label"] and thumb == last.made["entry"]["thumb"]
    assert len(thumbs) == 2


def test_the_sides_are_shuffled(page: Comparison) -> None:
    random.seed(3)
    lefts = Counter(colour(settle(blind(page)).picture_a["value"]) for _ in range(60))
    assert set(lefts) == {RED, BLUE} and min(lefts.values()) > 15
    assert {colour(settle(compared(page)).picture_a["value"]) for _ in range(10)} == {RED}


@pytest.mark.parametrize("chosen", [0, 1, None])
def test_a_vote_is_counted_for_the_picture_that_was_seen_there(page: Comparison, chosen: int | None) -> None:
    sides = set()
    for _ in range(12):
        last = settle(blind(page))
        seen = [colour(last.picture_a["value"]), colour(last.picture_b["value"])]
        vote = page.on_vote(last.made, {}, chosen)
        side = "same" if chosen is None else "reference" if seen[chosen] == RED else "quantised"
        assert Kept.of(vote.kept).tally == {"taq-w4a8": {side: 1}}
        sides.add(side)
    assert sides == ({"same"} if chosen is None else {"reference", "quantised"})


def test_after_the_vote_all_is_told_and_the_pictures_stay_where_they_were(page: Comparison) -> None:
    seen = set()
    for _ in range(12):
        last = settle(blind(page, 2))
        before = [colour(last.picture_a["value"]), colour(last.picture_b["value"])]
        vote = page.on_vote(last.made, {}, 0)
        labels = {RED: "Full precision", BLUE: "TAQ 4-bit"}
        assert [colour(one["value"]) for one in (vote.picture_a, vote.picture_b)] == before
        assert [one["label"] for one in (vote.picture_a, vote.picture_b)] == [labels[one] for one in before]
        names = [labels[one] for one in before]
        assert f"You preferred: {names[0]}. A was {names[0]}, B was {names[1]}." in vote.verdict
        assert "reference here" in vote.memory and vote.strip["visible"] and not vote.votes["visible"]
        assert page.desk.read(Path(vote.picture_a["value"]))["prompt"] == "zwx dog"
        second = page.on_strip(vote.made, event(index=1))
        assert [colour(one["value"]) for one in (second.picture_a, second.picture_b)] == before
        seen.add(before[0])
    assert seen == {RED, BLUE}


def test_no_difference_is_a_verdict_too(page: Comparison) -> None:
    assert "No difference seen. A was" in page.on_vote(settle(blind(page)).made, {}, None).verdict


def test_one_comparison_has_one_vote(page: Comparison) -> None:
    vote = page.on_vote(settle(blind(page)).made, {}, 0)
    for made in (vote.made, {}, settle(compared(page)).made):
        with pytest.raises(gr.Error, match="expired"):
            page.on_vote(made, vote.kept, 0)
    assert page.on_made(vote.made, {}, {}, browser()) == (KEEP, KEEP)


def test_until_the_vote_no_other_pair_can_be_looked_at(page: Comparison) -> None:
    with pytest.raises(gr.Error, match="expired"):
        page.on_strip(settle(blind(page, 2)).made, event(index=1))


# --- when it fails -----------------------------------------------------------------------------


def failing(page: Comparison, sess: Any = None, **given: Any) -> tuple[Pictures, gr.Error]:
    shown: list[Pictures] = []
    with pytest.raises(gr.Error) as raised:
        for values in started(page, sess, **given):
            shown.append(values)
    return settle(shown), raised.value


@pytest.mark.parametrize(
    ("error", "ways"),
    [
        (GenerationError("Out of <memory> at step 1."), [present.SMALLER, present.LOWER, present.AGAIN]),
        (GenerationError("Not finite."), [present.AGAIN]),
        (ModelError("The base cannot be loaded."), []),
    ],
)
def test_a_failure_is_said_with_its_ways_out_and_frees_the_buttons(
    visitors: Visitors, error: PersonalQError, ways: list[str]
) -> None:
    page = page_of(Desk(fails=error), visitors)
    last, raised = failing(page)
    assert last.go["interactive"] and not last.stop["visible"] and "Failed" in last.progress
    (*before, said) = page.on_failed(last.failed, [present.said("meanwhile")])
    assert len(before) == 1 and said["content"] == raised.message and "<" not in raised.message
    assert [option["value"] for option in said.get("options", [])] == ways
    assert last.made is KEEP


@pytest.mark.parametrize(
    ("sess", "given", "said"),
    [
        ({}, {}, "ask again"),
        (None, {"prompt_box": "  "}, "prompt is empty"),
        (None, {"prompt_box": "x" * 2001}, "2001 characters"),
        (None, {"steps": 0}, "steps"),
        (None, {"seed": -1}, "seed"),
        (None, {"seed": float("nan")}, "seed"),
        (None, {"size": "huge"}, "not understood"),
        (None, {"precision": "reference"}, "compare full precision with"),
        (None, {"precision": None}, "compare full precision with"),
        (session(OWN), {}, "not here any more"),
    ],
)
def test_values_that_cannot_be_are_said_and_cost_nothing(
    visitors: Visitors, sess: Any, given: dict[str, Any], said: str
) -> None:
    page = page_of(Desk(), visitors, FEW)
    last, raised = failing(page, sess, **given)
    assert said in raised.message and last.go["interactive"]
    assert page.desk.job is None  # type: ignore[attr-defined]
    page.limits.take("127.0.0.1 one", "picture")


def test_who_asks_for_too_much_is_told_and_may_try_again(visitors: Visitors) -> None:
    last, raised = failing(page_of(Desk(), visitors, FEW))
    assert "try again in" in raised.message
    assert list(last.failed["options"]) == [present.AGAIN]


def test_one_visitor_makes_one_picture_at_a_time(page: Comparison) -> None:
    first = running(page)
    _, raised = failing(page)
    assert "still being made" in raised.message
    first.close()
    assert compared(page)


def test_an_error_of_ours_frees_the_buttons_and_tells_no_more(visitors: Visitors) -> None:
    shown: list[Pictures] = []
    with pytest.raises(ZeroDivisionError):
        for values in started(page_of(Desk(fails=ZeroDivisionError("secret")), visitors)):
            shown.append(values)
    assert settle(shown).go["interactive"] and "secret" not in repr(shown)


# --- stopping ----------------------------------------------------------------------------------


def test_closing_the_event_closes_the_denoiser(page: Comparison) -> None:
    run = running(page)
    assert not page.desk.closed  # type: ignore[attr-defined]
    run.close()
    assert page.desk.closed  # type: ignore[attr-defined]


def test_stopping_waits_for_the_denoiser_and_frees_the_buttons(page: Comparison) -> None:
    run = running(page)
    stopping = page.on_stop(browser())
    progress, go, stop = next(stopping)
    assert "Stopping" in progress and go is KEEP and not stop["interactive"]
    waited: list[Any] = []
    waiter = threading.Thread(target=lambda: waited.extend(stopping))
    waiter.start()
    waiter.join(0.1)
    assert waited == []
    run.close()
    waiter.join(30)
    progress, go, stop = waited[0]
    assert "Stopped" in progress and go["interactive"] and not stop["visible"]


def test_stopping_nothing_frees_the_buttons_too_and_nobody_elses_run_ends(page: Comparison) -> None:
    run = running(page)
    assert list(page.on_stop(browser("two")))[-1][1]["interactive"]
    assert not page.desk.closed  # type: ignore[attr-defined]
    run.close()
