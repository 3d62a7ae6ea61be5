"""One file that a visitor adds for a session, as a `Checkpoint`. It believes nothing in the file, and knows no page.

The upload is copied first and only the copy is looked at, so what was checked is what will be loaded.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from personalq.catalog.bases import FAMILIES, family, normal_base
from personalq.catalog.clean import without_tags
from personalq.catalog.facts import Facts
from personalq.catalog.header import Header, read_header
from personalq.catalog.merge import MAX_NAME, merge
from personalq.catalog.scan import SIGNATURES
from personalq.catalog.untrusted import clean
from personalq.catalog.weights import ADAPTER, EMBEDDING_KEYS, GENERIC_STEM, TEXT_WIDTHS, described, sha256_of
from personalq.errors import BrokenFileError, CatalogError, MissingFactsError
from personalq.records import Checkpoint

LIMIT = 200 * 2**20
"""Bytes of weights that a visitor may add."""
ID = "own-"
"""Begins the ids of visitors' checkpoints; 128 random bits follow."""
GROUP = "own:"
"""Begins their lineages, so that none becomes a version of a model in the catalogue."""
LONGEST = {"name": 80, "trigger": 100, "base": 80, "class noun": 40, "licence": 80}
"""Characters of what is typed."""
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
PICKLE_STARTS = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
CONVERT = "It is a pickle, which may run anything when it is opened: convert it to safetensors and add that file."
ASKED = {"trigger": "the word that calls it (trigger)", "base": "the model it was made for (base)"}
PICTURES = {"data:image/jpeg": ".jpg", "data:image/png": ".png", "data:image/webp": ".webp"}
MAX_PICTURE = 2 * 2**20
BLOCK = 2**20


def added(
    path: Path,
    folder: Path,
    *,
    name: str = "",
    trigger: str = "",
    base: str = "",
    class_noun: str = "",
    license: str = "",
    limit: int = LIMIT,
) -> Checkpoint:
    """The checkpoint that the uploaded `.safetensors` file `path` (a LoRA or a textual inversion) is.

    It is copied into `folder` under a name of ours; `path` stays as it is, and nothing stays in `folder` on an error.
    What is typed is believed before what the header says. Raises MissingFactsError when neither gives a trigger or a
    base, BrokenFileError for a file that is too large (`limit` bytes), damaged, no safetensors or of another kind, and
    CatalogError for typed text that cannot be right or a copy that cannot be written.
    """
    typed = Facts(
        "user",
        name=_line("name", name),
        triggers=tuple(filter(None, (_line("trigger", trigger),))),
        bases=tuple(filter(None, (_line("base", base),))),
        class_noun=_line("class noun", class_noun).casefold(),
        license=_line("licence", license),
    )
    if path.suffix.casefold() in PICKLED:
        raise BrokenFileError(CONVERT)
    if path.suffix.casefold() != ".safetensors":
        raise BrokenFileError("It is no .safetensors file; LoRAs and textual inversions in that format can be added.")
    kept = folder / f"{ID}{secrets.token_hex(16)}.safetensors"
    try:
        _copy(path, kept, limit)
        return _checkpoint(kept, without_tags(clean(path.stem, MAX_NAME)), typed)
    except BaseException:
        with suppress(OSError):
            kept.unlink(missing_ok=True)
        raise


def _line(what: str, text: str) -> str:
    """Typed text, cleaned, on one line. Raises CatalogError when it is too long."""
    line = " ".join(clean(text).split())
    if len(line) > LONGEST[what]:
        raise CatalogError(f"The {what} has {len(line)} characters; shorten it to {LONGEST[what]} at most.")
    return line


def _copy(path: Path, kept: Path, limit: int) -> None:
    """Copy a regular file, of which no more than `limit` bytes are read. Follows no link."""
    too_large = BrokenFileError(f"It is larger than {limit / 2**20:g} MB; add a smaller file, such as a lower rank.")
    try:
        if path.is_symlink() or not stat.S_ISREG(path.lstat().st_mode):
            raise BrokenFileError("It is no regular file; choose the weights themselves.")
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as upload, kept.open("xb") as copy:
            state, done = os.fstat(handle), 0
            if not stat.S_ISREG(state.st_mode):
                raise BrokenFileError("It is no regular file; choose the weights themselves.")
            while block := upload.read(BLOCK):
                done += len(block)
                if max(done, state.st_size) > limit:
                    raise too_large
                copy.write(block)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is unsafe"
        raise CatalogError(f"The file cannot be taken ({reason}); upload it again.") from error


def _checkpoint(kept: Path, stem: str, typed: Facts) -> Checkpoint:
    """The record of a copied file, once it is known to be one that can be loaded."""
    header = _header(kept)
    facts, _ = described(Path(f"{stem or 'model'}.safetensors"), header)
    own = _supported(facts, header)
    architecture = own.architecture or _embedding_architecture(own, header)
    words = tuple(word for word in own.triggers if not GENERIC_STEM.fullmatch(word))
    own = replace(own, architecture=architecture, bases=tuple(filter(None, (architecture,))), triggers=words)
    digests = sha256_of(kept), sha256_of(kept, header.length)
    record = merge((typed, own, *facts[1:]), stem or "model", (), (str(kept.absolute()),), None, *digests)
    _check_complete(record, typed)
    _check_consistent(record, architecture, header)
    if record.kind == "ti" and typed.triggers:  # Its vectors are loaded under this word and no other.
        record = replace(record, triggers=record.triggers[:1], trigger_sources=record.trigger_sources[:1])
    unnamed = bool(GENERIC_STEM.fullmatch(record.name))
    group = kept.stem if unnamed else record.group_id or kept.stem
    title = record.triggers[0] if unnamed else record.name
    return replace(record, id=kept.stem, name=title, group_id=f"{GROUP}{group}", preview=_picture(header, kept))


def _header(kept: Path) -> Header:
    try:
        return read_header(kept)
    except BrokenFileError:
        with kept.open("rb") as file:
            if file.read(4).startswith(PICKLE_STARTS):
                raise BrokenFileError(CONVERT) from None
        raise


def _supported(facts: tuple[Facts, ...], header: Header) -> Facts:
    """The facts of the tensors. Raises BrokenFileError unless they are a plain LoRA or a textual inversion."""
    if not facts:
        raise BrokenFileError("It holds neither a LoRA nor a textual inversion; choose the file that training wrote.")
    own = facts[0]
    if own.kind == "dreambooth":
        raise BrokenFileError("It is a whole model; only a LoRA or a textual inversion can be added for a session.")
    plain = (bool(ADAPTER.search(name)) or name.endswith(".alpha") for name in header.shapes)
    strange = [name for name, known in zip(header.shapes, plain, strict=True) if not known]
    if own.kind == "lora" and (strange or not own.loadable):
        shown = (strange or [*header.shapes])[0][:60]
        raise BrokenFileError(f"It is no plain LoRA: {shown!r} cannot be applied. Save it as down and up matrices.")
    empty = next((name for name, shape in header.shapes.items() if 0 in shape), None)
    if empty is not None:
        raise BrokenFileError(f"Its tensor {empty[:60]!r} is empty; save or download it again.")
    return own


def _embedding_architecture(own: Facts, header: Header) -> str:
    """What the width of a textual inversion gives away; "" for another width, and for a LoRA."""
    if own.kind != "ti":
        return ""
    if "clip_g" in header.shapes:
        return TEXT_WIDTHS[2048]
    width = next(iter(header.shapes.values()))[-1]
    return TEXT_WIDTHS.get(width, "") if width < 2048 else ""


def _check_complete(record: Checkpoint, typed: Facts) -> None:
    """Raises MissingFactsError when a fact is missing, or what was typed for it is none."""
    has_trigger = bool(record.triggers) and (not typed.triggers or record.trigger_sources[0] == "user")
    has_base = record.base is not None and (not typed.bases or normal_base(typed.bases[0]) is not None)
    missing = tuple(field for field, there in (("trigger", has_trigger), ("base", has_base)) if not there)
    if missing:
        words = " and ".join(ASKED[field] for field in missing)
        raise MissingFactsError(f"The file does not say {words}: type what is missing, and add it again.", missing)


def _check_consistent(record: Checkpoint, architecture: str, header: Header) -> None:
    """Raises CatalogError when the tensors show that the base or the trigger cannot be right."""
    shown, told = (family(normal_base(base or "") or "") for base in (architecture, record.base))
    if architecture and shown != told and told in {known for known, _ in FAMILIES}:
        raise CatalogError(f"Its tensors are made for {shown}, not for {record.base}; correct the base.")
    words = [*header.shapes]
    several = record.kind == "ti" and len(words) > 1 and not any(set(words) == keys for keys in EMBEDDING_KEYS)
    if several and record.triggers[0] not in words:
        raise CatalogError(f"It holds the words {', '.join(words[:5])[:200]}; choose one of them as the trigger.")


def _picture(header: Header, kept: Path) -> str | None:
    """The preview that ModelSpec keeps in the header, as a file beside the weights; None without one to show."""
    stored = header.metadata.get("modelspec.thumbnail")
    kind, _, data = stored.partition(";base64,") if isinstance(stored, str) else ("", "", "")
    if kind not in PICTURES or len(data) > MAX_PICTURE:
        return None
    with suppress(OSError, ValueError):
        content = base64.b64decode(data, validate=True)
        if content.startswith(SIGNATURES):
            target = kept.with_suffix(PICTURES[kind]).absolute()
            target.write_bytes(content)
            return str(target)
    return None
