"""The posterior, the worth of a question, and the reading of answers, on numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from personalq.checkin.answer import clicked, indifferent, with_digits
from personalq.checkin.posterior import posterior
from personalq.checkin.question import best_question
from personalq.checkin.ranking import Model, Ranking
from personalq.records import Candidate, Checkpoint, Intent, Option


def ranking(shares: dict[str, float], **fields: dict[str, str]) -> Ranking:
    candidates = [
        Candidate(
            Checkpoint(name, name=name.title(), triggers=(f"trg{name}",), **{f: v[name] for f, v in fields.items()}),
            probability=share,
        )
        for name, share in shares.items()
    ]
    models = tuple(Model(item.checkpoint.id, item.probability, item) for item in candidates)
    return Ranking(Intent("a dog", "dog"), tuple(candidates), models, 1 - sum(shares.values()))


def test_versions_share_what_their_model_earns() -> None:
    shares, none = posterior([2.0, 2.0, 2.0], ["a", "a", "b"], 1.0, 2.0)
    assert shares.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3])
    assert none == pytest.approx(1 / 3)
    assert posterior([], [], 1.0, 0.0)[1] == 1.0


def test_the_posterior_survives_huge_logits() -> None:
    shares, none = posterior([1e4, -1e4], ["a", "b"], 1.0, 0.0)
    assert shares.tolist() == [1.0, 0.0]
    assert none == 0.0


def test_the_value_of_a_question_is_what_an_answer_adds() -> None:
    worth = best_question(ranking({"ant": 0.4, "bee": 0.4}))
    assert worth is not None
    assert worth.value == pytest.approx(0.4 + 0.4 + 0.2 - 0.4)
    shares = np.array([0.4, 0.4, 0.2])
    assert worth.gain == pytest.approx(float(-(shares * np.log(shares)).sum()))


def test_an_attribute_that_splits_evenly_beats_four_of_many_names() -> None:
    names = [f"m{number}" for number in range(12)]
    bases = {name: ("SD 1.5", "SDXL 1.0", "FLUX.1-dev", "tiny-sd")[at % 4] for at, name in enumerate(names)}
    worth = best_question(ranking(dict.fromkeys(names, 0.08), base=bases))
    assert worth is not None
    assert {option.label for option in worth.question.options[:-1]} == set(bases.values())
    assert len(worth.question.options) == 5
    assert sorted(each for option in worth.question.options for each in option.checkpoint_ids) == sorted(names)


def test_names_that_agree_are_told_apart() -> None:
    found = ranking({"ant": 0.4, "bee": 0.4}, base={"ant": "SD 1.5", "bee": "SDXL 1.0"})
    same = [
        Candidate(Checkpoint(m.group, name="Rex", base=m.best.checkpoint.base), probability=0.4) for m in found.models
    ]
    models = tuple(Model(item.checkpoint.id, 0.4, item) for item in same)
    worth = best_question(Ranking(found.intent, tuple(same), models, 0.2))
    assert worth is not None
    assert len({option.label for option in worth.question.options}) == 3


def test_nothing_to_ask_about_one_model() -> None:
    assert best_question(ranking({"ant": 0.6})) is None


OPTIONS = (
    Option("name-1", "Biscuit", ("biscuit",)),
    Option("name-2", "Pepper (SDXL 1.0)", ("pepper",)),
    Option("name-3", "Bongodog", ("bongo",)),
    Option("none", "None of these", ()),
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name-2", "name-2"),
        ("none of these", "none"),
        ("neither", "none"),
        ("the second one", "name-2"),
        ("2", "name-2"),
        ("#3", "name-3"),
        ("last", "name-3"),
        ("number four", None),
        ("the bongo", "name-3"),
        ("bisciut", "name-1"),
        ("biscuit or pepper", None),
        ("a green mug", None),
    ],
)
def test_answers(text: str, wanted: str | None) -> None:
    found = clicked(text, OPTIONS)
    assert (found.id if found else None) == wanted


def test_indifference_and_number_words() -> None:
    assert indifferent("You choose!")
    assert indifferent("i don’t know")
    assert not indifferent("any dog but biscuit")
    assert with_digits("number five") == "number 5"
