"""The rules of the evaluation, case by case, on scripted decisions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench_records import CAT, CATALOGUE, DOG1, DOG2, INK, MUTE, Scripted, asked, candidates, picked, query, refused

from personalq.bench.verdicts import lineage, none_share, put, triggers_exact
from personalq.records import Decision, Span

SAME = lineage(CATALOGUE)


def points(decision: Decision, wanted, after: Decision | None = None) -> float:  # type: ignore[no-untyped-def]
    system = Scripted({wanted.text: decision}, {"the dog": after} if after else {})
    return put(system, wanted, SAME).points


def test_any_version_counts_unless_one_is_stated() -> None:
    assert points(picked(DOG2), query("single", "dog-v1")) == 1
    assert points(picked(DOG2), query("single", "dog-v1", facets=("version",))) == 0
    assert points(picked(DOG1), query("single", "dog-v1", facets=("version",))) == 1
    assert points(picked(CAT), query("single", "dog-v1")) == 0


def test_a_single_asked_about_refused_or_loaded_with_another_is_an_error() -> None:
    assert points(asked(), query("single", "dog-v1")) == 0
    assert points(refused(), query("single", "dog-v1")) == 0
    both = put(Scripted({"my dog": picked(INK, DOG1)}), query("single", "dog-v1"), SAME)
    assert (both.points, both.among) == (0, True)


def test_an_ambiguous_pick_is_half_and_an_answer_must_be_exact() -> None:
    wanted = query("ambiguous", "dog-v1", "cat", answer="the dog", answer_id="dog-v1")
    assert points(picked(DOG2), wanted) == 0.5
    assert points(picked(INK), wanted) == 0
    assert points(refused(), wanted) == 0
    assert points(asked(), wanted, after=picked(DOG1)) == 1
    assert points(asked(), wanted, after=picked(DOG2)) == 0
    assert points(asked(), wanted, after=picked(CAT)) == 0
    assert points(asked(), wanted, after=asked()) == 0


def test_the_answer_is_typed_for_ambiguous_queries_only() -> None:
    wanted = query("single", "dog-v1", answer="the dog", answer_id="dog-v1")
    assert points(asked(), wanted, after=picked(DOG1)) == 0


def test_a_no_match_wants_no_pick_and_no_question() -> None:
    assert points(refused(), query("no_match")) == 1
    assert points(picked(CAT), query("no_match")) == 0
    assert points(asked(), query("no_match")) == 0


def test_a_composition_needs_both_sides_and_its_warning() -> None:
    wanted = query("compose", "dog-v1", "ink", subject=("dog-v1",), style=("ink",))
    assert points(picked(INK, DOG2), wanted) == 1
    assert points(picked(INK, CAT), wanted) == 0
    assert points(picked(INK, DOG1, CAT), wanted) == 0
    one = put(Scripted({"my dog": picked(DOG1)}), wanted, SAME)
    assert (one.points, one.sides) == (0, 0.5)
    unstated = replace(wanted, base_compat="unstated")
    assert points(picked(INK, DOG1), unstated) == 0
    assert points(picked(INK, DOG1, warnings=("Not known whether for the same base model.",)), unstated) == 1
    differ = replace(wanted, base_compat="differ")
    other = replace(INK, base="SDXL 1.0")
    assert points(picked(other, DOG1, warnings=("ink has no trigger word.",)), differ) == 0
    assert points(picked(other, DOG1, warnings=("ink was made for SDXL 1.0, dog for SD 1.5.",)), differ) == 1


def test_ranks_and_coverage() -> None:
    ranked = candidates((CAT, 0.5), (INK, 0.2), (DOG2, 0.1))
    found = put(Scripted({"my dog": refused(ranked)}), query("single", "dog-v1"), SAME)
    assert found.rank == 3
    exact = query("single", "dog-v1", facets=("version",))
    assert put(Scripted({"my dog": refused(ranked)}), exact, SAME).rank is None
    pair = query("compose", "cat", "ink", subject=("cat",), style=("ink",))
    assert put(Scripted({"my dog": refused(ranked)}), pair, SAME).pair_rank == 2
    two = query("ambiguous", "dog-v1", "dog-v2", "mute", answer="x", answer_id="mute")
    assert put(Scripted({"my dog": refused(ranked)}), two, SAME).covered == 0.5


def test_the_date_of_the_request_is_passed_on() -> None:
    system = Scripted({"my dog": picked(DOG1)})
    put(system, query("single", "dog-v1", as_of="2025-03-01"), SAME)
    assert system.dates == ["2025-03-01"]


def test_triggers_must_be_byte_exact_and_under_their_spans() -> None:
    good = picked(DOG1)
    assert triggers_exact(good) is True
    assert triggers_exact(replace(good, prompt=good.prompt.replace("zwx", "Zwx"))) is False
    assert triggers_exact(replace(good, spans=())) is False
    assert triggers_exact(replace(good, spans=(replace(good.spans[0], end=6),))) is False
    assert triggers_exact(replace(good, spans=(*good.spans, Span(0, 999, "concept", "dog-v1")))) is False
    assert triggers_exact(replace(good, spans=(*good.spans, Span(9, 11, "concept", "dog-v1")))) is True
    assert triggers_exact(picked(DOG1, INK)) is True
    half = picked(DOG1, INK)
    assert triggers_exact(replace(half, spans=half.spans[:1])) is False


def test_without_a_stored_trigger_nothing_may_be_marked() -> None:
    assert triggers_exact(picked(MUTE)) is None
    both = picked(DOG1, MUTE)
    assert triggers_exact(both) is True
    assert triggers_exact(replace(both, spans=(*both.spans, Span(9, 11, "trigger", "mute")))) is False
    assert triggers_exact(refused()) is None


@pytest.mark.parametrize(
    ("decision", "share"),
    [
        (picked(DOG1, ranked=candidates((DOG1, 0.6), (CAT, 0.1))), 0.3),
        (refused(candidates((DOG1, 0.2), (CAT, 0.1))), 0.7),
        (refused(candidates((DOG1, 0.8), (CAT, 0.1))), 1.0),  # by rule: such as a version that does not exist
        (refused(), 1.0),
        (picked(DOG1), None),
    ],
)
def test_the_share_of_none(decision: Decision, share: float | None) -> None:
    assert none_share(decision) == (share if share is None else pytest.approx(share))
