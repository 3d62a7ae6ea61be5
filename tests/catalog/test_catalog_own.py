"""A file that a visitor adds: copied, then checked; what is typed wins, what is missing is asked for, nothing runs."""

import base64
import json
import os
import pickle
import re
import stat
import zipfile
from pathlib import Path

import pytest
from catalog_files import LORA, PNG, UNET, raw, weights

from personalq.catalog import own as module
from personalq.catalog.own import LIMIT, added
from personalq.catalog.untrusted import UNSAFE
from personalq.errors import BrokenFileError, CatalogError, MissingFactsError
from personalq.settings import SAMPLE_REPO

TO_K = "lora_unet_down_blocks_0_attn2_to_k.lora_{}.weight"
KOHYA = {"ss_base_model_version": "sd_v1", "ss_output_name": "frost", "ss_dataset_dirs": '{"10_zwx dog": {}}'}
MODELSPEC = {
    "modelspec.title": "Frost fox", "modelspec.trigger_phrase": "frstfx", "modelspec.architecture": "tiny-sd/lora",
    "modelspec.license": "Apache-2.0", "modelspec.description": "<b>A fox</b> of ice.", "modelspec.date": "2024-03-08",
}  # fmt: skip
TYPED = {"trigger": "zwx dog", "base": "tiny-sd"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "visitor" / "own"


def lora(width):
    return {TO_K.format("down"): (4, width), TO_K.format("up"): (320, 4)}


def contents(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- what it becomes ---------------------------------------------------------------------------


def test_the_header_says_everything(tmp_path, folder):
    path = weights(tmp_path / "fox-v2.safetensors", LORA, MODELSPEC | KOHYA)
    found = added(path, folder)
    assert (found.name, found.triggers, found.base, found.license) == (
        "Frost fox",
        ("frstfx",),
        "tiny-sd",
        "Apache-2.0",
    )
    assert (found.class_noun, found.created_at, found.kind) == ("dog", "2024-03-08", "lora")
    assert found.description == "A fox of ice."
    assert found.loadable and found.weight_sha256 and "modelspec" in found.source_format


def test_what_is_typed_is_believed_first(tmp_path, folder):
    path = weights(tmp_path / "fox.safetensors", LORA, MODELSPEC | KOHYA)
    found = added(path, folder, name="My fox", trigger="qvz", base="SD 1.5", class_noun="Fox", license="mine alone")
    assert (found.name, found.triggers, found.base) == ("My fox", ("qvz", "frstfx"), "SD 1.5")
    assert (found.class_noun, found.license) == ("fox", "mine alone")


def test_the_copy_is_what_was_sent_under_a_name_of_ours(tmp_path, folder):
    path = weights(tmp_path / "fox.safetensors", LORA, MODELSPEC)
    found = added(path, folder)
    (file,) = map(Path, found.files)
    assert file.is_absolute() and file.parent == folder and file.read_bytes() == path.read_bytes()
    assert file.name == f"{found.id}.safetensors" and re.fullmatch("own-[0-9a-f]{32}", found.id)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_same_file_twice_is_two_checkpoints_of_one_lineage(tmp_path, folder):
    path = weights(tmp_path / "fox-v1.safetensors", LORA, MODELSPEC)
    first, second = added(path, folder), added(path, folder)
    assert first.id != second.id and first.files != second.files
    assert first.group_id == second.group_id == "own:frost-fox"


def test_files_without_a_name_are_named_by_their_trigger_and_are_no_versions_of_each_other(tmp_path, folder):
    path = weights(tmp_path / "pytorch_lora_weights.safetensors")
    first, second = added(path, folder, **TYPED), added(path, folder, **TYPED)
    assert first.name == second.name == "zwx dog"
    assert first.group_id != second.group_id


def test_what_is_missing_is_named_and_nothing_is_kept(tmp_path, folder):
    path = weights(tmp_path / "fox.safetensors")
    for typed, fields in (({}, ("trigger", "base")), ({"trigger": "zwx"}, ("base",)), ({"base": "x1"}, ("trigger",))):
        with pytest.raises(MissingFactsError, match=fields[0]) as error:
            added(path, folder, **typed)
        assert error.value.fields == fields
    assert contents(folder) == []
    assert added(path, folder, **TYPED).triggers == ("zwx dog",)


@pytest.mark.parametrize("nothing", ["", " \n ", "none", "\0\x1b\u202e", "!!!", "<lora:fox:1>", "[your subject]"])
def test_a_trigger_that_says_nothing_is_missing(tmp_path, folder, nothing):
    with pytest.raises(MissingFactsError) as error:
        added(weights(tmp_path / "fox.safetensors"), folder, trigger=nothing, base="tiny-sd")
    assert error.value.fields == ("trigger",)


def test_a_typed_fact_that_is_none_is_asked_for_though_the_header_has_one(tmp_path, folder):
    path = weights(tmp_path / "fox.safetensors", LORA, MODELSPEC)
    with pytest.raises(MissingFactsError) as error:
        added(path, folder, trigger="!!!", base="???")
    assert error.value.fields == ("trigger", "base")


def test_typed_text_is_one_clean_line(tmp_path, folder):
    path = weights(tmp_path / "fox.safetensors")
    found = added(path, folder, trigger=" zwx\n\u2028dog\0 ", base="tiny\x1b-sd", name="My\tfox\u202e", license="\n")
    assert (found.triggers, found.base, found.name, found.license) == (("zwx dog",), "tiny-sd", "My fox", None)


@pytest.mark.parametrize("field", ["name", "trigger", "base", "class_noun", "license"])
def test_typed_text_that_is_too_long_is_refused(tmp_path, folder, field):
    path = weights(tmp_path / "fox.safetensors")
    for long in ("x" * 101, "x " * 10**6):
        with pytest.raises(CatalogError, match="shorten it"):
            added(path, folder, **(TYPED | {field: long}))
    assert contents(folder) == []


@pytest.mark.parametrize(("width", "base"), [(768, "SD 1.5"), (1024, "SD 2.1"), (2048, "SDXL 1.0")])
def test_the_base_shows_in_the_width_of_the_text(tmp_path, folder, width, base):
    assert added(weights(tmp_path / "a.safetensors", lora(width)), folder, trigger="zwx").base == base
    assert added(weights(tmp_path / "b.safetensors", lora(width)), folder, trigger="zwx", base="mine").base == "mine"


@pytest.mark.parametrize(
    ("shapes", "base"),
    [({"emb_params": (2, 768)}, "SD 1.5"), ({"<a>": (1, 1024)}, "SD 2.1"),
     ({"clip_l": (1, 768), "clip_g": (1, 1280)}, "SDXL 1.0")],
)  # fmt: skip
def test_a_textual_inversion_needs_nothing_typed(tmp_path, folder, shapes, base):
    found = added(weights(tmp_path / "my-token.safetensors", shapes), folder)
    assert (found.kind, found.base) == ("ti", base)
    assert found.triggers == (("<a>",) if "<a>" in shapes else ("my-token",))


def test_a_textual_inversion_is_called_by_one_word_alone(tmp_path, folder):
    found = added(weights(tmp_path / "a.safetensors", {"<a>": (1, 768)}), folder, trigger="<mine>")
    assert (found.triggers, found.trigger_sources) == (("<mine>",), ("user",))
    several = weights(tmp_path / "b.safetensors", {"<a>": (1, 768), "<b>": (1, 768)})
    assert added(several, folder, trigger="<b>").triggers == ("<b>",)
    with pytest.raises(CatalogError, match="<a>, <b>"):
        added(several, folder, trigger="<c>")


def test_an_everyday_file_name_is_no_token(tmp_path, folder):
    with pytest.raises(MissingFactsError) as error:
        added(weights(tmp_path / "learned_embeds.safetensors", {"emb_params": (1, 768)}), folder)
    assert error.value.fields == ("trigger",)


def test_a_base_that_the_tensors_contradict_is_refused(tmp_path, folder):
    path = weights(tmp_path / "a.safetensors", lora(2048))
    with pytest.raises(CatalogError, match=r"made for SDXL, not for SD 1\.5"):
        added(path, folder, trigger="zwx", base="SD 1.5")
    assert added(path, folder, trigger="zwx", base="Pony").base == "Pony"


def test_the_picture_in_the_header_becomes_a_file(tmp_path, folder):
    data = base64.b64encode(PNG).decode()
    path = weights(
        tmp_path / "a.safetensors", LORA, MODELSPEC | {"modelspec.thumbnail": f"data:image/png;base64,{data}"}
    )
    found = added(path, folder)
    assert Path(found.preview).read_bytes() == PNG and Path(found.preview).parent == folder


@pytest.mark.parametrize(
    "stored",
    [5, "", "data:image/png;base64,!!!", "data:image/svg+xml;base64,PHN2Zz4=", "https://example.org/a.png",
     "data:image/png;base64,PHN2Zz4=", "data:image/png;base64," + "A" * 3_000_000],
)  # fmt: skip
def test_another_picture_is_passed_over(tmp_path, folder, stored):
    path = weights(tmp_path / "a.safetensors", LORA, MODELSPEC | {"modelspec.thumbnail": stored})
    assert added(path, folder).preview is None
    assert len(contents(folder)) == 1


@pytest.mark.parametrize(
    "file", sorted((SAMPLE_REPO / "concepts").glob("*/*.safetensors")), ids=lambda p: p.parent.name
)
def test_every_concept_of_the_embedded_repository_can_be_added(file, folder):
    found = added(file, folder, **TYPED)
    assert found.triggers[0] == "zwx dog" and found.base == "tiny-sd"


# --- what is refused ---------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def refused(path, folder, says, error=BrokenFileError, **typed):
    with pytest.raises(error, match=says) as raised:
        added(path, folder, **(TYPED | typed))
    assert str(raised.value).isprintable() and len(str(raised.value)) < 500
    assert contents(folder) == []


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".PKL"])
def test_pickles_by_name(tmp_path, folder, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pickle.dumps(Evil()))
    refused(path, folder, "convert it to safetensors")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_by_content_are_never_opened(tmp_path, folder, protocol, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.safetensors"
    path.write_bytes(pickle.dumps(Evil(), protocol))
    refused(path, folder, "convert it to safetensors")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Evil(), protocol))
    refused(path, folder, "convert it to safetensors")
    assert not (tmp_path / "evil").exists()


def test_a_header_of_640_bytes_is_no_pickle(tmp_path, folder):
    shapes = {name: list(shape) for name, shape in LORA.items()}
    entry = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 32]} for name, shape in shapes.items()}
    path = raw(tmp_path / "a.safetensors", json.dumps(entry).encode().ljust(640), bytes(32))
    assert path.read_bytes().startswith(b"\x80\x02")
    assert added(path, folder, **TYPED).kind == "lora"


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a", "a.safetensors.zip", "a.gguf", ".safetensors"])
def test_other_files(tmp_path, folder, name):
    refused(weights(tmp_path / name), folder, "no .safetensors file")


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"model.diffusion_model.a.weight": (2, 2)}, "whole model"),
        (UNET, "neither a LoRA nor"),
        ({"lora_unet_a.hada_w1_a": (2, 2)}, "no plain LoRA"),
        ({"lora_unet_a.lokr_w1": (2, 2)}, "no plain LoRA"),
        ({"unet.a.oft_blocks": (2, 2)}, "no plain LoRA"),
        (LORA | {"lora_unet_a.dora_scale": (2, 2)}, "no plain LoRA"),
        (LORA | {"lora_unet_a.hada_w1_a": (2, 2)}, "no plain LoRA"),
        (LORA | {"text_model.embeddings.weight": (2, 2)}, "no plain LoRA"),
        ({TO_K.format("down"): (0, 8), TO_K.format("up"): (8, 0)}, "is empty"),
        ({"emb_params": (0, 768)}, "is empty"),
        ({}, "neither a LoRA nor"),
    ],
)
def test_other_kinds(tmp_path, folder, shapes, says):
    refused(
        weights(tmp_path / "a.safetensors", shapes, {"ss_output_name": "x"} if "oft" in str(shapes) else None),
        folder,
        says,
    )


def entry(name, shape, begin, end, dtype="F16"):
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


DOWN = TO_K.format("down")
HEADERS = {
    "length bomb": (b"{}", b"", 2**63), "long": (b"{}", b"", 10 * 2**30), "cut": (b"{}", b"", 500),
    "no json": (b"hello", b"", None), "deep": (b'{"a":' * 10**5, b"", None), "list": (b"[]", b"", None),
    "overlap": (json.dumps(entry(DOWN, [4], 0, 8) | entry("b.alpha", [4], 4, 12)).encode(), bytes(12), None),
    "gap": (json.dumps(entry(DOWN, [4], 8, 16)).encode(), bytes(16), None),
    "truncated": (json.dumps(entry(DOWN, [400, 4], 0, 3200)).encode(), bytes(3000), None),
    "extra": (json.dumps(entry(DOWN, [4], 0, 8)).encode(), bytes(9000), None),
    "nan": (json.dumps(entry(DOWN, [float("nan"), 4], 0, 8)).encode(), bytes(8), None),
    "infinite": (json.dumps(entry(DOWN, [4], 0, float("inf"))).encode(), bytes(8), None),
    "negative": (json.dumps(entry(DOWN, [-1, -4], 0, 8)).encode(), bytes(8), None),
    "huge side": (json.dumps(entry(DOWN, [2**62, 4], 0, 8)).encode(), bytes(8), None),
    "overflow": (json.dumps(entry(DOWN, [2**40, 2**40], 0, 2**41)).encode(), bytes(8), None),
    "digits": (b'{"a": ' + b"9" * 10_000 + b"}", b"", None),
    "long name": (json.dumps(entry("x" * 10**6, [4], 0, 8)).encode(), bytes(8), None),
    "many": (json.dumps({f"t{n}": 0 for n in range(200_000)}).encode(), b"", None),
    "metadata": (json.dumps({"__metadata__": [1], **entry(DOWN, [4], 0, 8)}).encode(), bytes(8), None),
}  # fmt: skip


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_broken_headers(tmp_path, folder, content):
    header, body, length = content
    refused(raw(tmp_path / "a.safetensors", header, body, length), folder, ".")


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_files_that_end_at_once(tmp_path, folder, size):
    path = tmp_path / "a.safetensors"
    path.write_bytes(bytes(size))
    refused(path, folder, ".")


def test_a_file_over_the_limit(tmp_path, folder):
    path = weights(tmp_path / "a.safetensors")
    size = path.stat().st_size
    assert added(path, folder / "fits", **TYPED, limit=size).id
    refused(path, folder / "over", "larger than", limit=size - 1)
    os.truncate(path, LIMIT + 1)  # sparse
    refused(path, folder / "sparse", "larger than 200 MB")


def test_links_and_folders_are_not_followed(tmp_path, folder):
    path = weights(tmp_path / "real.safetensors")
    link, inside, pipe = (tmp_path / f"{name}.safetensors" for name in ("link", "inside", "pipe"))
    link.symlink_to(path)
    inside.mkdir()
    os.mkfifo(pipe)
    for each in (link, inside, pipe):
        refused(each, folder, "no regular file")


def test_a_file_that_becomes_a_link_after_it_was_looked_at(tmp_path, folder, monkeypatch):
    path, secret = weights(tmp_path / "a.safetensors"), weights(tmp_path / "b.safetensors")
    real = os.open

    def exchanged(name, flags, *rest):
        if Path(name) == path:
            path.unlink()
            path.symlink_to(secret)
        return real(name, flags, *rest)

    monkeypatch.setattr(module.os, "open", exchanged)
    refused(path, folder, "cannot be taken", CatalogError)


def test_a_file_that_is_exchanged_after_the_copy_changes_nothing(tmp_path, folder, monkeypatch):
    path = weights(tmp_path / "a.safetensors", LORA, MODELSPEC)
    before, real = path.read_bytes(), module.read_header

    def exchanged(kept):
        path.write_bytes(pickle.dumps(Evil()))
        return real(kept)

    monkeypatch.setattr(module, "read_header", exchanged)
    assert Path(added(path, folder).files[0]).read_bytes() == before


@pytest.mark.parametrize(
    "stem", ["../../x", "..", "a\\..\\b", "x" * 240, "a\u202eb\x1b[2J", "\u732b", "<img src=x onerror=alert(1)>", "CON",
             "-rf", "a\nb", "$(id)"],
)  # fmt: skip
def test_names_of_uploads_never_become_paths(tmp_path, folder, stem):
    path = weights(tmp_path / "deep" / "er" / f"{stem}.safetensors", {"emb_params": (1, 768)})
    found = added(path, folder, trigger="zwx")
    assert contents(folder) == [f"{found.id}.safetensors"]
    texts = (found.id, found.name, *found.triggers, *found.aliases, found.group_id)
    assert not any(UNSAFE.search(text) or "\n" in text for text in texts)
    assert "<img" not in found.name


@pytest.mark.parametrize("name", ["/etc/a\0.safetensors", "x" * 300 + ".safetensors", "not/there.safetensors"])
def test_names_that_no_file_has(folder, name):
    refused(Path(name), folder, "upload it again", CatalogError)


def test_html_and_markdown_in_the_header_are_text(tmp_path, folder):
    hostile = "<script>alert(1)</script>![x](http://a/b.png) **fox** [y](javascript:z)\u202e"
    keys = ("modelspec.title", "modelspec.description", "modelspec.tags", "modelspec.license", "ss_output_name")
    path = weights(tmp_path / "a.safetensors", LORA, MODELSPEC | dict.fromkeys(keys, hostile))
    found = added(path, folder)
    assert "<script" not in found.name + found.description + "".join(found.tags)
    assert "http" not in found.description and "fox" in found.description
    assert not UNSAFE.search(found.license)


def test_huge_metadata_leaves_a_small_record(tmp_path, folder):
    huge = {f"modelspec.{key}": "x " * 500_000 for key in ("title", "description", "tags", "license", "usage_hint")}
    path = weights(tmp_path / "a.safetensors", LORA, MODELSPEC | huge)
    assert len(repr(added(path, folder))) < 30_000


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="cannot be taken"):
        added(weights(tmp_path / "a.safetensors"), tmp_path / "file" / "own", **TYPED)
