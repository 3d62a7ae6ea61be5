"""Records to widget values and back."""

import html
import json
import random
import re

import pytest

from personalq.errors import GenerationError, LimitError, ModelError, RequestError
from personalq.records import Candidate, Checkpoint, Job, NoMatch, Option, Question, Request, Selection, Span
from personalq.ui import present
from personalq.ui.controls import MOST_PROMPT, Controls

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
    assert list(present.options(NoMatch((), "nothing"))) == [present.PLAIN, present.REPHRASE, present.ADD]


@pytest.mark.parametrize(
    ("error", "ways"),
    [
        (
            GenerationError("Out of memory at step 3. Choose a smaller size."),
            [present.SMALLER, present.LOWER, present.AGAIN],
        ),
        (GenerationError("Step 3 gave numbers that are not finite."), [present.AGAIN]),
        (LimitError("Try again in 5 seconds."), [present.AGAIN]),
        (RequestError("Choose 1 to 50 steps."), []),
        (ModelError("No such base, and little memory."), []),
    ],
)
def test_ways_out_fit_what_went_wrong(error: Exception, ways: list[str]) -> None:
    assert list(present.ways_out(error)) == ways
    assert set(present.ways_out(error).items()) <= set(present.WAYS_OUT.items())


def test_replies_carry_warnings_and_name_weak_matches() -> None:
    assert "Ink says no base." in present.reply(CHOSEN)
    assert "weak" in present.reply(NoMatch((Candidate(PIP),), "Nothing is a zebra."))
    assert present.reply(NoMatch((), "Nothing.")) == "Nothing."


def test_cards_put_what_is_meant_first_and_keep_reasons() -> None:
    assert [card["id"] for card in present.cards(CHOSEN)] == ["rex", "ink", "pip"]
    assert [card["id"] for card in present.cards(ASKED)] == ["rex", "pip"]
    (card,) = present.cards(NoMatch((Candidate(PIP, reason="near", probability=0.834),), "no"))
    assert card == {"id": "pip", "reason": "near", "score": "83 %"}


def test_a_selection_without_candidates_still_shows_its_checkpoint() -> None:
    (card,) = present.cards(Selection((PIP,), "zwx dog", (), 1.0, "by hand"))
    assert card == {"id": "pip", "reason": "by hand", "score": ""}


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


def test_a_prompt_beyond_all_measure_is_not_searched() -> None:
    text = "rx dog, " * MOST_PROMPT
    assert present.spans(text, picked()) == () and present.marked(text, ()) == [(text, None)]


def test_overlapping_pieces_lose_nothing_either() -> None:
    overlapping = (Span(0, 8, "style", "ink"), Span(4, 12, "trigger", "rex"), Span(10, 12, "trigger", "rex"))
    pieces = present.marked(PROMPT, overlapping)
    assert "".join(text for text, _ in pieces) == PROMPT


# --- jobs --------------------------------------------------------------------------------------

KNOWN = {"rex": REX, "ink": INK, "pip": PIP}


def typed(prompt: str = PROMPT, **given: object) -> Controls:
    return Controls(prompt_box=prompt, **given)  # type: ignore[arg-type]


def test_a_job_takes_the_widgets_and_a_weight_for_each_of_two() -> None:
    job = present.job(picked(), KNOWN, typed(f" {PROMPT} ", steps=12, guidance=4.0, weight_a=0.5, weight_b=1.5), 7)
    assert (job.prompt, job.seed, job.steps, job.guidance) == (PROMPT, 7, 12, 4.0)
    assert job.spans == CHOSEN.spans
    assert job.checkpoints == ((INK, 0.5), (REX, 1.5))


def test_a_third_concept_has_the_weight_of_its_author() -> None:
    three = present.chosen(Selection((INK, REX, PIP), PROMPT, (), 1.0, ""))
    job = present.job(three, KNOWN, typed(weight_a=0.5, weight_b=1.5), 7)
    assert job.checkpoints == ((INK, 0.5), (REX, 1.5), (PIP, 0.8))


def test_a_job_without_concept_and_one_without_prompt() -> None:
    alone = present.chosen(present.without_concept(Request(" a zebra ")))
    assert present.job(alone, {}, typed("a zebra"), 1).checkpoints == ()
    with pytest.raises(RequestError, match="Reset"):
        present.job(alone, {}, typed("  "), 1)


def test_a_concept_is_never_silently_left_out() -> None:
    with pytest.raises(RequestError, match="ask again"):
        present.job(None, KNOWN, typed(), 1)
    with pytest.raises(RequestError, match="rex is not here any more"):
        present.job(picked(), {"ink": INK}, typed(), 1)


def test_a_job_is_chosen_again_as_it_was() -> None:
    job = Job(PROMPT, spans=CHOSEN.spans, checkpoints=((INK, 1.0), (REX, 0.5)))
    assert present.picked(job) == picked()
    assert present.spans(PROMPT, json.loads(json.dumps(present.picked(job)))) == CHOSEN.spans


# --- a visitor's own checkpoints ---------------------------------------------------------------


def test_own_checkpoints_come_back_equal_and_hashable() -> None:
    sess = present.with_own({"visitor": "v"}, [PIP, REX])
    assert present.own(sess) == (PIP, REX) and hash(present.own(sess)) == hash((PIP, REX))
    assert sess["visitor"] == "v" and present.own({}) == ()


def test_the_catalogue_comes_before_what_a_visitor_added() -> None:
    sess = present.with_own({}, [Checkpoint("pip", "Impostor"), INK])
    known = present.known({"pip": PIP}, sess)
    assert known == {"pip": PIP, "ink": INK}


def test_checkpoints_of_other_bases_are_counted() -> None:
    assert present.hidden({}) == ""
    assert present.hidden({"A": 1, "B": 3}) == "4 hidden, made for another base: B (3), A (1)"
    many = present.hidden({f"base{i}": i for i in range(1, 9)})
    assert many.startswith("36 hidden") and many.count("base") == 5
