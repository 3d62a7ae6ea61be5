"""A made-up repository in the shape of REPO-PROMPTS (arXiv 2603.22943): 20 categories x 50 versions, 500 queries.

The published set is not public; this one is drawn from the words of `repo_phrases`. Every version is an intent of its
own: it differs from its neighbours by date and by notes on look, light, steps and data. The queries are checked against
the catalogue while they are drawn: a single one fits exactly one version, an ambiguous one several, and its answer one
of those. It knows nothing of how Check-in reads any of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from personalq.bench import repo_phrases as say
from personalq.bench.means import Means
from personalq.bench.repo_concepts import ABSENT_SCENES, CATEGORIES, DATASETS, LIGHTS, STEPS
from personalq.bench.repo_versions import (
    TODAY,
    VERSIONS,
    Row,
    Trained,
    alone_in_season,
    fill,
    misspelt,
    month_of,
    period_of,
)
from personalq.bench.selection import Progress, selection

SEED = 2603
SINGLE = {"number": 84, "extreme": 24, "day": 36, "month": 44, "season": 12, "described": 100, "misspelt": 50}
AMBIGUOUS = {"bare": 40, "look": 22, "light": 8, "data": 8, "steps": 6, "period": 16}
NO_MATCH = {
    "absent subject": 26,
    "absent version": 10,
    "absent date": 4,
    "absent style": 4,
    "nothing wanted": 3,
    "off topic": 3,
}
"""How many queries of each way of asking."""
GAPS = (2, 4, 6, 9, 15, 28, 40, 55, 70)
"""Days between one version and the next."""


def repo_prompts(
    means: Means, on_progress: Progress | None = None, keep: Path | None = None, seed: int = SEED
) -> dict[str, Any]:
    """The rows of `selection` on the made-up repository, where PersonalQ asks which version is meant.

    `keep` is a folder for its catalogue and queries.
    """
    with TemporaryDirectory() as folder:
        return selection(*write(keep or Path(folder), seed), replace(means, versions="ask"), on_progress)


def repository(seed: int = SEED) -> dict[str, list[Trained]]:
    """50 versions of every category by slug, oldest first; the same seed gives the same ones."""
    found = {}
    for category in CATEGORIES:
        draw = random.Random(f"{seed}/{category.slug}")
        pairs = [(look, light) for look in category.looks for light in LIGHTS]
        pairs = draw.sample(pairs, VERSIONS)
        gaps = [draw.choice(GAPS) for _ in range(VERSIONS)]
        made = TODAY - timedelta(days=sum(gaps) + draw.randint(3, 20))
        versions = []
        for number, ((look, light), gap) in enumerate(zip(pairs, gaps, strict=True), 1):
            made += timedelta(days=gap)
            versions.append(Trained(category, number, made, look, light, draw.choice(DATASETS), draw.choice(STEPS)))
        found[category.slug] = versions
    return found


def queries(versions: dict[str, list[Trained]], seed: int = SEED) -> list[Row]:
    """350 single, 100 ambiguous and 50 no-match queries with the fields of the paper.

    Beside `query, candidate_pool, ground_truth, requires_clarification, no_match` a row has an id, `asof`, `facets`
    (how it was made) and, when ambiguous, `answer`. No two rows have the same query.
    """
    draw = random.Random(f"{seed}/queries")
    rows: list[Row] = []
    seen: set[str] = set()
    for kind, ways in (("single", SINGLE), ("ambiguous", AMBIGUOUS), ("no_match", NO_MATCH)):
        for way, count in ways.items():
            made = 0
            for row in _stream(kind, way, versions, draw):
                if row["query"] not in seen:
                    seen.add(row["query"])
                    rows.append({"id": f"rp-{len(rows) + 1:03}", **row, "facets": [way], "asof": TODAY.isoformat()})
                    made += 1
                if made == count:
                    break
    return rows


def write(folder: Path, seed: int = SEED) -> tuple[Path, Path]:
    """Write catalog.jsonl and queries.jsonl into `folder`; their paths."""
    versions = repository(seed)
    folder.mkdir(parents=True, exist_ok=True)
    catalog, asked = folder / "catalog.jsonl", folder / "queries.jsonl"
    catalog.write_text(_lines(each.record() for every in versions.values() for each in every), encoding="utf-8")
    asked.write_text(_lines(queries(versions, seed)), encoding="utf-8")
    return catalog, asked


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- drawing queries ---------------------------------------------------------------------------


def _stream(kind: str, way: str, versions: dict[str, list[Trained]], draw: random.Random) -> Iterator[Row]:
    """Rows of one kind and way, the categories in turn; sentences without a place to fill come again and again."""
    makers: dict[str, Callable[[str, list[Trained], random.Random], Row | None]]
    makers = {"single": _single, "ambiguous": _ambiguous, "no_match": _no_match}
    slugs = list(versions)
    turn = draw.randrange(len(slugs))
    for _ in range(10_000):
        turn += 1
        row = makers[kind](way, versions[slugs[turn % len(slugs)]], draw)
        if row is not None:
            yield row
    raise AssertionError(f"no more {kind} queries by {way}")


DESCRIBED: tuple[tuple[say.Frames, tuple[str, ...]], ...] = (
    (say.LOOK_AND_LIGHT, ("look", "light")),
    (say.LOOK_AND_LIGHT, ("look", "light")),
    (say.STEPS_AND_SET, ("steps", "dataset")),
    (say.LOOK_AND_SET, ("look", "dataset")),
)
"""Descriptions that fit one version, and the fields they name; the first is twice as common."""
SHARED: dict[str, tuple[say.Frames, str]] = {
    "look": (say.WITH_LOOK, "look"),
    "light": (say.WITH_LIGHT, "light"),
    "data": (say.WITH_SET, "dataset"),
    "steps": (say.WITH_STEPS, "steps"),
}
"""Descriptions that fit several, by way."""


def _row(query: str, pool: Sequence[Trained], truth: Trained | None, answer: str | None = None) -> Row:
    told = {
        "query": query,
        "candidate_pool": [each.id for each in pool],
        "ground_truth": truth.id if truth else None,
        "requires_clarification": answer is not None,
        "no_match": truth is None,
    }
    return told | ({"answer": answer} if answer is not None else {})


def _single(way: str, versions: list[Trained], draw: random.Random) -> Row | None:
    meant = draw.choice(versions)
    if way == "misspelt":
        row = _single(draw.choice(("number", "month", "described", "described")), versions, draw)
        return row and misspelt(row, draw)
    if way == "number":
        return _row(fill(say.NUMBERED, meant, draw), [meant], meant)
    if way == "extreme":
        newest = draw.random() < 0.6
        meant = versions[-1] if newest else versions[0]
        return _row(fill(say.NEWEST if newest else say.OLDEST, meant, draw), [meant], meant)
    if way == "day":
        return _row(fill(say.ON_DAY, meant, draw), [meant], meant) if _alone(meant, versions, "made") else None
    if way == "month":
        if sum(month_of(each.made) == month_of(meant.made) for each in versions) > 1:
            return None
        recent = (TODAY - meant.made).days < 330 and (TODAY - meant.made).days > 45
        return _row(fill(say.LAST_MONTH_NAME if recent else say.IN_MONTH, meant, draw), [meant], meant)
    if way == "season":
        return _row(fill(say.IN_SEASON, meant, draw), [meant], meant) if alone_in_season(meant, versions) else None
    frames, fields = draw.choice(DESCRIBED)
    return _row(fill(frames, meant, draw), [meant], meant) if _alone(meant, versions, *fields) else None


def _ambiguous(way: str, versions: list[Trained], draw: random.Random) -> Row | None:
    meant = draw.choice(versions)
    pool, frames = versions, say.BARE
    if way in SHARED:
        frames, field = SHARED[way]
        pool = [each for each in versions if getattr(each, field) == getattr(meant, field)]
    period = ""
    if way == "period":
        period, pool = period_of(meant, versions, draw)
        frames = say.IN_PERIOD
    if len(pool) < 2:
        return None
    return _row(fill(frames, meant, draw, period=period), pool, meant, _answer(meant, pool, draw))


def _no_match(way: str, versions: list[Trained], draw: random.Random) -> Row | None:
    category = versions[0].category
    if way == "absent style":
        return _row(draw.choice(say.ABSENT_STYLE), [], None)
    if way == "nothing wanted":
        return _row(draw.choice(say.NOTHING_WANTED), [], None)
    if way == "off topic":
        return _row(draw.choice(say.OFF_TOPIC), [], None)
    if way == "absent subject":
        frame, what = draw.choice(say.ABSENT_SUBJECT), draw.choice(say.ABSENT)
        return _row(frame.format(what=what, scene=draw.choice(ABSENT_SCENES)), [], None)
    if way == "absent version":
        number = draw.randint(VERSIONS + 1, 3 * VERSIONS)
        absent = Trained(category, number, TODAY, "", "", "", 0)
        return _row(fill(say.ABSENT_VERSION, absent, draw), [], None)
    long_ago = date(draw.randint(2015, 2018), draw.randint(1, 12), 1)
    return _row(fill(say.ABSENT_DATE, Trained(category, 1, long_ago, "", "", "", 0), draw), [], None)


def _answer(meant: Trained, pool: Sequence[Trained], draw: random.Random) -> str:
    """A reply that fits `meant` and nothing else in `pool`."""
    ways = [say.BY_NUMBER, say.BY_NUMBER]
    ways += [say.BY_DAY] if _alone(meant, pool, "made") else []
    for frames, fields in (
        (say.BY_LIGHT, ("light",)),
        (say.BY_STEPS, ("steps",)),
        (say.BY_SET, ("dataset",)),
        (say.BY_LOOK_AND_LIGHT, ("look", "light")),
    ):
        ways += [frames] if _alone(meant, pool, *fields) else []
    ways += [say.BY_NEWEST] if meant is pool[-1] else []
    ways += [say.BY_OLDEST] if meant is pool[0] else []
    return fill(draw.choice(ways), meant, draw)


def _alone(meant: Trained, pool: Sequence[Trained], *fields: str) -> bool:
    """Whether no other version in `pool` has the same fields."""
    return not any(
        all(getattr(each, name) == getattr(meant, name) for name in fields) for each in pool if each is not meant
    )
