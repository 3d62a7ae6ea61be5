"""The tensors of a stored model, read one by one and checked. It knows no denoisers and writes nothing.

Files count as untrusted: their hashes, and the name, shape and type of every tensor, are compared before any is used,
and the values of each before a layer is built of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.apply import PackedState
from personalq.quant.decide import Decision, own_tensors
from personalq.quant.formats import INT8, NF4
from personalq.quant.nf4 import expected_nf4
from personalq.quant.pack import Int4Weight, Int8Weight
from personalq.quant.sidecar import AGAIN, Sidecar
from personalq.quant.state import Expected, Layer, code_sums, expected_tensors

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
DTYPES |= {"I8": torch.int8, "U8": torch.uint8, "I32": torch.int32}


class StoredTensors(Mapping[str, PackedState]):
    """The packed layers of a folder by name, each read when it is asked for; `fill` reads the others."""

    def __init__(
        self, unet: nn.Module, decisions: Sequence[Decision], folder: Path, sidecar: Sidecar, device: torch.device
    ) -> None:
        """Nothing is read but headers. Raises QuantizationError unless the files hold exactly the decisions' tensors.

        `unet` is on the meta device and gives shapes, types and memory layouts.
        """
        if sidecar.dtype not in FLOATS:
            raise QuantizationError(f"The stored model is in {sidecar.dtype}, not in {', '.join(FLOATS)}: {AGAIN}.")
        self.unet, self.device, self.dtype = unet, device, FLOATS[sidecar.dtype]
        self.packed = {item.names[0]: item for item in decisions if item.format is not None}
        self.places: dict[str, Path] = {}
        found: Expected = {}
        for file, digest in sidecar.files.items():
            found |= self._header(folder, file, digest)
        self.keys_of: dict[str, list[str]] = {}
        for place in self.places:
            layer, _, key = place.rpartition(".")
            self.keys_of.setdefault(layer, []).append(key)
        expected: Expected = {}
        for item in decisions:
            facts = self._expected(item, found.get(f"{item.names[0]}.smoothing"))
            expected |= {f"{item.names[0]}.{key}": fact for key, fact in facts.items()}
        if wrong := sorted(name for name in found | expected if found.get(name) != expected.get(name)):
            raise QuantizationError(f"{wrong[0][:200]} in {folder} is not as its description says: {AGAIN}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, name: str) -> PackedState:
        item, layer = self.packed[name], self.unet.get_submodule(name)
        assert isinstance(layer, Layer) and item.rule is not None
        tensors = {key: self._read(f"{name}.{key}") for key in self.keys_of[name]}
        if "bias" in tensors:
            tensors["bias"] = tensors["bias"].to(layer.weight.dtype)
        check_values(tensors)
        if "sums" in tensors:
            kind: type[Int4Weight | Int8Weight] = Int4Weight if "gamma" in tensors else Int8Weight
            sums = code_sums(kind(**{key: tensors[key] for key in kind._fields}), layer, item.rule, item.segments)
            if not torch.equal(tensors["sums"], sums):
                raise QuantizationError(f"Its sums are not those of its codes: {AGAIN}.")
        return tensors

    def fill(self, name: str, module: nn.Module) -> None:
        """Give a module that is not packed its own tensors, in the types and memory layouts that it has on meta."""
        for key, empty in own_tensors(module).items():
            filled = torch.empty_like(empty, device=self.device).copy_(self._read(f"{name}.{key}"))
            is_parameter = isinstance(empty, nn.Parameter)
            setattr(module, key, nn.Parameter(filled, requires_grad=False) if is_parameter else filled)

    def _header(self, folder: Path, file: str, digest: str) -> Expected:
        """Shapes and types of one file's tensors, once its hash is right; it is entered into `places`."""
        path = folder / file
        if file != path.name or path.suffix != ".safetensors" or not path.is_file() or sha256(path) != digest:
            raise QuantizationError(f"{file[:200]!r} in {folder} is missing or damaged: {AGAIN}.")
        found: Expected = {}
        with _opened(path) as opened:
            for name in opened.keys():  # noqa: SIM118 the handle is no mapping
                entry = opened.get_slice(name)
                if name in self.places or entry.get_dtype() not in DTYPES:
                    raise QuantizationError(f"{name[:200]} in {path} is of no stored layer: {AGAIN}.")
                self.places[name] = path
                found[name] = (tuple(entry.get_shape()), DTYPES[entry.get_dtype()])
        return found

    def _expected(self, item: Decision, smoothing: tuple[tuple[int, ...], torch.dtype] | None) -> Expected:
        """Shapes and types of one layer's tensors as they are stored; floating ones may be cast when they are read."""
        layer: Any = self.unet.get_submodule(item.names[0])
        if item.format is None or item.rule is None:
            return {key: (tuple(tensor.shape), self.dtype) for key, tensor in own_tensors(layer).items()}
        expected = expected_nf4(layer) if item.format == NF4 else expected_tensors(layer, item.rule, item.segments)
        if "bias" in expected:
            expected["bias"] = (expected["bias"][0], self.dtype)
        if smoothing is not None and item.format != NF4:
            rows = 1 if smoothing[0][:1] == (1,) else len(item.segments.outputs)
            expected["smoothing"] = ((rows, layer.weight.shape[1]), torch.float32)
        return expected

    def _read(self, name: str) -> Tensor:
        """A copy, so that no memory stays mapped to the file."""
        with _opened(self.places[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return torch.empty_like(tensor, device=self.device).copy_(tensor)


def check_values(tensors: PackedState) -> None:
    """Raise QuantizationError unless codes and scales are in the ranges that packing gives.

    Every unpacked value is then an int8 in -127..127, at four bits in -128..127, and nothing wraps round.
    """
    codes, sound = tensors["codes"], True
    if codes.dtype == torch.int8:
        sound = codes.numel() > 0 and int(codes.amin()) >= INT8.qmin
    if "gamma" in tensors:
        top = tensors["offset"].short() + 15 * tensors["gamma"].short()
        sound = bool((tensors["gamma"] > 0).all()) and bool((top <= INT8.qmax).all())
    for name in tensors.keys() & {"scale", "smoothing"}:
        sound &= bool((torch.isfinite(tensors[name]) & (tensors[name] > 0)).all())
    if "absmax" in tensors:
        sound &= bool((torch.isfinite(tensors["absmax"]) & (tensors["absmax"] >= 0)).all())
    if not sound:
        raise QuantizationError(f"Its stored codes or scales are none that packing makes: {AGAIN}.")


def sha256(path: Path) -> str:
    """Of a whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file for as long as it is needed; its errors become QuantizationError."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise QuantizationError(f"{path} cannot be read as safetensors ({error}): {AGAIN}.") from error
