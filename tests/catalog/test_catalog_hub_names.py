import pytest

from personalq.catalog.hub_names import HubName, Place, hub_name, place, unsafe
from personalq.errors import CatalogError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hub:fox-lab/frost_fox.v2", HubName("model", "fox-lab/frost_fox.v2")),
        ("hub:collection/fox-lab/pets-65a1b2", HubName("collection", "fox-lab/pets-65a1b2")),
        ("hub:user/Fox-Lab", HubName("user", "Fox-Lab")),
        ("sample_repo", None),
        ("/data/hub", None),
    ],
)
def test_names_of_the_hub_are_told_from_folders(text, name):
    assert hub_name(text) == name
    assert name is None or str(name) == text


@pytest.mark.parametrize(
    "text",
    ["hub:", "hub:fox", "hub:a/b/c", "hub:../b", "hub:a/..", "hub:a/b..c", "hub:collection/pets", "hub:user/",
     "hub:user/a/b", "hub:a/b@main", "hub:a b/c", "hub:-a/b", "hub:a/" + "b" * 200, "hub:https://example.org/a/b"],
)  # fmt: skip
def test_what_names_nothing_is_an_error_that_shows_how(text):
    with pytest.raises(CatalogError, match="hub:owner/name"):
        hub_name(text)


def test_places_are_text_and_back():
    at = Place("fox-lab/frost", COMMIT, "unet/diffusion_pytorch_model.safetensors")
    assert str(at) == f"hub:fox-lab/frost@{COMMIT}/unet/diffusion_pytorch_model.safetensors"
    assert place(str(at)) == at


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "", "C:\\x", "a\\..\\b", "c:x", "a\nb", "a\0b",
     "a\u202eb", " a", "a /b", "x" * 600, "a\ud800"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_unsafe(path):
    assert unsafe(path)
    assert place(f"hub:fox-lab/frost@{COMMIT}/{path}") is None


@pytest.mark.parametrize(
    "text", ["/data/fox.safetensors", "hub:fox-lab/frost@main/x", f"hub:fox@{COMMIT}/x", f"hub:a/..@{COMMIT}/x"]
)
def test_other_texts_are_no_places(text):
    assert place(text) is None
