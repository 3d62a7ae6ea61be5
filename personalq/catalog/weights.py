"""What a weights file is, from its header or name alone. It loads no tensor and runs no pickle."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from personalq.catalog import kohya, modelspec, pickled
from personalq.catalog.facts import Facts, Reading
from personalq.catalog.header import Header, read_header
from personalq.catalog.untrusted import Fields, clean
from personalq.errors import BrokenFileError

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")
GENERIC_STEM = re.compile(
    r"pytorch_lora_weights|learned_embeds|diffusion_pytorch_model(?:\.fp16)?|adapter_model|model|embeddings?|lora|"
    r"pytorch_model|unet|checkpoint(?:-\d+)?|last|final|output",
    re.IGNORECASE,
)
ADAPTER = re.compile(
    r"lora_(?:A|B|down|up|linear_layer)\b|\.lora\.(?:down|up)|_lora\.(?:down|up)|lora_(?:A|B|down|up)\."
)
FOREIGN_ADAPTER = re.compile(r"lokr_|hada_|oft_blocks|^(?:unet|text_encoder):\d+:(?:up|down)$")
DENOISER_FOLDERS = ("unet", "transformer")
DENOISER = re.compile(r"^(?:(?:down|up|mid)_blocks?|transformer_blocks)\.")
EMBEDDING_KEYS = ({"emb_params"}, {"clip_l", "clip_g"}, {"string_to_param"})
TOKEN = re.compile(r"<[^<>:\s]{1,60}>")
# Width of the text embeddings that cross-attention reads -> ModelSpec architecture.
TEXT_WIDTHS = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2", 2048: "stable-diffusion-xl-v1-base"}


def read(path: Path) -> Reading:
    """Kind, metadata and digest of one weights file; no facts when it is no personalised checkpoint.

    Raises BrokenFileError for a malformed, truncated or hostile file.
    """
    if path.suffix.lower() != ".safetensors":
        facts = unopened(path) or pickled.read(path)
        return Reading(facts, (), sha256_of(path) if facts else None)
    header = read_header(path)
    facts, problems = described(path, header)
    if not facts:
        return Reading(facts, problems)
    return Reading(facts, problems, sha256_of(path), sha256_of(path, header.length))


def unopened(path: Path) -> tuple[Facts, ...]:
    """Facts of a full model that is stored in a format never opened here; none for any other file."""
    if path.suffix.lower() == ".ckpt" or (
        path.suffix.lower() != ".safetensors" and path.parent.name in DENOISER_FOLDERS
    ):
        return (Facts(source="weights", kind="dreambooth", loadable=False),)
    return ()


def sha256_of(path: Path, start: int = 0) -> str:
    """SHA-256 of the file from byte `start` on, in lower-case hex. Raises BrokenFileError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            file.seek(start)
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise BrokenFileError(f"It cannot be read ({error.strerror}); check its permissions.") from error
    return digest.hexdigest()


def described(path: Path, header: Header) -> tuple[tuple[Facts, ...], tuple[str, ...]]:
    """Facts in the header of the safetensors file `path`, which is not opened, and what is odd about them.

    Raises BrokenFileError for trained weights of a kind that is not supported.
    """
    metadata = Fields(header.metadata, where="metadata ")
    described = [facts for facts in (kohya.read(metadata), modelspec.read(metadata)) if facts]
    own = _kind(path, header)
    if own is None:
        if described:
            raise BrokenFileError("Its tensors are no LoRA, embedding or denoiser; this kind is not supported.")
        return (), ()
    return (own, *described), tuple(metadata.complaints)


def _kind(path: Path, header: Header) -> Facts | None:
    """The facts that the tensor names carry; None when they are no checkpoint's."""
    names = tuple(header.shapes)
    if any(ADAPTER.search(name) for name in names):
        return Facts(source="weights", kind="lora", architecture=_architecture(header))
    if any(FOREIGN_ADAPTER.search(name) for name in names):
        tokens = tuple(name for name in names if TOKEN.fullmatch(name))
        return Facts(source="header-token", kind="lora", triggers=tokens, loadable=False)
    embedding = _embedding(path, header)
    if embedding:
        return embedding
    in_place = path.parent.name in DENOISER_FOLDERS and any(DENOISER.search(name) for name in names)
    if in_place or any(name.startswith("model.diffusion_model.") for name in names):
        return Facts(source="weights", kind="dreambooth", architecture=_architecture(header), loadable=in_place)
    return None


def _embedding(path: Path, header: Header) -> Facts | None:
    """A textual inversion: one row or a few, stored under the word itself or under a tool's fixed key."""
    names = set(header.shapes)
    flat = all(
        len(shape) in (1, 2) and shape[-1] >= 64 and shape[0] <= (128 if len(shape) == 2 else 8192)
        for shape in header.shapes.values()
    )
    if not names or not flat:
        return None
    if any(names == keys for keys in EMBEDDING_KEYS):
        return Facts(source="embedding", kind="ti", triggers=(path.stem,))
    if len(names) == 1 or all(TOKEN.fullmatch(name) for name in names):
        words = tuple(clean(name) for name in header.shapes if name != "*")
        return Facts(source="embedding", kind="ti", triggers=words or (path.stem,))
    return None


def _architecture(header: Header) -> str:
    """The ModelSpec architecture that the width of the text embeddings gives away; "" for any other width."""
    for name, shape in header.shapes.items():
        if re.search(r"attn2[._]to_k\b.*(?:lora_A|lora_down|lora\.down|to_k\.weight)", name) and len(shape) == 2:
            return TEXT_WIDTHS.get(shape[1], "")
        if re.search(r"double_blocks|single_transformer_blocks", name):
            return "flux-1"
    return ""
