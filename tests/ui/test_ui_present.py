"""Records to widget values and back."""

import html
import json
import random
import re

import pytest

from personalq.errors import RequestError
from personalq.records import Candidate, Checkpoint, NoMatch, Option, Question, Request, Selection, Span
from personalq.ui import present

PIP = Checkpoint("pip", "Pip", triggers=("zwx dog",), class_noun="dog", group_id="pip", weight=0.8)
REX = Checkpoint("rex", "Rex", triggers=("rx",), class_noun="dog", group_id="rex")
INK = Checkpoint("ink", "Ink", triggers=("inkstyle",), role="style", group_id="ink")
PROMPT = "inkstyle, rx dog on the beach"
CHOSEN = Selection(
    (INK, REX),
    PROMPT,
    (Span(0, 8, "style", "ink"), Span(10, 12, "trigger", "rex"), Span(13, 16, "concept", "rex")),
    0.9,
    "Rex, by name.",
    tuple(Candidate(one, reason=f"why {one.id}") for one in (PIP, REX, INK)),
    ("Ink says no base.",),
)
ASKED = Question(
    "Which dog?",
    (Option("o1", "Rex", ("rex",)), Option("none", "None of these", ())),
    tuple(Candidate(one, reason=f"why {one.id}") for one in (PIP, REX)),
)


def picked() -> dict[str, object]:
    return present.chosen(CHOSEN)


@pytest.mark.parametrize(
    "text",
    [
        '<img src=x onerror="alert(1)">',
        "![x](http://example.com/x.png)",
        "[link](http://example.com)",
        "<http://example.com>",
        "```mermaid\ngraph\n```",
        "~~~\ncode\n~~~",
        "# big **bold** _it_ a|b",
        "&lt;b&gt; &#60;",
        "$$x$$ \\( y \\)",
        "www.example.com, me@example.com, 1. one",
    ],
)
def test_safe_text_shows_its_characters_and_nothing_else(text: str) -> None:
    shown = present.safe(text)
    assert html.unescape(shown) == text
    assert not re.search(r"[<>\[\]`~*$|\\:.@]", shown)
    assert not re.search(r"&(?!amp;|lt;|gt;|#\d+;)", shown)


def test_safe_text_survives_anything() -> None:
    dice = random.Random(0)
    for _ in range(300):
        text = "".join(dice.choice("<>[]()!&#;`~*_$|\\ aé猫\"'123") for _ in range(40))
        assert html.unescape(present.safe(text)) == text
        assert "[" not in present.safe(text) and "<" not in present.safe(text)


def test_messages_are_escaped_and_options_are_plain_labels() -> None:
    assert "<" not in present.said("<b>")["content"]
    message = present.replied("[x]", {"o1": "<Rex>"})
    assert "[" not in message["content"]
    assert message["options"] == [{"value": "o1", "label": "<Rex>"}]
    assert "options" not in present.replied("x", {})


def test_options_of_every_decision() -> None:
    assert present.options(ASKED) == {"o1": "Rex", "none": "None of these"}
    assert present.options(CHOSEN) == {}
    assert list(present.options(NoMatch((), "nothing"))) == [present.PLAIN, present.REPHRASE]


def test_replies_carry_warnings_and_name_weak_matches() -> None:
    assert "Ink says no base." in present.reply(CHOSEN)
    assert "weak" in present.reply(NoMatch((Candidate(PIP),), "Nothing is a zebra."))
    assert present.reply(NoMatch((), "Nothing.")) == "Nothing."


def test_cards_put_what_is_meant_first_and_keep_reasons() -> None:
    assert [card["id"] for card in present.cards(CHOSEN)] == ["rex", "ink", "pip"]
    assert [card["id"] for card in present.cards(ASKED)] == ["rex", "pip"]
    assert present.cards(NoMatch((Candidate(PIP, reason="near"),), "no")) == [{"id": "pip", "reason": "near"}]


def test_a_selection_without_candidates_still_shows_its_checkpoint() -> None:
    assert present.cards(Selection((PIP,), "zwx dog", (), 1.0, "by hand")) == [{"id": "pip", "reason": "by hand"}]


def test_cards_are_few_and_each_once() -> None:
    many = [Candidate(Checkpoint(f"c{i % 20}")) for i in range(60)]
    ids = [card["id"] for card in present.cards(NoMatch(tuple(many), "no"))]
    assert len(ids) == present.SHOWN == len(set(ids))


def test_the_shelf_shows_the_newest_version_of_each_loadable_model() -> None:
    versions = [Checkpoint(f"v{n}", "Fox", group_id="fox", version_ordinal=n) for n in (1.0, 3.0, 2.0)]
    known = {one.id: one for one in (PIP, *versions, Checkpoint("bad", "Bad", loadable=False), REX)}
    assert [card["id"] for card in present.shelf(known)] == ["pip", "v3.0", "rex"]
    many = {str(n): Checkpoint(str(n)) for n in range(50)}
    assert len(present.shelf(many)) == present.ON_SHELF


def test_session_values_are_plain_data_and_come_back() -> None:
    request = Request("my dog", base="tiny-sd", history=("a", "b"))
    assert present.request(json.loads(json.dumps(present.plain(request)))) == request
    again = json.loads(json.dumps(picked()))
    assert present.spans(PROMPT, again) == CHOSEN.spans


def test_an_unedited_prompt_keeps_its_spans() -> None:
    assert present.spans(PROMPT, picked()) == CHOSEN.spans


def test_an_edited_prompt_has_every_occurrence_marked_as_a_whole_word() -> None:
    text = "rx dog, rxx, brx and rx in inkstyle"
    found = present.spans(text, picked())
    assert [(text[s.start : s.end], s.role) for s in found] == [
        ("rx", "trigger"),
        ("dog", "concept"),
        ("rx", "trigger"),
        ("inkstyle", "style"),
    ]
    assert present.spans(text, None) == ()


def test_a_longer_piece_wins_over_one_inside_it() -> None:
    marks = [Span(0, 3, "concept", "pip"), Span(4, 11, "trigger", "pip")]
    both = present.chosen(Selection((PIP,), "dog zwx dog", tuple(marks), 1.0, ""))
    assert [(s.start, s.end, s.role) for s in present.spans("a zwx dog", both)] == [(2, 9, "trigger")]


@pytest.mark.parametrize("trigger", ["<s0><s1>", "a.b*c", "猫_犬", "(x)"])
def test_triggers_of_any_characters_are_found_literally(trigger: str) -> None:
    one = present.chosen(Selection((PIP,), trigger, (Span(0, len(trigger), "trigger", "pip"),), 1.0, ""))
    text = f"a {trigger} here"
    assert [text[s.start : s.end] for s in present.spans(text, one)] == [trigger]


def test_marked_pieces_lose_nothing() -> None:
    pieces = present.marked(PROMPT, CHOSEN.spans)
    assert "".join(text for text, _ in pieces) == PROMPT
    assert [(text, role) for text, role in pieces if role] == [
        ("inkstyle", "style"),
        ("rx", "trigger"),
        ("dog", "concept"),
    ]
    assert present.marked("plain", ()) == [("plain", None)]
    assert present.marked("", ()) == []


def test_a_removed_trigger_is_named_and_a_removed_noun_is_not() -> None:
    assert present.warning(PROMPT, picked()) == ""
    assert present.warning("inkstyle, rx on the beach", picked()) == ""
    assert "rx" in present.warning("inkstyle, a dog", picked())
    assert "inkstyle" not in present.warning("inkstyle, a dog", picked())
    assert present.warning("anything", None) == ""


def test_a_hostile_trigger_is_inert_in_the_warning() -> None:
    one = present.chosen(Selection((PIP,), "<img>", (Span(0, 5, "trigger", "pip"),), 1.0, ""))
    assert "<img" not in present.warning("gone", one)


def test_a_job_takes_the_widgets_and_the_authors_weights() -> None:
    job = present.job(picked(), {"rex": REX, "ink": INK}, f" {PROMPT} ", 7, 12, 4.0)
    assert (job.prompt, job.seed, job.steps, job.guidance) == (PROMPT, 7, 12, 4.0)
    assert job.spans == CHOSEN.spans
    assert job.checkpoints == ((INK, 1.0), (REX, 1.0))
    alone = present.job(present.chosen(Selection((PIP,), "zwx dog", (), 1.0, "")), {"pip": PIP}, "zwx dog", 0, 1, 1)
    assert alone.checkpoints == ((PIP, 0.8),)


def test_a_job_without_concept_and_one_without_prompt() -> None:
    alone = present.chosen(present.without_concept(Request(" a zebra ")))
    assert present.job(alone, {}, "a zebra", 1, 2, 3).checkpoints == ()
    with pytest.raises(RequestError, match="Reset"):
        present.job(alone, {}, "  ", 1, 2, 3)
