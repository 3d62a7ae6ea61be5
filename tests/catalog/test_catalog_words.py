"""Bases, versions, dates, triggers and descriptions: text in, text out."""

import pytest

from personalq.catalog.bases import family, normal_base
from personalq.catalog.clean import description
from personalq.catalog.triggers import insertable, stated_in
from personalq.catalog.versions import iso_date, ordinal, slug, split_version


@pytest.mark.parametrize(
    ("stored", "normal"),
    [
        ("SD 1.5", "SD 1.5"), ("SD1", "SD 1.5"), ("sd_v1", "SD 1.5"), ("runwayml/stable-diffusion-v1-5", "SD 1.5"),
        ("stable diffusion 1", "SD 1.5"), ("CompVis/stable-diffusion-v1-4", "SD 1.4"), ("SD 2.1 768", "SD 2.1 768"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "SDXL 1.0"), ("sdxl_base_v1-0", "SDXL 1.0"), ("SDXL", "SDXL 1.0"),
        ("stable-diffusion-xl-v1-base", "SDXL 1.0"), ("sdxl_base_v0.9", "SDXL 1.0"), ("Flux.1 D", "FLUX.1-dev"),
        ("black-forest-labs/FLUX.1-dev", "FLUX.1-dev"), ("tiny-sd", "tiny-sd"), ("someone/tiny-sd", "tiny-sd"),
        ("../../bases/tiny-sd", "tiny-sd"), ("..\\bases\\tiny-sd\\", "tiny-sd"), ("tiny-sd.safetensors", "tiny-sd"),
        ("Other", None), ("Unknown", None), ("", None), ("None", None), ("290640.safetensors", None), ("/", None),
        ("Stable Diffusion (card gives no version)", "Stable Diffusion"),
    ],
)  # fmt: skip
def test_bases_have_one_normal_form(stored, normal):
    assert normal_base(stored) == normal
    assert normal is None or normal_base(normal) == normal


def test_families_join_bases_whose_adapters_fit():
    assert family("SD 1.4") == family("SD 1.5") != family("SDXL 1.0")
    assert family("tiny-sd") == "tiny-sd"


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("v1.0", 1), ("1", 1), ("v12", 12), ("V 2.0", 2), ("v.1", 1), ("Ver.5", 5), ("v1.60-beta", 1.6), ("v1a", 1),
        ("OilPaintV3", 3), ("v3 (chibi)", 3), ("SD 2.1 - 1.0", 1), ("paint_3", 3), ("001", 1), ("v1-e18", 1),
        ("SD 1.5", None), ("768", None), ("6000 steps", None), ("beta", None), ("", None), (None, None), ("9MB", None),
    ],
)  # fmt: skip
def test_version_names_state_a_number(version, number):
    assert ordinal(version) == number


@pytest.mark.parametrize(
    ("name", "lineage", "version"),
    [
        ("Biscuit v2", "Biscuit", "v2"), ("biscuit_2024-03", "biscuit", "2024-03"), ("fox-v12", "fox", "v12"),
        ("biscuit-v2-2024-03-01", "biscuit", "v2"), ("robe_v2-000003", "robe", "v2"), ("Robe [v1.0]", "Robe", "v1.0"),
        ("Biscuit", "Biscuit", None), ("v2", "v2", None), ("2024", "2024", None), ("nova-x7", "nova-x7", None),
    ],
)  # fmt: skip
def test_names_split_into_lineage_and_version(name, lineage, version):
    assert split_version(name) == (lineage, version)


@pytest.mark.parametrize(
    ("stored", "day"),
    [
        ("2023-06-16T13:24:17.736Z", "2023-06-16"), ("1726066908.2484195", "2024-09-11"), ("2024-2-3", "2024-02-03"),
        ("1970-01-01", None), ("2023-13-40", None), ("99999999999999999999", None), ("0", None), ("soon", None),
        ("12345678901234567", None),
    ],
)  # fmt: skip
def test_dates_are_days_or_nothing(stored, day):
    assert iso_date(stored) == day


def test_slugs_keep_letters_of_any_script():
    assert slug("Daoist_Robe v1!") == "daoist-robe-v1"
    assert slug("狸花猫 Cat") == "狸花猫-cat"
    assert slug("../..") == ""


@pytest.mark.parametrize(
    ("stored", "triggers"),
    [
        ("a photo of zwx dog", ("zwx dog",)), ("photo of a qvz mug", ("qvz mug",)), ("zwx_dog, ", ("zwx_dog",)),
        ("'a TOK emoticon'", ("a TOK emoticon",)), ("<s0><s1>", ("<s0><s1>",)), ("<x7> rocket", ("<x7> rocket",)),
        ("<lora:zwx:0.7>", ()), ("<zwx_v1:1>", ()), ("zwx dog <lora:zwx:1>", ("zwx dog",)), ("none", ()), ("None", ()),
        ("one || two", ("one", "two")), ("v3ct, vector", ("v3ct, vector",)), ("  ", ()), (",,", ()), ("zw\u202ed", ()),
        ("zwx style [your image subject]", ("zwx style",)), (":3", (":3",)),
        ("cat," + ",".join(f"zwxword{i}" for i in range(9)), ("zwxword0",)),
    ],
)  # fmt: skip
def test_triggers_are_pieces_of_what_is_stored(stored, triggers):
    assert insertable(stored) == triggers
    assert all(trigger in stored for trigger in triggers)


@pytest.mark.parametrize(
    ("text", "triggers"),
    [
        ("Trigger word: zwxdog", ("zwxdog",)), ("Trigger words: `zwx dog` and more", ("zwx dog",)),
        ("You should use `<plum>` to trigger the image generation.", ("<plum>",)), ("触发词：zwxmao", ("zwxmao",)),
        ("There is no trigger word.", ()), ("Trigger word: none", ()), ("This will trigger a flood of dogs", ()),
    ],
)  # fmt: skip
def test_descriptions_state_triggers_only_in_so_many_words(text, triggers):
    assert stated_in(text) == triggers


def test_descriptions_lose_markup_and_promotion_but_keep_tokens():
    stored = (
        "<h2>Zwx &amp; friends</h2><p>Type <strong>&lt;zwx&gt;</strong> or <zwx> for a blue_dog.<br/>"
        "Support me on <a href='https://patreon.com/x'>Patreon</a>!</p><!-- hidden --><script>alert(1)</script>"
        "\n# Use\n- **Bold** [link](https://example.org) at https://example.org/x\n![pic](x.png)\nJoin my Discord!"
    )
    assert description(stored).splitlines() == [
        "Zwx & friends", "Type <zwx> or <zwx> for a blue_dog.", "Use", "Bold link at",
    ]  # fmt: skip


def test_cleaning_hostile_text_stays_fast():
    for piece in ("<!--", "[a](", "**a", "<p ", "`", "![", "```\n", "<script>"):
        assert isinstance(description(piece * 200_000), str)
