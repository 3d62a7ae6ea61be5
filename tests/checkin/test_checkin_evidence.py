"""What an answer must say to be a choice: real answers choose, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from personalq.catalog.index import load_catalog
from personalq.checkin.answer import beyond, clicked, numeral, refers, with_digits
from personalq.checkin.dialogue import CheckIn, Pending, pending
from personalq.checkin.evidence import Standing, speaks_for
from personalq.errors import RequestError
from personalq.records import Checkpoint, NoMatch, Option, Question, Request, Selection

SAMPLE = Path(__file__).parents[2] / "sample_repo"
DOGS = {"biscuit-dog", "clover-dog", "rosie-dog"}
OPTIONS = (Option("o1", "Luna cat", ("l",)), Option("o2", "Mint", ("m",)), Option("none", "None of these", ()))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> CheckIn:
    cache = tmp_path_factory.mktemp("sample")
    return CheckIn(load_catalog(SAMPLE, cache).checkpoints, cache)


@pytest.fixture(scope="module")
def dogs(sample: CheckIn) -> Pending:
    """A question about the three dogs of the embedded repository."""
    request = Request("my dog")
    question = sample.ask(request)
    assert isinstance(question, Question)
    assert {each for option in question.options for each in option.checkpoint_ids} == DOGS
    return pending(request, question)


def dog(id_: str, breed: str, day: str, looks: str) -> Checkpoint:
    return Checkpoint(
        id=id_, name=id_.title(), triggers=(f"{id_}x dog",), class_noun="dog", role="subject", created_at=day,
        description=f"Our {breed}, {looks}.", tags=("dog", breed),
    )  # fmt: skip


@pytest.fixture(scope="module")
def breeds(cache: Path) -> tuple[CheckIn, Pending]:
    checkin = CheckIn(
        (
            dog("waldo", "corgi", "2025-03-02", "a brown dog with short legs"),
            dog("bella", "poodle", "2025-06-09", "a white dog, painted in watercolour"),
            dog("rufus", "terrier", "2025-09-21", "a black dog who likes sticks"),
        ),
        cache,
    )
    request = Request("my dog at the beach", as_of="2026-01-15")
    question = checkin.ask(request)
    assert isinstance(question, Question)
    return checkin, pending(request, question)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("biscit", "biscuit-dog"),
        ("rosy", "rosie-dog"),
        ("clovr", "clover-dog"),
        ("the blue one", "biscuit-dog"),
        ("the blue dog", "biscuit-dog"),
        ("blue bandana", "rosie-dog"),
        ("number 2 please", "biscuit-dog"),
        ("the pink one", "rosie-dog"),
        ("red bandana", "biscuit-dog"),
        ("the one with the star", "biscuit-dog"),
        ("the cookie one", "biscuit-dog"),
        ("my friend's", "rosie-dog"),
        ("the one with the party hat", "clover-dog"),
        ("the dog in the red scarf", "biscuit-dog"),
        ("zwx dog", "biscuit-dog"),
        ("nova rocket", "nova-rocket"),
        ("the star mug on a table", "star-mug"),
    ],
)
def test_what_says_which_is_taken(sample: CheckIn, dogs: Pending, answer: str, wanted: str) -> None:
    decision = sample.answer(dogs, answer)
    assert isinstance(decision, Selection), decision
    assert [each.id for each in decision.checkpoints] == [wanted]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("the brown one", "waldo"),
        ("corgi", "waldo"),
        ("the one from March", "waldo"),
        ("watercolour one", "bella"),
        ("the newest one", "rufus"),
        ("not the corgi and not the poodle", "rufus"),
    ],
)
def test_looks_breeds_and_dates_say_which(breeds: tuple[CheckIn, Pending], answer: str, wanted: str) -> None:
    decision = breeds[0].answer(breeds[1], answer)
    assert isinstance(decision, Selection), decision
    assert [each.id for each in decision.checkpoints] == [wanted]


@pytest.mark.parametrize(
    "answer",
    [
        "banana spaceship", "asdf qwer", "xyzzy plugh", "fluffy wuffy", "purple monkey dishwasher", "the spaniel",
        "a labrador retriever", "the brown one", "puppy", "dog", "my dog", "the cute one", "my horse on the moon",
    ],
)  # fmt: skip
def test_what_says_nothing_of_one_picks_nothing(sample: CheckIn, dogs: Pending, answer: str) -> None:
    decision = sample.answer(dogs, answer)
    assert isinstance(decision, NoMatch), decision
    assert {each.checkpoint.id for each in decision.nearest} == DOGS


@pytest.mark.parametrize(
    "answer", ["-1", "+7", "\u22121", "- 2", "0", "9", "1.5", "100", "number five", "seven", "the fifth one"]
)
def test_a_number_that_is_no_option_is_refused(sample: CheckIn, dogs: Pending, answer: str) -> None:
    with pytest.raises(RequestError, match="no option"):
        sample.answer(dogs, answer)


def test_a_new_request_that_is_open_is_asked_about_itself(sample: CheckIn, dogs: Pending) -> None:
    decision = sample.answer(dogs, "my cat in the garden")
    assert isinstance(decision, Question)
    assert {each for option in decision.options for each in option.checkpoint_ids} == {"luna-cat", "mint-cat"}


def test_a_word_that_holds_for_every_option_is_no_click() -> None:
    assert clicked("cat", OPTIONS, {"cat"}) is None
    assert clicked("luna cat please", OPTIONS, {"cat"}) == OPTIONS[0]
    assert clicked("Luna cat", OPTIONS, {"luna", "cat"}) == OPTIONS[0]


def test_numbers_and_pronouns_are_told_apart() -> None:
    assert all(beyond(text, OPTIONS) for text in ("-1", "+1", "3", "0")) and not beyond("2", OPTIONS)
    assert numeral("2500") and numeral("the fifth one") and not numeral("v2") and not numeral("the brown one")
    assert refers("the brown one") and refers("one with a hat") and not refers("number one") and not refers("one dog")
    assert with_digits("the brown one, number five") == "the brown one, number 5"


def test_evidence_is_a_margin_and_not_a_height() -> None:
    low, high = Standing(0.0, 0.3, -8.0), Standing(0.9, 0.6, 4.0)
    assert speaks_for(high, [low]) and not speaks_for(high, [low, high]) and not speaks_for(low, [low])
    assert not speaks_for(Standing(0.0, 0.3, -2.0), [low]), "ahead, but it fits no better than none"
    assert speaks_for(Standing(0.0, 0.45, -2.0), [low]), "ahead and nearer"
    assert not speaks_for(high, []), "one thing alone is not chosen among others"
