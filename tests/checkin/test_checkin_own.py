"""A visitor's own checkpoints: found by that visitor alone, and written nowhere."""

from pathlib import Path

import pytest
from small_catalogue import CATALOGUE

from personalq.checkin.dialogue import CheckIn
from personalq.errors import CatalogError, UnknownCheckpointError
from personalq.records import Checkpoint, NoMatch, Request, Selection

OWN = Checkpoint("own-1", "Quokka Ziggurat", triggers=("zgrt quokka",), class_noun="quokka", base="Zork-9")
REQUEST = Request("the quokka ziggurat on a beach")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[CheckIn, Path]:
    folder = tmp_path_factory.mktemp("cache")
    return CheckIn(CATALOGUE, cache=folder), folder


def test_the_visitor_finds_both_and_nobody_else_does(shared: tuple[CheckIn, Path]) -> None:
    public, _ = shared
    mine = public.with_own((OWN,))
    found = mine.ask(REQUEST)
    assert isinstance(found, Selection) and found.checkpoints == (OWN,) and "zgrt quokka" in found.prompt
    assert mine.choose(REQUEST, CATALOGUE[0].id).checkpoints[0] == CATALOGUE[0]
    assert isinstance(public.ask(REQUEST), NoMatch)
    with pytest.raises(UnknownCheckpointError):
        public.choose(REQUEST, OWN.id)
    assert isinstance(public.with_own((Checkpoint("own-2", "Lighthouse"),)).ask(REQUEST), NoMatch)


def test_nothing_of_it_reaches_the_disk_or_the_shared_vocabulary(shared: tuple[CheckIn, Path]) -> None:
    public, folder = shared
    before, bases, nouns, count = files(folder), public.index.bases, public.index.nouns, len(public.index.checkpoints)
    rarity = public.index.rarity("quokka")
    public.with_own((OWN,)).ask(REQUEST)
    assert files(folder) == before
    assert (public.index.bases, public.index.nouns, len(public.index.checkpoints)) == (bases, nouns, count)
    assert public.index.rarity("quokka") == rarity and public.index.encoder.keeping


def test_the_shared_one_goes_on_growing_by_itself(shared: tuple[CheckIn, Path]) -> None:
    public, _ = shared
    mine = public.with_own((OWN,))
    public.add([Checkpoint("late", "Marzipan lantern")])
    assert "late" not in {one.id for one in mine.index.checkpoints}
    assert isinstance(mine.ask(REQUEST), Selection)
    public.remove(["late"])


def test_a_catalogue_that_is_not_in_memory_says_what_to_do(tmp_path: Path) -> None:
    large = CheckIn(CATALOGUE[:3], cache=tmp_path, store="disk")
    with pytest.raises(CatalogError, match="into the repository"):
        large.with_own((OWN,))
