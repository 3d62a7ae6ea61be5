"""Pictures that say how they were made: saved, read, made again; and files that lie, or say nothing."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from picture_data import SHA, picture_data
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_pipelines import lora, lora_state

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.backend.provenance.metadata import bits, check_place, made, quantiser, read_png, save_png
from personalq.backend.provenance.recall import recalled
from personalq.backend.variants import VARIANTS
from personalq.catalog.weights import sha256_of
from personalq.errors import PictureError
from personalq.quant.recipe import RECIPES
from personalq.records import Checkpoint, Frame, Job, Span

PROMPT = "photo of zwx dog"
PICTURE = Image.new("RGB", (16, 16), (1, 2, 3))
HARD = [
    "  zwx \U0001f469\u200d\U0001f680 caf\u00e9 \u72ac\n\tdog \n",
    'a "quoted" <b>zwx</b> & \\ <lora:evil:1>, Lora hashes: "evil: 0"',
    "x zwx\nNegative prompt: y\nSteps: 1, Sampler: z, CFG scale: 2, Seed: 3, Size: 4x4",
]


@pytest.fixture
def adapter(tiny_sd_folder: Path, tmp_path: Path) -> Checkpoint:
    found = lora(tmp_path / "biscuit.safetensors", lora_state(tiny_sd_folder), triggers=("zwx",))
    return replace(found, weight_sha256=sha256_of(Path(found.files[0])))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "picture.png"
    save_png(PICTURE, path, picture_data())
    return path


def pictures(engine: Engine, job: Job, precision: str) -> Iterator[Frame]:
    return (frame for frame in generate(engine, job, precision, previews=False) if frame.image)


@pytest.mark.parametrize("precision", ["taq-w8a8", "nf4"])
def test_the_job_that_is_read_makes_the_identical_picture(
    engine: Engine, adapter: Checkpoint, tmp_path: Path, precision: str
) -> None:
    spans = (Span(9, 12, "trigger", "biscuit"), Span(13, 16, "concept", "biscuit"))
    job = Job(PROMPT, "blur", spans, ((adapter, 0.7),), seed=5, steps=3, guidance=2.5, width=24, height=16, count=2)
    job = replace(job, protect=("trigger", "noun"))
    frames = list(pictures(engine, job, precision))
    for index, frame in enumerate(frames):
        path = tmp_path / f"{index}.png"
        data = made(engine, job, precision, index, frame)
        save_png(frame.image, path, data)
        assert read_png(path) == json.loads(json.dumps(data))
        with Image.open(path) as picture:
            assert picture.tobytes() == frame.image.tobytes()
        found = recalled(read_png(path), {"biscuit": adapter}, tuple(VARIANTS), engine.base.name)
        assert found.job == replace(job, seed=5 + index, count=1)
        assert (found.precision, found.missing, found.remarks) == (precision, (), ())
        again = next(pictures(engine, found.job, found.precision))
        assert again.image.tobytes() == frame.image.tobytes()
    assert len(frames) == 2 and frames[0].image.tobytes() != frames[1].image.tobytes()


def test_what_is_said_of_a_picture(engine: Engine, adapter: Checkpoint) -> None:
    job = Job(PROMPT, spans=(Span(9, 12, "trigger", "biscuit"),), checkpoints=((adapter, 1.0),), steps=1)
    data = made(engine, job, "taq-w4a8", 0, next(pictures(engine, job, "taq-w4a8")))
    assert (data["width"], data["height"], data["sampler"], data["dtype"]) == (16, 16, "DDIM", "float32")
    assert (data["quantiser"], data["protected_words"]) == ("TAQ", ["zwx"])
    assert data["bits"] == {"weights": 4, "activations": 8, "text_rows": 8, "probabilities": 8}
    assert data["protect"] == {"chosen": None, "rows": ["trigger"], "kept": "trigger"}
    assert data["concepts"][0]["sha256"] == adapter.weight_sha256
    assert data["memory"]["weights_bytes"] > 0 and data["versions"]["torch"]
    assert data["base"]["name"] == engine.base.name and len(data["base"]["fingerprint"]) == 64
    assert str(engine.base.parent) not in json.dumps(data)  # no folder of the user's


def test_a_base_of_other_weights_has_another_fingerprint(engine: Engine, tiny_sdxl_folder: Path) -> None:
    frame = Frame("reference", 1, 1, PICTURE)
    own, other = (
        made(Engine(base, "cpu", torch.float32), Job(PROMPT), "reference", 0, frame)["base"]
        for base in (engine.base, tiny_sdxl_folder)
    )
    nowhere = made(Engine("no/where", "cpu", torch.float32), Job(PROMPT), "reference", 0, frame)
    assert own["fingerprint"] != other["fingerprint"] != ""
    assert (nowhere["base"]["name"], nowhere["base"]["fingerprint"], nowhere["sampler"]) == ("where", "", "")


def test_quantisers_and_bits_by_name() -> None:
    words = {name: quantiser(variant) for name, variant in VARIANTS.items()}
    assert words == {
        "reference": "none", "taq-w8a8": "TAQ", "taq-w4a8": "TAQ", "rtn-w8a8": "plain rounding",
        "rtn-w4a8": "plain rounding", "nf4": "bitsandbytes NF4",
    }  # fmt: skip
    assert quantiser(replace(VARIANTS["taq-w8a8"], stored=Path("x"))) == "TAQ, stored"
    assert bits(RECIPES["nf4"]) == {"weights": 4, "activations": None, "text_rows": None, "probabilities": None}
    assert set(bits(None).values()) == {None}


def test_a_frame_without_a_picture_is_refused(engine: Engine) -> None:
    with pytest.raises(PictureError, match="carries no picture"):
        made(engine, Job(PROMPT), "reference", 0, Frame("reference", 1, 2))


@pytest.mark.parametrize("prompt", HARD)
def test_any_prompt_comes_back_with_its_spans(tmp_path: Path, prompt: str) -> None:
    at = prompt.index("zwx")
    spans = [{"start": at, "end": at + 3, "role": "trigger", "id": "biscuit"}]
    data = picture_data(prompt=prompt, negative=prompt, spans=spans)
    path = tmp_path / "picture.png"
    save_png(PICTURE, path, data)
    assert read_png(path) == data
    with Image.open(path) as picture:
        assert picture.tobytes() == PICTURE.tobytes()


def test_broken_text_is_saved_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save_png(PICTURE, path, picture_data(prompt="a \ud800 zwx \x00\u202e", spans=[]))
    assert read_png(path)["prompt"] == "a ? zwx "


@pytest.mark.parametrize("prompt", [*HARD, "]]> <?xpacket end='w'?> {source} \x0b\ufffe"])
def test_xmp_says_that_a_model_made_it_whatever_the_prompt(tmp_path: Path, prompt: str) -> None:
    path = tmp_path / "picture.png"
    save_png(PICTURE, path, picture_data(prompt=prompt))
    with Image.open(path) as picture:
        assert set(picture.info) == {"parameters", "personalq", "XML:com.adobe.xmp", "xmp"}
        root = ET.fromstring(picture.info["xmp"])
    said = {element.tag.rpartition("}")[2]: element.text for element in root.iter()}
    assert said["DigitalSourceType"] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert "zwx" not in prompt or "zwx" in (said["AIPromptInformation"] or "")


def test_saving_leaves_a_whole_file_or_the_old_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    own = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        own(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PictureError, match="No space left"):
        save_png(PICTURE, saved, picture_data(seed=8))
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["picture.png"]


def test_a_picture_may_replace_a_picture_and_nothing_else(saved: Path) -> None:
    notes, empty, folder = (saved.with_name(name) for name in ("notes.png", "empty.png", "folder.png"))
    notes.write_text("mine")
    empty.touch()
    folder.mkdir()
    new = saved.parent / "newer" / "picture.PNG"
    for path in (saved, empty, new):
        check_place(path)
    save_png(PICTURE, new, picture_data())
    for path in (notes, folder, saved.with_suffix(".jpg"), saved.parent, saved / "x.png", notes / "deep" / "x.png"):
        with pytest.raises(PictureError, match="choose"):
            check_place(path)
    assert notes.read_text() == "mine" and not list(saved.parent.glob(".*"))


def test_a_file_in_place_of_the_folder_is_said(saved: Path) -> None:
    with pytest.raises(PictureError, match="choose another place"):
        save_png(PICTURE, saved / "x.png", picture_data())


def test_without_our_own_data_the_other_text_is_read(saved: Path, tmp_path: Path) -> None:
    info, path = PngInfo(), tmp_path / "kept.png"
    with Image.open(saved) as picture:
        info.add_text("parameters", picture.info["parameters"])
        picture.save(path, pnginfo=info)
    here = {"biscuit": Checkpoint("biscuit", triggers=("zwx",), weight_sha256=SHA)}
    found = recalled(read_png(path), here, ("taq-w8a8",), "tiny-sd")
    assert (found.job.prompt, found.job.seed, found.precision) == (PROMPT, 7, "taq-w8a8")
    assert found.job.checkpoints == ((here["biscuit"], 0.8),)
    assert found.job.spans == (Span(9, 12, "trigger", "biscuit"),)


def test_a_picture_whose_text_is_gone_says_so(saved: Path, tmp_path: Path) -> None:
    with Image.open(saved) as picture:
        picture.save(tmp_path / "bare.png", pnginfo=PngInfo())
        picture.save(tmp_path / "jpeg.png", format="JPEG")
    with pytest.raises(PictureError, match="no longer says"):
        read_png(tmp_path / "bare.png")
    with pytest.raises(PictureError, match="no PNG"):
        read_png(tmp_path / "jpeg.png")


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "[" * 100_000, "9" * 10_000, '{"prompt": NaN}', '{"prompt": "x", "format": 9}', "\ud83d"],
)
def test_hostile_data_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    info = PngInfo()
    info.add_itxt("personalq", text.encode("utf-8", "surrogatepass"))
    PICTURE.save(tmp_path / "picture.png", pnginfo=info)
    with pytest.raises(PictureError):
        read_png(tmp_path / "picture.png")
