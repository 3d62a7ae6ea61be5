from dataclasses import replace

import pytest

from personalq.catalog.facts import Facts
from personalq.catalog.merge import TRIGGER_ORDER, merge

LORA = Facts("weights", kind="lora")


def test_triggers_are_believed_in_the_order_of_the_design():
    facts = [Facts(source, triggers=(f"word-{source}",)) for source in reversed(TRIGGER_ORDER)]
    while facts:
        best = min(facts, key=lambda item: TRIGGER_ORDER.index(item.source))
        found = merge([LORA, *facts], "x")
        assert (found.triggers[0], found.trigger_sources[0]) == (f"word-{best.source}", best.source)
        facts.remove(best)
    assert TRIGGER_ORDER.index("a1111") < TRIGGER_ORDER.index("civitai") < TRIGGER_ORDER.index("modelspec")
    assert TRIGGER_ORDER.index("modelspec") < TRIGGER_ORDER.index("card") < TRIGGER_ORDER.index("embedding")


def test_description_phrases_count_only_when_nothing_else_does():
    told = Facts("a1111", description="Trigger word: zwxword")
    assert merge([LORA, told], "x").trigger_sources == ("description",)
    assert merge([LORA, told, Facts("embedding", triggers=("token",))], "x").triggers == ("token",)


def test_tags_and_output_names_are_never_triggers():
    kohya = Facts("kohya", name="zwxword", tags=("1girl", "zwxtag"), aliases=("zwxword",))
    assert merge([LORA, kohya], "x").triggers == ()


def test_everyday_words_give_way_to_rarer_ones():
    assert merge([LORA, Facts("civitai", triggers=("cat", "lihuacat"))], "x").triggers == ("lihuacat", "cat")


def test_a_joined_list_of_known_triggers_is_taken_apart():
    facts = [LORA, Facts("a1111", triggers=("tusun, tusuncub",)), Facts("civitai", triggers=("tusun", "tusuncub"))]
    assert merge(facts, "x").triggers == ("tusun", "tusuncub")
    assert merge(facts[:2], "x").triggers == ("tusun, tusuncub",)


def test_training_dates_come_before_upload_dates():
    civitai = Facts("civitai", uploaded_at="2024-05-05T00:00:00Z")
    kohya = Facts("kohya", trained_at="1709900000")
    modelspec = Facts("modelspec", trained_at="2024-03-01")
    assert merge([LORA, civitai], "x").created_at == "2024-05-05"
    assert merge([LORA, civitai, kohya], "x").created_at == "2024-03-08"
    assert merge([LORA, civitai, kohya, modelspec], "x").created_at == "2024-03-01"
    assert merge([LORA], "x").created_at is None


def test_unknown_bases_are_unknown_and_local_ones_win():
    other, header = Facts("civitai", bases=("Other",)), Facts("kohya", bases=("sd_v1",), base_hints=("tiny-sd",))
    assert merge([LORA, other], "x").base is None
    assert merge([LORA, other, header], "x").base == "SD 1.5"
    assert merge([LORA, other, header], "x", {"tiny-sd"}).base == "tiny-sd"
    assert merge([LORA, Facts("kohya", base_hints=("anything-mix",))], "x").base is None
    vague = Facts("card", bases=("Stable Diffusion",))
    assert merge([LORA, vague, header], "x").base == "SD 1.5" and merge([LORA, vague], "x").base == "Stable Diffusion"


@pytest.mark.parametrize(
    ("name", "facts", "role"),
    [
        ("Slider", Facts("a1111", triggers=("zwx turtle",)), "subject"),
        ("Slider the turtle", Facts("a1111", description="My turtle."), "subject"),
        ("Age slider", Facts("a1111", description="A concept slider."), "utility"),
        ("SDXL Lightning 4-Step", Facts("draw-things"), "utility"),
        ("EasyNegative", replace(LORA, kind="ti", triggers=("EasyNegative",)), "utility"),
        ("Duotone", Facts("card", triggers=("duotoneink style",)), "style"),
        ("Zwx", Facts("card", triggers=("zwx",)), "unknown"),
    ],
)
def test_one_word_is_no_proof_of_a_tool(name, facts, role):
    assert merge([replace(LORA, kind=facts.kind or "lora"), facts], name).role == role


def test_renamed_files_keep_both_names():
    kohya = Facts("kohya", name="original", aliases=("original",))
    found = merge([LORA, kohya, Facts("civitai", name="Title")], "renamed_v2")
    assert found.name == "Title" and set(found.aliases) == {"renamed_v2", "original"} and found.version == "v2"
