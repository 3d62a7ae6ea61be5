"""Rows added up by hand from scripted decisions."""

from __future__ import annotations

import pytest
from bench_records import CAT, CATALOGUE, DOG1, DOG2, INK, Scripted, asked, candidates, picked, query, refused

from personalq.bench.intervals import wilson
from personalq.bench.measures import by_facet, compared, failures, measure
from personalq.bench.verdicts import Verdict, lineage, put

SAME = lineage(CATALOGUE)
RANKED = candidates((DOG1, 0.6), (CAT, 0.2))
KEYS = {
    "name", "single_right", "single_asked", "recall@1", "recall@10", "recall@30", "ambiguous_right", "ambiguous_asked",
    "no_match_precision", "no_match_recall", "compose_right", "exact_trigger", "latency_ms", "none_auroc", "none_ece",
    "overall", "intervals", "stages_ms",
}  # fmt: skip


def verdicts() -> list[Verdict]:
    """Singles: right, asked, refused, wrong. Ambiguous: asked and right, picked. No match: refused, picked."""
    system = Scripted(
        {
            "s1": picked(DOG1, ranked=RANKED),
            "s2": asked(RANKED),
            "s3": refused(candidates((CAT, 0.1), (DOG2, 0.1))),
            "s4": picked(CAT, ranked=candidates((CAT, 0.9))),
            "a1": asked(RANKED),
            "a2": picked(CAT, ranked=RANKED),
            "n1": refused(candidates((CAT, 0.1))),
            "n2": picked(CAT, ranked=candidates((CAT, 0.7))),
            "c1": picked(INK, DOG1, ranked=RANKED),
        },
        {"the dog": picked(DOG1)},
    )
    asks = [query("single", "dog-v1", text=text, facets=("name",)) for text in ("s1", "s2", "s3", "s4")]
    asks += [
        query("ambiguous", "dog-v1", "cat", text=text, answer="the dog", answer_id="dog-v1") for text in ("a1", "a2")
    ]
    asks += [query("no_match", text=text) for text in ("n1", "n2")]
    asks.append(query("compose", "dog-v1", "ink", text="c1", subject=("dog-v1",), style=("ink",)))
    return [put(system, each, SAME) for each in asks]


def test_a_row_added_up_by_hand() -> None:
    row = measure("ours", verdicts())
    assert set(row) >= KEYS
    assert row["name"] == "ours"
    assert (row["single_right"], row["single_asked"], row["single_refused"]) == (0.25, 0.25, 0.25)
    assert (row["recall@1"], row["recall@10"]) == (0.5, 0.75)
    assert (row["ambiguous_right"], row["ambiguous_asked"], row["ambiguous_covered@30"]) == (0.75, 0.5, 1.0)
    assert (row["no_match_precision"], row["no_match_recall"]) == (0.5, 0.5)
    assert (row["compose_right"], row["compose_sides"], row["compose_warned"]) == (1.0, 1.0, None)
    assert row["overall"] == pytest.approx((1 + 1.5 + 1 + 1) / 9, abs=1e-4)
    assert row["exact_trigger"] == 1.0
    # none: singles and ambiguous 0.2, 0.2, 0.8, 0.1, 0.2, 0.2; no-matches 0.9 and 0.3
    assert row["none_auroc"] == pytest.approx((6 + 5) / 12, abs=1e-4)
    assert row["intervals"]["single_right"] == pytest.approx(wilson(1, 4), abs=1e-4)
    assert row["intervals"]["compose_warned"] is None
    assert row["latency_ms"]["p50"] >= 0


def test_nothing_counted_is_null_not_zero() -> None:
    row = measure("empty", [])
    assert row["single_right"] is None
    assert row["no_match_precision"] is None
    assert row["latency_ms"] == {"p50": None, "p95": None}


def test_the_best_rival_is_chosen_for_every_kind() -> None:
    ours = verdicts()
    never = [put(Scripted({each.query.text: refused()}), each.query, SAME) for each in ours]
    always = [put(Scripted({each.query.text: picked(DOG1)}), each.query, SAME) for each in ours]
    found = compared(("ours", ours), [("never", never), ("always", always)])
    assert found is not None
    assert (found["single"]["against"], found["single"]["difference"]) == ("always", -0.75)
    assert (found["no_match"]["against"], found["no_match"]["difference"]) == ("never", -0.5)
    assert found["all"]["against"] == "always"
    assert found["all"]["difference"] == pytest.approx((4.5 - 5) / 9, abs=1e-4)


def test_failures_say_what_was_wanted_and_what_came() -> None:
    told = {each["query"]: each for each in failures(verdicts())}
    assert set(told) == {"s2", "s3", "s4", "a2", "n2"}
    assert told["s4"]["came"] == "picked cat"
    assert told["s4"]["wanted"] == ["dog-v1"]
    assert told["s2"]["came"].startswith("asked: Which one")
    assert told["a2"]["points"] == 0.5


def test_points_by_facet() -> None:
    assert by_facet(verdicts()) == {"single: name": {"n": 4, "right": 0.25}}
