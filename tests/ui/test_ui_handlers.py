"""The page's events over a scripted desk: what each one tells the widgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from scripted_desk import PIP, REX, Desk, selection

from personalq.errors import PersonalQError, RequestError, SettingsError
from personalq.records import (
    Candidate,
    NoMatch,
    Option,
    Question,
    Request,
)
from personalq.ui import handlers, present
from personalq.ui.handlers import KEEP, Handlers, Turn

ASKED = Question("Which dog?", (Option("o1", "Pip", ("pip",)), Option("none", "None of these", ())), (Candidate(PIP),))


def event(value: Any = None, index: int = 0) -> gr.SelectData:
    return gr.SelectData(None, {"index": index, "value": value})


def settle(turns: Iterator[Turn]) -> Turn:
    """All values together, later ones winning, as the widgets would have them."""
    values = Turn()
    for turn in turns:
        values = Turn(*(old if new is KEEP else new for old, new in zip(values, turn, strict=True)))
    return values


def asked() -> tuple[Desk, Handlers, Turn]:
    desk = Desk(ASKED, selection(PIP, "my dog at sea"))
    page = Handlers(desk)  # type: ignore[arg-type]
    return desk, page, settle(page.turn("my dog at sea", [], {}))


def test_a_request_shows_itself_before_the_answer_is_there() -> None:
    page = Handlers(Desk(ASKED))  # type: ignore[arg-type]
    first = next(page.turn("my <dog>", [], {}))
    assert first.box == "" and first.chat == [{"role": "user", "content": "my &lt;dog&gt;"}]


def test_a_question_waits_with_its_options_and_cards() -> None:
    desk, _, turn = asked()
    assert desk.heard == [("ask", Request("my dog at sea", base="tiny-sd"))]
    assert [option["label"] for option in turn.chat[-1]["options"]] == ["Pip", "None of these"]
    assert turn.sess["pending"]["text"] == "Which dog?"
    assert turn.cands["visible"] and "Pip" in turn.cands["value"]
    assert turn.studio["visible"] is False


def test_the_session_is_plain_data() -> None:
    _desk, page, turn = asked()
    after = settle(page.turn("pip", turn.chat, turn.sess))
    for sess in (turn.sess, after.sess):
        assert json.loads(json.dumps(sess)) == sess


@pytest.mark.parametrize("way", ["click", "type"])
def test_an_answer_settles_the_question(way: str) -> None:
    desk, page, turn = asked()
    answered = (
        page.on_option(turn.chat, turn.sess, event("o1")) if way == "click" else page.turn("o1", turn.chat, turn.sess)
    )
    after = settle(answered)
    assert desk.heard[-1] == ("answer", "o1")
    assert after.chat[-2]["content"] == ("Pip" if way == "click" else "o1")
    assert after.prompt_box == "zwx dog at sea"
    assert after.prompt == [("zwx dog", "trigger"), (" at sea", None)]
    assert after.studio["visible"] and after.sess["pending"] is None and after.sess["options"] == {}
    assert 'aria-pressed="true"' in after.cands["value"]


def test_an_option_that_is_gone_says_so() -> None:
    _desk, page, turn = asked()
    after = settle(page.on_option(turn.chat, turn.sess, event("o1")))
    with pytest.raises(gr.Error, match="expired"):
        settle(page.on_option(after.chat, after.sess, event("o1")))
    with pytest.raises(gr.Error, match="expired"):
        settle(page.on_option([], {}, event("o1")))


def test_a_card_chooses_whatever_was_pending() -> None:
    desk, page, turn = asked()
    after = settle(page.on_card(turn.chat, turn.sess, event(index=0)))
    assert desk.heard[-1] == ("choose", Request("my dog at sea", base="tiny-sd"), "pip")
    assert after.prompt_box == "zwx dog at sea" and after.sess["pending"] is None
    with pytest.raises(gr.Error, match="expired"):
        settle(page.on_card(turn.chat, turn.sess, event(index=9)))


def test_the_shelf_starts_with_that_concept() -> None:
    desk = Desk()
    after = settle(Handlers(desk).on_shelf([], {}, event(index=1)))  # type: ignore[arg-type]
    assert desk.heard[-1] == ("choose", Request("a picture of dog", base="tiny-sd"), "rex")
    assert after.sess["chosen"]["ids"] == ["rex"] and after.shelf["visible"] is False


def test_no_match_offers_the_base_model_and_rephrasing() -> None:
    page = Handlers(Desk(NoMatch((Candidate(REX, reason="near"),), "Nothing is a zebra.")))  # type: ignore[arg-type]
    turn = settle(page.turn("a zebra", [], {}))
    assert "weak match" in turn.cands["value"] and turn.studio["visible"] is False
    base = settle(page.on_option(turn.chat, turn.sess, event(present.PLAIN)))
    assert base.prompt_box == "a zebra" and base.sess["chosen"]["ids"] == [] and base.studio["visible"]
    again = settle(page.on_option(turn.chat, turn.sess, event(present.REPHRASE)))
    assert again.box == "a zebra" and again.sess["options"] == {}


def failed(error: PersonalQError, sess: dict[str, Any]) -> tuple[Turn, gr.Error]:
    """The last values a failing turn showed, and what it raised."""
    turns: list[Turn] = []
    with pytest.raises(gr.Error) as raised:
        for turn in Handlers(Desk(error)).turn("x", [], sess):  # type: ignore[arg-type]
            turns.append(turn)
    return turns[-1], raised.value


def test_an_error_is_said_in_the_chat_and_raised_escaped() -> None:
    turn, error = failed(RequestError("<b>Too long</b>: shorten it."), {})
    assert turn.chat[-1]["content"] == error.message
    assert "shorten it" in error.message and "<b>" not in error.message


def test_after_an_error_the_choices_are_still_there() -> None:
    turn, _ = failed(RequestError("no"), {"options": {"o1": "Pip"}})
    assert turn.chat[-1]["options"] == [{"value": "o1", "label": "Pip"}] and turn.sess is KEEP


def test_editing_marks_and_warns_and_reset_brings_back() -> None:
    _desk, page, turn = asked()
    sess = settle(page.on_option(turn.chat, turn.sess, event("o1"))).sess
    pieces, warning = page.on_edit("a zwx dog twice: zwx dog", sess)
    assert [text for text, role in pieces if role] == ["zwx dog", "zwx dog"] and not warning["visible"]
    pieces, warning = page.on_edit("a dog", sess)
    assert pieces == [("a dog", None)] and warning["visible"] and "zwx dog" in warning["value"]
    prompt, pieces, warning = page.on_reset(sess)
    assert prompt == "zwx dog at sea" and pieces[0] == ("zwx dog", "trigger") and not warning["visible"]


def test_the_status_line_says_what_is_there_and_then_where() -> None:
    first, last = Handlers(Desk()).on_load()  # type: ignore[arg-type]
    assert "loading" in first and "2 checkpoints" in first and "1 file was skipped" in first
    assert "ready" in last and "tiny-sd · cpu · 2 checkpoints" in last
    assert "choose one" in list(Handlers(Desk(fails=SettingsError("choose one"))).on_load())[-1]  # type: ignore[arg-type]


def test_the_bin_brings_the_empty_page_back() -> None:
    turn = Handlers(Desk()).on_clear()  # type: ignore[arg-type]
    assert turn.chat == [] and turn.sess == {} and turn.intro["visible"] and not turn.studio["visible"]


def test_an_empty_request_is_told_at_the_box() -> None:
    assert [handlers.filled(text, [], {})[0]["is_valid"] for text in ("  ", "a dog")] == [False, True]
