"""Sums over what the layers of a running float model see; the inputs themselves are never kept.

It knows no denoisers, captions, formats or rounding: a caller runs the model, hooks on its layers add up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant import unfinished
from personalq.quant.state import Layer, geometry

ROWS = 2048
"""Input rows of a layer that one forward adds at most; of more, so many are drawn. A convolution has a row a pixel."""

LARGEST = 5760
"""The largest block of a Gram matrix, 133 MB. Wider inputs keep the blocks on its diagonal only: the 23,040 inputs of
SD1.5's widest convolution then take 531 MB and not 2.1 GB. It is a multiple of every usual group size."""


@dataclass
class Statistics:
    """What one layer saw, as inputs X [n, K] of the weight rows [O, K] that are packed: `state.weight_rows`."""

    gram: tuple[Tensor, ...]
    """fp32 blocks on the diagonal of H = sum_n w_n x_n x_n^T, which is [K, K] in one block up to `LARGEST`."""
    low: Tensor
    """fp32 [C]: the smallest value of each input channel; for a linear layer C is K."""
    high: Tensor
    """fp32 [C]: the largest. max|x| of a channel, a segment or a sign follows from the two."""
    count: int = 0
    """Rows n that were added."""

    @property
    def largest(self) -> Tensor:
        """max|x| of each input channel [C]."""
        return torch.maximum(-self.low, self.high)

    @property
    def importance(self) -> Tensor:
        """The diagonal of H [K]: how much an error of each weight column costs by itself."""
        return torch.cat([block.diagonal() for block in self.gram])


@dataclass
class Observer:
    """Collects statistics of the named layers while it is open; change `row_weights` between forwards at will."""

    layers: Mapping[str, Layer]
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """For some layers, the widths of the input segments whose columns are packed one segment after the other."""
    rows: int = ROWS
    seed: int = 0
    row_weights: Mapping[str, Tensor] = field(default_factory=dict)
    """For some layers, a weight per input row [B, L] of the next forwards; all others count one."""
    statistics: dict[str, Statistics] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[Observer]:
        """Hook the layers, and let them go again. Raises QuantizationError, at the end, for numbers not finite."""
        self._generator = torch.Generator().manual_seed(self.seed)
        hooks = [layer.register_forward_pre_hook(partial(self._see, name)) for name, layer in self.layers.items()]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()
        for name, seen in self.statistics.items():
            if not all(bool(torch.isfinite(t).all()) for t in (*seen.gram, seen.low, seen.high)):
                raise QuantizationError(f"{name}: its inputs overflowed while calibrating. Use a wider float type.")

    @torch.no_grad()
    def _see(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        x = inputs[0].detach()
        seen = self.statistics.get(name) or _nothing(layer, x.device)
        over = (0, 2, 3) if isinstance(layer, nn.Conv2d) else tuple(range(x.dim() - 1))
        seen.low, seen.high = (
            torch.minimum(seen.low, x.float().amin(over)),
            torch.maximum(seen.high, x.float().amax(over)),
        )
        matrix, picked = self._rows(layer, x, self.parts.get(name, ()))
        weights = self.row_weights.get(name)
        weighted = matrix if weights is None else matrix * weights.reshape(-1, 1)[picked].to(matrix)
        for block, (start, stop) in zip(seen.gram, spans(matrix.shape[1]), strict=True):
            block.addmm_(weighted[:, start:stop].T, matrix[:, start:stop])
        seen.count += len(matrix)
        self.statistics[name] = seen

    def _rows(self, layer: Layer, x: Tensor, parts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """At most `rows` fp32 rows [n, K] of the layer's input, and which of all rows they are."""
        if not isinstance(layer, nn.Conv2d):
            flat = x.reshape(-1, x.shape[-1])
            picked = self._pick(len(flat)).to(x.device)
            return flat[picked].float(), picked
        windows = input_windows(layer, x)
        picked = self._pick(windows.shape[:3].numel()).to(x.device)
        seen = windows[torch.unravel_index(picked, windows.shape[:3])]  # [n, kh, kw, C]
        each = torch.split(seen, list(parts) or seen.shape[-1], -1)
        return torch.cat([part.flatten(1) for part in each], 1).float(), picked

    def _pick(self, count: int) -> Tensor:
        if count <= self.rows:
            return torch.arange(count)
        return torch.randperm(count, generator=self._generator)[: self.rows]


def input_windows(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """What each output pixel of a convolution sees of x [B, C, H, W]: a view [B, H', W', kh, kw, C]."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = geometry(layer)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph)).contiguous()
    batch, height, width, channels = padded.shape
    b, h, w, c = padded.stride()
    size = ((height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1)
    return padded.as_strided((batch, *size, kh, kw, channels), (b, sh * h, sw * w, dh * h, dw * w, c))


def spans(inputs: int) -> list[tuple[int, int]]:
    """Start and end of the blocks that a Gram matrix of so many inputs is kept in."""
    return [(start, min(start + LARGEST, inputs)) for start in range(0, inputs, LARGEST)]


def gram_bytes(layer: Layer) -> int:
    """Bytes of the layer's Gram blocks."""
    return sum(4 * (stop - start) ** 2 for start, stop in spans(layer.weight[0].numel()))


def passes(layers: Mapping[str, Layer], budget: int) -> list[tuple[str, ...]]:
    """The layers in order, cut into passes whose Gram blocks fit in `budget` bytes together; one layer at least."""
    groups: list[list[str]] = []
    left = 0
    for name, layer in layers.items():
        need = gram_bytes(layer)
        if not groups or need > left:
            groups.append([])
            left = budget
        groups[-1].append(name)
        left -= need
    return [tuple(group) for group in groups]


def save_statistics(path: Path, statistics: Mapping[str, Statistics], made_from: str) -> None:
    """Write statistics, and what they were made from. Raises QuantizationError where the disk refuses."""
    tensors: dict[str, Tensor] = {}
    for name, seen in statistics.items():
        tensors |= {f"{name}/gram/{i}": block for i, block in enumerate(seen.gram)}
        tensors |= {f"{name}/low": seen.low, f"{name}/high": seen.high}
    counts = json.dumps({name: seen.count for name, seen in statistics.items()})
    unfinished.write(path, tensors, made_from, {"counts": counts})


def load_statistics(path: Path, device: torch.device | str = "cpu") -> dict[str, Statistics]:
    """The statistics stored at `path`. Raises QuantizationError for a damaged file."""
    tensors, notes = unfinished.read(path, device=device)
    try:
        counts = {str(name): int(count) for name, count in json.loads(notes["counts"]).items()}
        return {name: _stored(name, tensors, count) for name, count in counts.items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise QuantizationError(f"{path} is damaged ({error}): delete it and run the command again.") from error


def _stored(name: str, tensors: Mapping[str, Tensor], count: int) -> Statistics:
    blocks: list[Tensor] = []
    while (key := f"{name}/gram/{len(blocks)}") in tensors:
        blocks.append(tensors[key])
    return Statistics(tuple(blocks), tensors[f"{name}/low"], tensors[f"{name}/high"], count)


def _nothing(layer: Layer, device: torch.device) -> Statistics:
    channels = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
    blocks = (torch.zeros(stop - start, stop - start, device=device) for start, stop in spans(layer.weight[0].numel()))
    infinite = torch.full((channels,), torch.inf, device=device)
    return Statistics(tuple(blocks), infinite, -infinite)
