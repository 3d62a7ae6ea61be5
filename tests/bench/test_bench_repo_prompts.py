"""The made-up repository: its shape, and that every query means what it says it means."""

from __future__ import annotations

import random
import re
from collections import Counter
from datetime import date

import pytest

from personalq.bench.queries import Query, read_queries
from personalq.bench.repo_concepts import CATEGORIES
from personalq.bench.repo_prompts import queries, repository, write
from personalq.bench.repo_versions import MONTHS, TODAY, Row, Trained, alone_in_season, misspelt, ordinal, spelled
from personalq.catalog.jsonl import read_jsonl
from personalq.records import Checkpoint

VERSIONS = repository()
ROWS = queries(VERSIONS)
BY_ID = {each.id: each for versions in VERSIONS.values() for each in versions}


def kind(row: Row) -> str:
    return "no_match" if row["no_match"] else "ambiguous" if row["requires_clarification"] else "single"


def way(*names: str) -> list[Row]:
    return [row for row in ROWS if row["facets"][0] in names]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Checkpoint, ...], tuple[Query, ...]]:
    catalog, asked = write(tmp_path_factory.mktemp("repository"))
    found = read_jsonl(catalog)
    assert not found.problems
    return found.checkpoints, read_queries(asked, {each.id for each in found.checkpoints})


def test_twenty_lineages_of_fifty_dated_versions(stored: tuple[tuple[Checkpoint, ...], tuple[Query, ...]]) -> None:
    checkpoints, _ = stored
    assert len(checkpoints) == 1000
    assert Counter(Counter(each.group_id for each in checkpoints).values()) == {50: 20}
    assert sorted({each.version_ordinal for each in checkpoints if each.version_ordinal}) == list(range(1, 51))
    assert all(each.created_at and each.triggers and each.description for each in checkpoints)


def test_versions_differ_by_date_and_by_notes() -> None:
    for versions in VERSIONS.values():
        days = [each.made for each in versions]
        assert days == sorted(set(days))
        assert days[-1] < TODAY
        assert len({(each.look, each.light) for each in versions}) == 50


def test_the_queries_have_the_shape_of_the_paper(stored: tuple[tuple[Checkpoint, ...], tuple[Query, ...]]) -> None:
    assert Counter(map(kind, ROWS)) == {"single": 350, "ambiguous": 100, "no_match": 50}
    fields = {"query", "candidate_pool", "ground_truth", "requires_clarification", "no_match"}
    assert all(fields <= set(row) for row in ROWS)
    assert len({row["query"] for row in ROWS}) == 500
    assert Counter(query.kind for query in stored[1]) == Counter(map(kind, ROWS))
    assert all(query.as_of == "2026-01-15" and query.exact == (query.kind != "no_match") for query in stored[1])


def test_queries_have_many_forms() -> None:
    """Names, numbers, dates and notes blanked out, hardly a sentence is the same as another."""
    concepts = sorted({call for category in CATEGORIES for call in category.calls}, key=len, reverse=True)
    scenes = {scene for category in CATEGORIES for scene in category.scenes}
    bare = []
    for row in ROWS:
        text = str(row["query"])
        for piece in [*concepts, *scenes, *MONTHS]:
            text = text.replace(piece, "_")
        bare.append(re.sub(r"\d+(?:st|nd|rd|th)?", "#", text))
    assert Counter(bare).most_common(1)[0][1] <= 12
    assert len(set(bare)) > 250


def test_the_same_seed_draws_the_same() -> None:
    assert queries(repository()) == ROWS
    assert queries(repository(7), 7) != ROWS


def fits(row: Row, each: Trained) -> bool:
    """Whether what a query says of number, date and notes is true of a version, read from its words alone."""
    text = str(row["query"])
    notes = {note for other in BY_ID.values() for note in (other.look, other.light, other.dataset) if note in text}
    if not notes <= {each.look, each.light, each.dataset}:
        return False
    steps = re.search(r"\b(\d+) steps?\b", text)
    return not steps or int(steps[1]) == each.steps


def test_a_description_fits_one_version() -> None:
    for row in way("described"):
        versions = VERSIONS[str(row["ground_truth"]).rsplit("-v", 1)[0]]
        assert [each.id for each in versions if fits(row, each)] == [row["ground_truth"]], row["query"]


def test_a_month_or_a_day_fits_one_version() -> None:
    for row in way("month", "day"):
        truth = BY_ID[row["ground_truth"]]
        same = VERSIONS[truth.category.slug]
        assert sum(each.made == truth.made for each in same) == 1
        if row["facets"] == ["month"]:
            assert MONTHS[truth.made.month - 1] in row["query"]
            assert sum((each.made.year, each.made.month) == (truth.made.year, truth.made.month) for each in same) == 1
            last = re.search(rf"last ({'|'.join(MONTHS)})", row["query"])
            assert not last or 45 < (TODAY - truth.made).days < 330


def test_seasons_are_alone_by_a_margin() -> None:
    category = CATEGORIES[0]

    def trained(month: int, day: int) -> Trained:
        return Trained(category, 1, date(2024, month, day), "", "", "", 0)

    may, june, august = trained(5, 10), trained(6, 5), trained(8, 10)
    assert alone_in_season(may, [may, august])
    assert not alone_in_season(may, [may, june])  # five days into what some call summer
    assert not alone_in_season(trained(1, 5), [])  # winter spans two years
    assert all(
        alone_in_season(BY_ID[row["ground_truth"]], VERSIONS[row["ground_truth"].rsplit("-v", 1)[0]])
        for row in way("season")
    )


def test_an_ambiguous_query_has_a_pool_and_an_answer_from_it() -> None:
    for row in (row for row in ROWS if kind(row) == "ambiguous"):
        pool = row["candidate_pool"]
        assert len(pool) >= 2
        assert row["ground_truth"] in pool
        number = re.search(r"(?:\bv|version )(\d+)", row["answer"])
        if number:
            assert row["ground_truth"].endswith(f"-v{number[1]}")
        if row["facets"][0] in ("look", "light", "data"):
            versions = VERSIONS[row["ground_truth"].rsplit("-v", 1)[0]]
            assert {each.id for each in versions if fits(row, each)} == set(pool), row["query"]


def test_what_is_absent_is_absent() -> None:
    words = {word for row in BY_ID.values() for word in re.findall(r"\w+", str(row.record()).casefold())}
    for noun in (
        "iguana",
        "accordion",
        "rhinoceros",
        "ferret",
        "tortoise",
        "typewriter",
        "submarine",
        "cubist",
        "mosaic",
    ):
        assert noun not in words
    assert all(int(re.findall(r"\d+", row["query"])[0]) > 50 for row in way("absent version"))
    assert all(not row["candidate_pool"] and row["ground_truth"] is None for row in ROWS if row["no_match"])


def test_words_for_numbers() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 42, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "42nd", "111th",
    ]  # fmt: skip
    assert [spelled(n) for n in (7, 19, 20, 34, 50)] == ["seven", "nineteen", "twenty", "thirty-four", "fifty"]


def test_a_slip_of_the_fingers_changes_one_long_word() -> None:
    draw = random.Random(1)
    for _ in range(50):
        slipped = misspelt({"query": "my lighthouse in March 2024, v12"}, draw)
        assert slipped is not None
        words = slipped["query"].split(" ")
        assert words[0] == "my"
        assert words[2:] == ["in", "March", "2024,", "v12"]
        assert words[1] != "lighthouse"
        assert abs(len(words[1]) - len("lighthouse")) <= 1
    assert misspelt({"query": "my dog v12"}, draw) is None
