"""The HTML panels about pictures."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import pytest
from page_tags import EVIL, Tags
from PIL import Image
from scripted_desk import OWN, PIP, made

from personalq.records import Checkpoint, Job
from personalq.ui import pictures
from personalq.ui.keepsakes import LONGEST, MOST_VOTES, Kept, remembered

WEBP = "data:image/webp;base64,AAAA"


def entry(job: Job | None = None, **given: Any) -> dict[str, Any]:
    job = job or Job("zwx dog", seed=7, steps=9, checkpoints=((PIP, 1.0),))
    return {**remembered(made(job, "reference", 0), WEBP, "nf4"), **given}


# --- small pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (200, 0, 0)), ("RGBA", (200, 0, 0, 255)), ("L", 76)])
def test_a_picture_becomes_small_and_inline(mode: str, colour: Any) -> None:
    address = pictures.inline(Image.new(mode, (600, 300), colour))
    kind, _, data = address.partition(",")
    small = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/webp;base64" and small.size == (128, 64)
    assert pictures.inline(Image.new("RGB", (9, 9)), 4) != address


def test_a_picture_is_not_changed_by_its_small_one() -> None:
    picture = Image.new("RGB", (600, 300))
    pictures.inline(picture, 64)
    assert picture.size == (600, 300)


@pytest.mark.parametrize("side", [64, 128])
def test_a_noisy_picture_still_fits_into_an_entry(side: int) -> None:
    noise = Image.effect_noise((512, 512), 200).convert("RGB")
    assert len(pictures.inline(noise, side)) <= LONGEST["thumb"]


# --- batch, legend, grid -----------------------------------------------------------------------


def test_the_strip_is_a_button_for_each_picture() -> None:
    page = Tags(pictures.strip([WEBP, '">' + EVIL, WEBP], 1))
    buttons = page.all("button")
    assert [one["data-index"] for one in buttons] == ["0", "1", "2"]
    assert [one["aria-pressed"] for one in buttons] == ["false", "true", "false"]
    assert buttons[1]["aria-label"] == "Picture 2 of 3"
    assert [one["src"] for one in page.all("img")] == [WEBP, '">' + EVIL, WEBP]
    assert pictures.strip([], 0) == ""


def test_the_legend_tells_the_difference_in_numbers() -> None:
    text = Tags(pictures.legend(31.42, 1.53, 200.4, 40)).text
    for words in ("PSNR 31.4 dB", "mean difference 1.5", "largest 200 of 255", "40 of 255 and more"):
        assert words in text
    same = Tags(pictures.legend(math.inf, 0, 0, 8)).text
    assert "identical" in same and "inf" not in same.lower()


def test_the_grid_has_a_place_for_every_picture() -> None:
    page = Tags(pictures.grid({(0, 0): WEBP, (1, 2): '">' + EVIL}, [0, 0.5], ["Full", EVIL, "NF4"]))
    images = page.all("img")
    assert len(page.all("td")) == 6 and len(images) == 2
    assert images[0]["alt"] == "Full at weight 0" and images[1]["alt"] == "NF4 at weight 0.5"
    assert images[1]["src"] == '">' + EVIL
    assert [one["scope"] for one in page.all("th")] == ["col"] * 4 + ["row"] * 2
    assert EVIL in page.text


def test_an_empty_grid_is_all_places() -> None:
    page = Tags(pictures.grid({}, [-1, 1e-7, 1], ["A"]))
    assert not page.all("img") and len(page.all("td")) == 3 and "1e-07" in page.text


# --- history -----------------------------------------------------------------------------------


def test_the_history_shows_favourites_first_and_keeps_their_places() -> None:
    entries = [entry(), entry(favourite=True), entry()]
    page = Tags(pictures.history(entries))
    assert page.text.index("Favourites") < page.text.index("Made before")
    places = [(one["data-index"], one["data-action"]) for one in page.all("button")]
    assert places == [(str(i), action) for i in (1, 0, 2) for action in ("use", "love", "drop")]
    assert [one["aria-pressed"] for one in page.all("button") if one["data-action"] == "love"] == [
        "true", "false", "false",
    ]  # fmt: skip


def test_an_entry_tells_how_its_picture_was_made() -> None:
    page = Tags(pictures.history([entry()]))
    for words in ("zwx dog", "Pip", "seed 7", "9 steps", "NF4 4-bit"):
        assert words in page.text
    assert page.all("img")[0]["src"] == WEBP
    assert "no concept" in pictures.history([entry(Job("a cat"))])
    nameless = Checkpoint("some-id")
    assert "some-id" in pictures.history([entry(Job("a cat", checkpoints=((nameless, 1.0),)))])


def test_an_empty_history_says_what_will_be_there() -> None:
    assert "in this browser only" in Tags(pictures.history(())).text
    for entries in ([entry()], [entry(favourite=True)]):
        assert len(Tags(pictures.history(entries)).all("h2")) == 1


@pytest.mark.parametrize(
    "thumb",
    ["https://example.com/x.png", "javascript:alert(1)", "data:text/html,<script>", " " + WEBP, "data:image/svg+xml,x"],
)
def test_no_address_but_a_picture_of_ours_is_opened(thumb: str) -> None:
    (shown,) = Tags(pictures.history([entry(thumb=thumb)])).all("img")
    assert shown["src"] == ""


@pytest.mark.parametrize("name", ["prompt", "thumb", "precision", "when", "name", "id", "title"])
def test_no_text_of_an_entry_becomes_markup(name: str) -> None:
    data = entry()["data"]
    concept = {**data["concepts"][0], **({name: EVIL[:300]} if name in ("name", "id") else {})}
    hostile = {
        "data": {**data, "prompt": EVIL if name == "prompt" else "x", "concepts": [concept]},
        **({name: (WEBP if name == "thumb" else "") + EVIL[:36]} if name in LONGEST else {}),
    }
    kept = Kept.of({"history": [entry(**hostile)]})
    page = Tags(pictures.history(kept.history))
    assert [one["src"] for one in page.all("img")] == [kept.history[0]["thumb"]]
    if name in ("prompt", "name"):
        assert EVIL in page.text


# --- own concepts ------------------------------------------------------------------------------


def test_own_concepts_can_be_used_and_removed() -> None:
    page = Tags(pictures.own([OWN, Checkpoint("own-2")]))
    for words in ("Mine", "qvz cat", "tiny-sd", "own-2", "no trigger", "base unknown", "licence unknown"):
        assert words in page.text
    assert [(one["data-index"], one["data-action"]) for one in page.all("button")] == [
        ("0", "use"), ("0", "drop"), ("1", "use"), ("1", "drop"),
    ]  # fmt: skip
    assert pictures.own(()) == ""


def test_no_text_of_an_own_concept_becomes_markup() -> None:
    page = Tags(pictures.own([Checkpoint(EVIL, EVIL, triggers=(EVIL,), base=EVIL, license=EVIL)]))
    assert not page.all("img") and page.text.count(EVIL) == 4


# --- votes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        (0, 0, 1), (1, 0, 1), (1, 1, 1), (5, 5, 1), (6, 5, 1), (0, 5, 0.0625), (0, 6, 0.03125), (8, 2, 0.109375),
        (9, 1, 0.021484375), (10, 0, 0.001953125), (15, 5, 0.04138946533203125),
    ],
)  # fmt: skip
def test_the_sign_test_gives_the_known_values(a: int, b: int, p: float) -> None:
    assert pictures.sign_test(a, b) == pictures.sign_test(b, a) == p


def test_the_sign_test_holds_for_as_many_votes_as_are_kept() -> None:
    assert pictures.sign_test(MOST_VOTES, MOST_VOTES) == 1
    assert 0 < pictures.sign_test(0, MOST_VOTES) < 1e-290 and 0 < pictures.sign_test(480, 560) < 0.05


def test_the_tally_is_a_row_for_each_precision() -> None:
    votes = {"nf4": {"reference": 9, "quantised": 1, "same": 4}, EVIL: {"same": 2}}
    page = Tags(pictures.tally(votes))
    cells = page.all("td")
    assert len(cells) == 8 and "NF4 4-bit9140.02" in page.text and f"{EVIL}0021.00" in page.text
    assert "No blind votes yet" in pictures.tally({})


def test_a_small_p_is_never_said_to_be_nothing() -> None:
    assert "< 0.01" in Tags(pictures.tally({"nf4": {"reference": 30}})).text
