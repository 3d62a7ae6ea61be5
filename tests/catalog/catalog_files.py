"""Small files in the formats artists hold, made up for these tests."""

import json
import struct
from pathlib import Path

LORA = {"lora_unet_down_blocks_0_attn2_to_k.lora_down.weight": (2, 8)}
PEFT = {"unet.down_blocks.0.attn2.to_k.lora_A.weight": (2, 8), "unet.down_blocks.0.attn2.to_k.lora_B.weight": (8, 2)}
UNET = {"conv_in.weight": (4, 4), "down_blocks.0.resnets.0.conv1.weight": (4, 4)}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)


def weights(path: Path, shapes: dict[str, tuple[int, ...]] = LORA, metadata: dict[str, object] | None = None) -> Path:
    """A safetensors file of zeros in fp16."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata is not None else {}
    offset = 0
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + 2 * count]}
        offset += 2 * count
    return raw(path, json.dumps(header).encode(), bytes(offset))


def raw(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    """A file with any header, any claimed header length and any body."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


def write(path: Path, content: object) -> Path:
    """Text as it is, everything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def card(front: str, body: str = "") -> str:
    return f"---\n{front}\n---\n{body}"
