"""Data about one picture, as the engine's own would be, without an engine."""

from typing import Any

SHA = "0123456789abcdef" * 4


def picture_data(**changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "source": "personalq",
        "prompt": "photo of zwx dog",
        "negative": "blur",
        "altered": False,
        "spans": [{"start": 9, "end": 12, "role": "trigger", "id": "biscuit"}],
        "seed": 7,
        "steps": 4,
        "guidance": 3.5,
        "width": 16,
        "height": 16,
        "concepts": [
            {"id": "biscuit", "name": "Biscuit", "kind": "lora", "trigger": "zwx", "sha256": SHA, "weight": 0.8}
        ],
        "precision": "taq-w8a8",
        "quantiser": "TAQ",
        "bits": {"weights": 8, "activations": 8, "text_rows": 8, "probabilities": 8},
        "protect": {"chosen": None, "rows": ["trigger"], "kept": "trigger"},
        "protected_words": ["zwx"],
        "base": {"name": "tiny-sd", "fingerprint": "ff", "sha256": None},
        "sampler": "DDIM",
        "dtype": "float32",
        "device": "cpu",
        "versions": {"personalq": "0.1.0", "torch": "2", "diffusers": "0"},
        "memory": None,
        **changes,
    }
