"""The conversation over a scripted desk: what each event tells the widgets."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
import pytest
from scripted_desk import FEW, OWN, PIP, PLENTY, REX, Desk, browser, event, selection, session, settle

from personalq.errors import PersonalQError, RequestError, SettingsError
from personalq.records import Candidate, Checkpoint, NoMatch, Option, Question, Request
from personalq.ui import present
from personalq.ui.events import conversation
from personalq.ui.events.conversation import KEEP, Conversation, Turn, filled
from personalq.ui.limits import Allowance, Limits

ASKED = Question("Which dog?", (Option("o1", "Pip", ("pip",)), Option("none", "None of these", ())), (Candidate(PIP),))
NOTHING = NoMatch((Candidate(REX, reason="near"),), "Nothing is a zebra.")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "LOOK_AGAIN", 0)


def page_of(desk: Desk, allowed: Allowance = PLENTY) -> Conversation:
    return Conversation(desk, Limits(allowed))  # type: ignore[arg-type]


def asked() -> tuple[Desk, Conversation, Turn]:
    desk = Desk(ASKED, selection(PIP, "my dog at sea"))
    page = page_of(desk)
    return desk, page, settle(page.turn("my dog at sea", [], {}, "Square", browser()))


def option(page: Conversation, turn: Turn, id_: str) -> Turn:
    return settle(page.on_option(turn.chat, turn.sess, "Square", event(id_), browser()))


# --- asking ------------------------------------------------------------------------------------


def test_a_request_shows_itself_before_the_answer_is_there() -> None:
    first = next(page_of(Desk(ASKED)).turn("my <dog>", [], {}, "Square", browser()))
    assert first.box == "" and first.chat == [{"role": "user", "content": "my &lt;dog&gt;"}]


def test_a_request_that_waits_says_what_for() -> None:
    desk = Desk(ASKED)
    desk.busy = ["Reading <files>: 1 of 9", "Encoding: 8 of 9"]
    chats = [turn.chat for turn in page_of(desk).turn("my dog", [], {}, "Square", browser())]
    said = [chat[-1]["content"] for chat in chats[1:]]
    assert said[0].startswith("Reading &lt;files&gt;") and said[1].startswith("Encoding")
    assert said[2].startswith("Looking through 2 checkpoints") and said[3] == "Which dog?"
    assert [len(chat) for chat in chats] == [1, 2, 2, 2, 2]


def test_a_question_waits_with_its_options_and_cards() -> None:
    desk, _, turn = asked()
    assert desk.heard == [("ask", Request("my dog at sea", base="tiny-sd"))]
    assert [option["label"] for option in turn.chat[-1]["options"]] == ["Pip", "None of these"]
    assert turn.sess["pending"]["text"] == "Which dog?"
    assert turn.cands["visible"] and "Pip" in turn.cands["value"]
    assert turn.studio["visible"] is False


def test_the_session_is_plain_data() -> None:
    _desk, page, turn = asked()
    after = settle(page.turn("pip", turn.chat, turn.sess, "Square", browser()))
    for sess in (turn.sess, after.sess):
        assert json.loads(json.dumps(sess)) == sess


@pytest.mark.parametrize("way", ["click", "type"])
def test_an_answer_settles_the_question(way: str) -> None:
    desk, page, turn = asked()
    answered = (
        option(page, turn, "o1")
        if way == "click"
        else settle(page.turn("o1", turn.chat, turn.sess, "Square", browser()))
    )
    assert desk.heard[-1] == ("answer", "o1")
    assert answered.chat[-2]["content"] == ("Pip" if way == "click" else "o1")
    assert answered.prompt_box == "zwx dog at sea"
    assert answered.prompt == [("zwx dog", "trigger"), (" at sea", None)]
    assert answered.studio["visible"] and answered.sess["pending"] is None and answered.sess["options"] == {}
    assert 'aria-pressed="true"' in answered.cands["value"]


@pytest.mark.parametrize("id_", ["o1", None, "", 3, present.PLAIN, present.REPHRASE, present.ADD])
def test_an_option_that_is_gone_says_so(id_: Any) -> None:
    _desk, page, turn = asked()
    after = option(page, turn, "o1")
    for chat, sess in ((after.chat, after.sess), ([], {})):
        with pytest.raises(gr.Error, match="expired"):
            settle(page.on_option(chat, sess, "Square", event(id_), browser()))


def test_a_card_chooses_whatever_was_pending() -> None:
    desk, page, turn = asked()
    after = settle(page.on_card(turn.chat, turn.sess, event(index=0)))
    assert desk.heard[-1] == ("choose", Request("my dog at sea", base="tiny-sd"), "pip")
    assert after.prompt_box == "zwx dog at sea" and after.sess["pending"] is None


@pytest.mark.parametrize("index", [-1, 9])
@pytest.mark.parametrize("started", [True, False])
def test_a_card_or_a_shelf_that_is_not_there_says_so(index: int, started: bool) -> None:
    _desk, page, turn = asked()
    for clicked in (page.on_card, page.on_shelf):
        with pytest.raises(gr.Error, match="expired"):
            settle(clicked(turn.chat, turn.sess if started else {}, event(index=index)))


def test_a_card_of_a_concept_that_was_removed_says_so() -> None:
    sess = {"request": present.plain(Request("a cat")), "cards": [{"id": OWN.id, "reason": ""}]}
    with pytest.raises(gr.Error, match="expired"):
        settle(page_of(Desk()).on_card([], sess, event(index=0)))


def test_the_shelf_starts_with_that_concept() -> None:
    desk = Desk()
    after = settle(page_of(desk).on_shelf([], {}, event(index=1)))
    assert desk.heard[-1] == ("choose", Request("a picture of dog", base="tiny-sd"), "rex")
    assert after.sess["chosen"]["ids"] == ["rex"] and after.shelf["visible"] is False


# --- a visitor's own concepts ------------------------------------------------------------------


def test_own_concepts_are_asked_with_and_stay_with_the_session() -> None:
    desk = Desk(selection(OWN, "my dog"), NOTHING)
    page = page_of(desk)
    sess = present.with_own({"visitor": "v"}, [OWN])
    turns = list(page.turn("a qvz cat", [], sess, "Square", browser()))
    assert "Looking through 3 checkpoints" in turns[1].chat[-1]["content"]
    after = settle(turns)
    assert desk.heard[-1] == ("ask", Request("a qvz cat", base="tiny-sd"), (OWN,))
    assert present.own(after.sess) == (OWN,) and after.sess["visitor"] == "v"
    assert "Mine" in after.cands["value"]
    assert present.own(settle(page.turn("x", [], after.sess, "Square", browser())).sess) == (OWN,)


def test_choices_before_the_last_stay_known_and_the_page_says_which_is_meant() -> None:
    page = page_of(Desk(selection(PIP, "my dog"), selection(REX, "my dog"), ASKED))
    first = settle(page.turn("pip", [], {}, "Square", browser()))
    second = settle(page.turn("rex", first.chat, first.sess, "Square", browser()))
    asked = settle(page.turn("dog", second.chat, second.sess, "Square", browser()))
    assert first.picked != second.picked and asked.picked is KEEP and asked.sess["chosen"] is None
    for turn, id_ in ((first, "pip"), (second, "rex")):
        choice = present.choice(asked.sess, turn.picked)
        assert choice is not None and choice["ids"] == [id_]
    assert present.choice(asked.sess, "") is None and present.choice({}, first.picked) is None


def test_a_session_knows_a_few_choices() -> None:
    sess: dict[str, Any] = {}
    for i in range(30):
        sess = present.with_chosen(sess, {"ids": [], "prompt": str(i), "marks": []})
    assert [one["prompt"] for one in sess["before"]] == [str(i) for i in range(28, 28 - present.CHOICES, -1)]


def test_own_concepts_lead_the_shelf_and_never_stand_in_for_the_catalogue() -> None:
    impostor = Checkpoint("pip", "Impostor", group_id="pip")
    sess = present.with_own({}, [OWN, impostor])
    shelf = page_of(Desk()).shelf(sess)
    assert shelf.index("Mine") < shelf.index("Pip") and "Impostor" not in shelf
    assert "Mine" not in page_of(Desk()).shelf()


def test_the_bin_brings_the_empty_page_back_and_own_concepts_stay() -> None:
    sess = {**present.with_own(session(), [OWN]), "pending": {"x": 1}}
    turn = page_of(Desk()).on_clear(sess)
    assert turn.chat == [] and set(turn.sess) == {"visitor", "own"}
    assert turn.intro["visible"] and not turn.studio["visible"] and not turn.cands["visible"]
    assert "Mine" in turn.shelf["value"] and turn.shelf["visible"]
    assert page_of(Desk()).on_clear({}).sess == {}


# --- ways on and ways out ----------------------------------------------------------------------


def no_match() -> tuple[Conversation, Turn]:
    page = page_of(Desk(NOTHING))
    return page, settle(page.turn("a zebra", [], {}, "Square", browser()))


def test_no_match_offers_the_base_model_rephrasing_and_adding() -> None:
    page, turn = no_match()
    assert "weak match" in turn.cands["value"] and turn.studio["visible"] is False
    base = option(page, turn, present.PLAIN)
    assert base.prompt_box == "a zebra" and base.sess["chosen"]["ids"] == [] and base.studio["visible"]
    again = option(page, turn, present.REPHRASE)
    assert again.box == "a zebra" and again.sess["options"] == {}
    adding = option(page, turn, present.ADD)
    assert adding.tabs.selected == "concepts" and adding.sess["options"] == {}


def test_a_typed_number_is_the_option_it_stands_at() -> None:
    page, turn = no_match()
    base, adding = (settle(page.turn(text, turn.chat, turn.sess, "Square", browser())) for text in ("1", " 3 "))
    assert base.box == "" and base.prompt_box == "a zebra"
    assert adding.tabs.selected == "concepts"
    page.desk.script.append(NOTHING)  # type: ignore[attr-defined]
    assert settle(page.turn("4", turn.chat, turn.sess, "Square", browser())).chat[-2]["content"] == "4"


@pytest.mark.parametrize("sess", [{}, {"options": {"o1": "Pip"}}, session()])
def test_ways_out_of_a_failure_need_no_session(sess: dict[str, Any]) -> None:
    page = page_of(Desk())
    smaller = settle(page.on_option([], sess, "Square", event(present.SMALLER), browser()))
    lower = settle(page.on_option([], sess, "Square", event(present.LOWER), browser()))
    assert (smaller.size, smaller.precision, smaller.again) == ("Smaller", KEEP, KEEP)
    assert (lower.size, lower.precision, lower.again) == (KEEP, "taq-w4a8", KEEP)
    for turn, label in ((smaller, "Make it smaller"), (lower, "Use a lower precision")):
        assert turn.chat[0]["content"] == label and "options" not in turn.chat[-1]
        assert {**turn.sess, "options": 0} == {**sess, "options": 0}


def test_a_size_shrinks_until_it_cannot() -> None:
    page, size = page_of(Desk()), "Square"
    for expected in ("Smaller", "256 x 256", "192 x 192", "128 x 128", "64 x 64", "64 x 64"):
        turn = settle(page.on_option([], {}, size, event(present.SMALLER), browser()))
        word = "cannot be smaller" if size == expected else expected
        assert turn.size == expected and word in turn.chat[-1]["content"]
        size = expected


def test_a_size_that_is_none_cannot_shrink() -> None:
    turn = settle(page_of(Desk()).on_option([], {}, "nonsense", event(present.SMALLER), browser()))
    assert turn.size is KEEP and "not understood" in turn.chat[-1]["content"]


def test_trying_again_is_a_new_event_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 2.0])
    monkeypatch.setattr(conversation.time, "time", lambda: next(times))
    page = page_of(Desk())
    agains = [settle(page.on_option([], {}, "Square", event(present.AGAIN), browser())).again for _ in range(2)]
    assert agains == [1.0, 2.0]


def failed(error: PersonalQError, sess: dict[str, Any], allowed: Allowance = PLENTY) -> tuple[Turn, gr.Error]:
    """The last values a failing turn showed, and what it raised."""
    turns: list[Turn] = []
    with pytest.raises(gr.Error) as raised:
        for turn in page_of(Desk(error), allowed).turn("x", [], sess, "Square", browser()):
            turns.append(turn)
    return turns[-1], raised.value


def test_an_error_is_said_in_the_chat_and_raised_escaped() -> None:
    turn, error = failed(RequestError("<b>Too long</b>: shorten it."), {})
    assert turn.chat[-1]["content"] == error.message
    assert "shorten it" in error.message and "<b>" not in error.message


def test_what_nobody_foresaw_does_not_leave_the_chat_waiting() -> None:
    desk = Desk()  # whose script is empty
    turns: list[Turn] = []
    with pytest.raises(IndexError):
        for turn in page_of(desk).turn("x", [], {"options": {"o1": "Pip"}}, "Square", browser()):
            turns.append(turn)
    last = turns[-1].chat[-1]
    assert "send it again" in last["content"] and last["options"] == [{"value": "o1", "label": "Pip"}]


def test_a_first_request_that_fails_brings_text_and_empty_page_back() -> None:
    first, _ = failed(RequestError("no"), {})
    assert first.box == "x" and first.intro["visible"] and first.shelf["visible"]
    with pytest.raises(gr.Error):
        for turn in page_of(Desk(RequestError("no"))).turn("y", [present.said("x")], {}, "Square", browser()):
            later = turn
    assert later.box == "y" and later.intro is KEEP and later.shelf is KEEP


def test_after_an_error_the_choices_are_still_there() -> None:
    turn, _ = failed(RequestError("no"), {"options": {"o1": "Pip"}})
    assert turn.chat[-1]["options"] == [{"value": "o1", "label": "Pip"}] and turn.sess is KEEP


def test_who_asks_too_often_is_told_and_others_are_not() -> None:
    desk = Desk(ASKED, ASKED, ASKED)
    page = page_of(desk, FEW)
    settle(page.turn("my dog", [], {}, "Square", browser()))
    with pytest.raises(gr.Error, match="try again in"):
        settle(page.turn("my dog", [], {}, "Square", browser()))
    settle(page.turn("my dog", [], {}, "Square", browser(host="127.0.0.2")))
    assert len(desk.heard) == 2


# --- the prompt --------------------------------------------------------------------------------


def test_editing_marks_and_warns_and_reset_brings_back() -> None:
    _desk, page, turn = asked()
    sess = option(page, turn, "o1").sess
    pieces, warning = page.on_edit("a zwx dog twice: zwx dog", sess)
    assert [text for text, role in pieces if role] == ["zwx dog", "zwx dog"] and not warning["visible"]
    pieces, warning = page.on_edit("a dog", sess)
    assert pieces == [("a dog", None)] and warning["visible"] and "zwx dog" in warning["value"]
    prompt, pieces, warning = page.on_reset(sess)
    assert prompt == "zwx dog at sea" and pieces[0] == ("zwx dog", "trigger") and not warning["visible"]


def test_editing_and_resetting_before_anything_was_chosen_changes_nothing() -> None:
    page = page_of(Desk())
    assert page.on_edit("a dog", {})[0] == [("a dog", None)]
    prompt, pieces, warning = page.on_reset({})
    assert (prompt, pieces, warning["visible"]) == ("", [], False)


@pytest.mark.parametrize(
    ("weight", "value", "range_"),
    [(0.8, 0.8, (-1, 2)), (3.0, 3.0, (-1, 3.0)), (-2.5, -2.5, (-2.5, 2)), (99.0, 4.0, (-1, 4.0))],
)
def test_the_slider_holds_the_weight_that_the_author_recommends(
    weight: float, value: float, range_: tuple[float, float]
) -> None:
    desk = Desk()
    desk.known["pip"] = Checkpoint("pip", "Pip", triggers=("zwx dog",), weight=weight)
    shown = page_of(desk).studio(session())
    assert (shown["weight_a"]["value"], shown["weight_a"]["label"]) == (value, "Weight of Pip")
    assert (shown["weight_a"]["minimum"], shown["weight_a"]["maximum"]) == range_
    assert shown["weight_a"]["visible"] and not shown["weight_b"]["visible"]


def test_only_a_lora_has_a_weight() -> None:
    desk = Desk()
    desk.known["pip"] = Checkpoint("pip", "Pip", kind="ti", triggers=("zwx dog",))
    assert not page_of(desk).studio(session())["weight_a"]["visible"]


# --- the frame ---------------------------------------------------------------------------------


def test_the_status_line_says_what_is_there_and_then_where() -> None:
    desk = Desk()
    desk.busy = ["Reading the base: 1 of 2"]
    first, second, last = page_of(desk).on_load()
    assert "loading" in first and "2 checkpoints" in first and "1 file was skipped" in first
    assert "Reading the base: 1 of 2…" in second
    assert "ready" in last and "tiny-sd · cpu · 2 checkpoints" in last
    failing = list(page_of(Desk(fails=SettingsError("choose <one>"))).on_load())[-1]
    assert "failed" in failing and "choose &lt;one&gt;" in failing


def test_concepts_of_other_bases_are_counted_under_the_shelf() -> None:
    desk = Desk()
    desk.hidden = {"SDXL": 2, "SD 1.5": 5}
    assert "7 hidden, made for another base: SD 1.5 (5), SDXL (2)" in page_of(desk).shelf()
    assert "another base" not in page_of(Desk()).shelf()


def test_an_empty_request_is_told_at_the_box() -> None:
    assert [filled(text, [], {}, "Square")[0]["is_valid"] for text in ("  ", "a dog")] == [False, True]
