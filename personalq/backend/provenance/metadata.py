"""Pictures that say how they were made: PNG files with AUTOMATIC1111's text, our own data and what the IPTC asks for.

It knows no catalogue: which checkpoints of a picture are here, `recall` says. No pixel is ever decoded to read text.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from personalq import __version__
from personalq.backend.provenance.claims import BITS, FORMAT, validated
from personalq.backend.provenance.infotext import parameters, parsed
from personalq.backend.provenance.png import AGAIN, SIGNATURE, texts
from personalq.catalog.bases import normal_base
from personalq.catalog.untrusted import UNSAFE, parse_json
from personalq.errors import BrokenFileError, ModelError, PictureError
from personalq.records import Frame, Job, Precision, Recipe, Rule

if TYPE_CHECKING:
    from personalq.backend.engine import Engine
    from personalq.backend.variants import Variant

OURS, THEIRS, XMP = "personalq", "parameters", "XML:com.adobe.xmp"
"""The keywords of the text chunks."""
SAMPLED = 2**20
"""Bytes at either end of a weights file that tell one base from another."""
SAMPLERS = {
    "DDIM": "DDIM", "EulerDiscrete": "Euler", "FlowMatchEulerDiscrete": "Euler", "EulerAncestralDiscrete": "Euler a",
    "DPMSolverMultistep": "DPM++ 2M", "HeunDiscrete": "Heun", "LMSDiscrete": "LMS", "PNDM": "PLMS", "LCM": "LCM",
    "UniPCMultistep": "UniPC", "DEISMultistep": "DEIS",
}  # fmt: skip
"""Names of the web UI for the schedulers of diffusers."""
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
<Iptc4xmpExt:AISystemUsed>{system}</Iptc4xmpExt:AISystemUsed>
<Iptc4xmpExt:AISystemVersionUsed>{version}</Iptc4xmpExt:AISystemVersionUsed>
<Iptc4xmpExt:AIPromptInformation>{prompt}</Iptc4xmpExt:AIPromptInformation>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


# --- what is written ---------------------------------------------------------------------------


def made(engine: Engine, job: Job, precision: Precision, index: int, frame: Frame) -> dict[str, Any]:
    """How picture `index` of a job was made, as plain JSON data; `frame` is its last one.

    Base models are named without their folders. Raises PictureError for a frame without a picture.
    """
    if frame.image is None:
        raise PictureError("This frame carries no picture: save the last one of its picture.")
    variant, folder = engine.variants[precision], _folder(engine.base)
    rows = variant.protect if job.protect is None or not variant.protect else job.protect
    return {
        "format": FORMAT,
        "source": "personalq",
        "prompt": job.prompt,
        "negative": job.negative,
        "altered": False,
        "spans": [asdict(span) for span in job.spans],
        "seed": job.seed + index,
        "steps": job.steps,
        "guidance": job.guidance,
        "width": frame.image.width,
        "height": frame.image.height,
        "concepts": _concepts(job),
        "precision": precision,
        "quantiser": quantiser(variant),
        "bits": bits(variant.recipe),
        "protect": {
            "chosen": None if job.protect is None else list(job.protect),
            "rows": list(rows),
            "kept": frame.protected,
        },
        "protected_words": [
            job.prompt[span.start : span.end]
            for span in job.spans
            if ("noun" if span.role == "concept" else "trigger") in rows
        ],
        "base": {"name": _base_name(engine.base), "fingerprint": _fingerprint(folder), "sha256": None},
        "sampler": "" if any(c.kind == "dreambooth" for c, _ in job.checkpoints) else _sampler(folder),
        "dtype": str(engine.dtype).removeprefix("torch."),
        "device": frame.memory.device if frame.memory else engine.device.type,
        "versions": {"personalq": __version__, "torch": version("torch"), "diffusers": version("diffusers")},
        "memory": asdict(frame.memory) if frame.memory else None,
    }


def quantiser(variant: Variant) -> str:
    """How a variant's numbers are rounded, in words."""
    if not variant.packs:
        return "none"
    rest = _rest(variant.recipe)
    plain = "bitsandbytes NF4" if rest and rest.weight and rest.weight.name == "nf4" else "plain rounding"
    words = "TAQ" if variant.protect else plain
    return f"{words}, stored" if variant.stored else words


def bits(recipe: Recipe | None) -> dict[str, int | None]:
    """Bits of the layers that a recipe makes no exception of, and of the text's rows; None is not quantised."""
    rest = _rest(recipe)
    if recipe is None or rest is None:
        return dict.fromkeys(BITS)
    formats = (rest.weight, rest.activation, recipe.text_rows, recipe.probabilities)
    return {name: found.bits if found else None for name, found in zip(BITS, formats, strict=True)}


def _rest(recipe: Recipe | None) -> Rule | None:
    """The rule of all layers which no other names: the last."""
    return recipe.rules[-1] if recipe and recipe.rules else None


def _concepts(job: Job) -> list[dict[str, Any]]:
    return [
        {
            "id": checkpoint.id,
            "name": checkpoint.name,
            "kind": checkpoint.kind,
            "trigger": checkpoint.triggers[0] if checkpoint.triggers else "",
            "sha256": checkpoint.weight_sha256,
            "weight": weight,
        }
        for checkpoint, weight in job.checkpoints
    ]


def _base_name(base: str | Path) -> str:
    return normal_base(str(base)) or Path(base).name


def _folder(base: str | Path) -> Path | None:
    """Where a base lies: its folder, or where the Hub's cache keeps it; None where that is not known offline."""
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(str(base), "model_index.json") if "/" in str(base) else None
    return Path(found).parent if isinstance(found, str) else None


def _fingerprint(folder: Path | None) -> str:
    """SHA-256 over the size, first and last MiB of a base's denoiser files; "" where they are not to be found.

    Any training changes it; it is no hash of the whole, which would take seconds for every picture.
    """
    from personalq.diffusion.lazy import denoiser_folder, weight_files

    digest = hashlib.sha256()
    try:
        for path in weight_files(denoiser_folder(folder)) if folder else ():
            with path.open("rb") as file:
                size = path.stat().st_size
                digest.update(struct.pack("<Q", size) + file.read(SAMPLED))
                file.seek(max(size - SAMPLED, 0))
                digest.update(file.read())
    except (ModelError, OSError):
        return ""
    return digest.hexdigest() if folder else ""


def _sampler(folder: Path | None) -> str:
    """The web UI's name for the scheduler of a base, diffusers' for those it has not; "" where it is not known."""
    try:
        text = (folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8") if folder else ""
        name = str(json.loads(text)["_class_name"]).removesuffix("Scheduler")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return SAMPLERS.get(name, name)


# --- the file ----------------------------------------------------------------------------------


def check_place(path: Path) -> None:
    """Raises PictureError unless a picture can be written there; makes the folder. A PNG that is there may go.

    For before a picture is made, so that it is not lost.
    """
    if path.suffix.lower() != ".png":
        raise PictureError(f"{path} is no name of a picture: choose one that ends in .png.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{uuid.uuid4().hex}.partial")
        probe.touch()
        probe.unlink()
        if path.exists() and not (path.is_file() and _may_go(path)):
            raise PictureError(f"{path} is there and is no PNG file: choose another name.")
    except OSError as error:
        raise PictureError(f"{path} cannot be written ({error.strerror}): choose another place.") from error


def _may_go(path: Path) -> bool:
    """Whether a file is a PNG, or empty."""
    with path.open("rb") as file:
        return SIGNATURE.startswith(file.read(len(SIGNATURE)))


def save_png(image: Image, path: Path, data: Mapping[str, Any]) -> None:
    """Write a picture as PNG, with data as `made` gives it; the file is there whole or not at all.

    Raises PictureError where the disk refuses.
    """
    info, buffer = PngInfo(), io.BytesIO()
    info.add_text(THEIRS, parameters(data))
    info.add_itxt(OURS, json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
    info.add_itxt(XMP, packet(data))
    image.save(buffer, format="PNG", pnginfo=info)
    part = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(buffer.getvalue())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):  # where the folder is a file, there is nothing to clean up
            part.unlink()
        raise PictureError(f"{path} cannot be written ({error.strerror}): choose another place.") from error


def packet(data: Mapping[str, Any]) -> str:
    """The XMP packet: that a trained model made the picture, with the IPTC's words for it, and from what prompt."""
    said = data["prompt"] + (f"\nNegative prompt: {data['negative']}" if data["negative"] else "")
    system = f"PersonalQ, {data['base']['name']}"
    fields = {"source": TRAINED, "system": system, "version": data["versions"]["personalq"], "prompt": said}
    return PACKET.format(**{name: escape(UNSAFE.sub("", value)) for name, value in fields.items()})


def read_png(path: Path) -> dict[str, Any]:
    """How a picture was made, checked as `claims.validated` does: by our own data, else by AUTOMATIC1111's text.

    Raises PictureError for what is no PNG, too large, damaged where the text stands, or without such text.
    """
    found = texts(path, (OURS, THEIRS))
    if OURS in found:
        try:
            return validated(parse_json(found[OURS]))
        except BrokenFileError as error:
            raise PictureError(f"What this picture says of how it was made is broken. {error}") from error
    if THEIRS in found:
        return validated(parsed(found[THEIRS]))
    raise PictureError(f"This picture no longer says how it was made, or never did: {AGAIN}.")
