"""The first requests offered on the empty page."""

from personalq.records import Checkpoint
from personalq.ui.starters import LONGEST, starters


def dog(number: int) -> Checkpoint:
    return Checkpoint(f"dog{number}", f"Dog {number}", class_noun="dog", role="subject", group_id=f"dog{number}")


CUP = Checkpoint("cup", "Star cup", class_noun="cup", role="subject", group_id="cup")
HAT = Checkpoint("hat", "Red hat", class_noun="hat", role="subject", group_id="hat")
INK = Checkpoint("ink", "Ink wash", role="style", group_id="ink")


def test_an_ambiguous_noun_comes_first_and_a_style_last() -> None:
    found = starters([CUP, dog(1), INK, dog(2), HAT])
    assert found[0].startswith("my dog ")
    assert found[1].startswith("Star cup ") and found[2].startswith("Red hat ")
    assert "Ink wash" in found[3] and len(found) == 4


def test_versions_of_one_model_are_not_ambiguous() -> None:
    versions = [Checkpoint(f"v{i}", "Pip", class_noun="dog", role="subject", group_id="pip") for i in range(3)]
    assert all(not request.startswith("my ") for request in starters([*versions, CUP]))


def test_requests_differ_and_small_catalogues_give_fewer() -> None:
    many = starters([dog(i) for i in range(9)])
    assert len(many) == 4 == len(set(many))
    assert len(starters([CUP])) == 1
    assert starters([]) == []


def test_other_catalogues_give_other_requests() -> None:
    assert not set(starters([CUP, HAT])) & set(starters([dog(1), dog(2)]))


def test_unreadable_names_are_not_offered() -> None:
    bad = [Checkpoint("a", "x" * (LONGEST + 1)), Checkpoint("b", "line\nbreak"), Checkpoint("c", "Dud", loadable=False)]
    assert starters(bad) == []
