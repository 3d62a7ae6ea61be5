"""Keeps many LoRAs in memory beside one shared base, and switches between them by one assignment.

Every layer that any of them updates has a forward hook, which adds the selected updates to what the layer gives,
y = layer(x) + sum_i w_i B_i A_i x. The base's own modules and tensors are not touched, whatever format they are in.
It knows no files, checkpoints or pipelines.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from personalq.diffusion.lora import Branch
from personalq.errors import IncompatibleCheckpointError, ModelError

BUDGET = 1 << 29
"""Bytes of LoRAs that are kept by default: about eighty of rank 16 on the attention of SD 1.5."""

Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


@dataclass(frozen=True)
class Resident:
    """One LoRA in the type and on the device of the models it updates."""

    branches: dict[str, Branch]
    """By layer, "<part>.<layer>"; views of `flats`."""
    flats: dict[str, Tensor]
    """By part, one tensor that holds all its numbers and nothing else."""

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensors."""
        return sum(flat.nbytes for flat in self.flats.values())


class Slots:
    """LoRAs by key on the models they are bound to; the least recently used ones leave first."""

    def __init__(self, budget: int = BUDGET) -> None:
        """`budget` bounds the bytes held; what is selected is held in any case."""
        self.budget = budget
        self._held: OrderedDict[Hashable, Resident] = OrderedDict()
        self._selected: tuple[Hashable, ...] = ()
        self._active: tuple[tuple[dict[str, Branch], float], ...] = ()
        self._models: dict[str, weakref.ref[nn.Module]] = {}
        self._hooks: dict[str, tuple[weakref.ref[nn.Module], RemovableHandle]] = {}
        self._placed: set[Hashable] = set()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of all LoRAs held, selected or not."""
        return sum(resident.nbytes for resident in self._held.values())

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Work on these models from now on, by part ("unet", "text_encoder"); for the same ones it is a quick look.

        They are not kept alive. A LoRA stays held unless the models are of another type or on another device than it.
        """
        same = {part: model() for part, model in self._models.items()} == dict(models)
        if not same or any(layer() is not self._layer(name) for name, (layer, _) in self._hooks.items()):
            self.release()
            self._models = {part: weakref.ref(model) for part, model in models.items()}
        homes = {part: home(model) for part, model in models.items()}
        for key, resident in list(self._held.items()):
            if any(p in homes and (flat.device, flat.dtype) != homes[p] for p, flat in resident.flats.items()):
                self.drop(key)

    def add(self, key: Hashable, branches: Mapping[str, Branch], keep: Collection[Hashable] = ()) -> None:
        """Hold a LoRA, in the type and on the device of the models it updates, and drop others to make room.

        Neither the selected ones nor those in `keep` are dropped. Raises IncompatibleCheckpointError when a layer it
        updates is not there, or has another shape.
        """
        self.drop(key)
        self._check(branches)
        models = {part: model for part in self._models if (model := self._model(part)) is not None}
        parts = {part: {n: b for n, b in branches.items() if n.startswith(f"{part}.")} for part in models}
        sizes = {part: sum(b.numel for b in inside.values()) for part, inside in parts.items()}
        needed = sum(size * home(models[part])[1].itemsize for part, size in sizes.items())
        self._make_room(needed, {*self._selected, *keep})
        views: dict[str, Branch] = {}
        flats: dict[str, Tensor] = {}
        for part, size in sizes.items():
            if size:
                device, dtype = home(models[part])
                flats[part] = torch.empty(size, device=device, dtype=dtype)
                views |= laid_out(parts[part], flats[part])
        self._held[key] = Resident(views, flats)
        self.place(key)

    def place(self, key: Hashable) -> None:
        """See that a LoRA that is held fits the models bound; once for each binding. Raises as `add` does."""
        if key in self._placed:
            return
        branches = self._held[key].branches
        self._check(branches)
        for name in branches.keys() - self._hooks.keys():
            layer = self._layer(name)
            if layer is not None:
                self._hooks[name] = weakref.ref(layer), layer.register_forward_hook(self._adding(name))
        self._placed.add(key)

    def select(self, chosen: Sequence[tuple[Hashable, float]]) -> None:
        """The swap: from now on the models give what they do with these LoRAs, each at its weight; none is the base.

        Raises KeyError for one that is not held, and IncompatibleCheckpointError for one that was added for other
        models and does not fit these.
        """
        for key, _ in chosen:
            self._held.move_to_end(key)
            self.place(key)
        self._count(False)
        self._selected = tuple(dict.fromkeys(key for key, _ in chosen))
        self._active = tuple((self._held[key].branches, weight) for key, weight in chosen if weight)
        self._count(True)

    def drop(self, key: Hashable) -> None:
        """Hold one LoRA no longer. One that is selected cannot be dropped."""
        if key in self._selected:
            raise ModelError("This LoRA is in use: select others before it is dropped.")
        self._held.pop(key, None)
        self._placed.discard(key)

    def release(self) -> None:
        """Leave the models as they were before they were bound. What is held stays held."""
        self.select(())
        for _, handle in self._hooks.values():
            handle.remove()
        self._hooks.clear()
        self._placed.clear()
        self._models.clear()

    def _make_room(self, size: int, keep: Collection[Hashable]) -> None:
        for key in [key for key in self._held if key not in keep]:
            if self.nbytes + size <= self.budget:
                return
            self.drop(key)

    def _model(self, part: str) -> nn.Module | None:
        return self._models[part]() if part in self._models else None

    def _layer(self, name: str) -> nn.Module | None:
        part, _, path = name.partition(".")
        try:
            model = self._model(part)
            return model.get_submodule(path) if model is not None else None
        except AttributeError:
            return None

    def _check(self, branches: Mapping[str, Branch]) -> None:
        reasons = {name: misfit(self._layer(name), branch) for name, branch in branches.items()}
        strange = {name: reason for name, reason in reasons.items() if reason}
        if strange:
            found, (name, reason) = len(branches) - len(strange), next(iter(strange.items()))
            raise IncompatibleCheckpointError(
                f"{found} of its {len(branches)} LoRA layers found a place; {name} {reason}."
            )

    def _adding(self, name: str) -> Hook:
        def add_selected(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            for branches, weight in self._active:
                if name in branches:
                    out = added(out, args[0], branches[name], weight, layer)
            return out

        return add_selected

    def _count(self, on: bool) -> None:
        """Show the selected LoRAs among their models' buffers, so that whoever counts a model's bytes counts them."""
        for at, key in enumerate(self._selected):
            for part, flat in self._held[key].flats.items():
                model = self._model(part)
                if model is not None and on:
                    model.register_buffer(f"lora_{at}", flat, persistent=False)
                elif model is not None:
                    delattr(model, f"lora_{at}")


def home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's updates belong: the device and type of its first floating-point parameter.

    Raises ModelError when it has none.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    raise ModelError(f"{type(model).__name__} has no floating-point parameter: keep its first layer in 16 bits.")


def laid_out(branches: Mapping[str, Branch], flat: Tensor) -> dict[str, Branch]:
    """The branches copied into `flat`, one after the other, and handed back as views of it."""
    views, at = {}, 0
    for name, branch in branches.items():
        pair = []
        for matrix in (branch.down, branch.up):
            view = flat[at : at + matrix.numel()].view(matrix.shape)
            pair.append(view.copy_(matrix))
            at += matrix.numel()
        views[name] = Branch(*pair)
    return views


def misfit(layer: Any, branch: Branch) -> str:
    """Why a branch cannot be added to what a layer gives; empty when it can.

    Linear and convolution layers are told by what they say of their sizes, so that packed ones are known too.
    """
    rank = branch.down.shape[0]
    if hasattr(layer, "in_features"):
        down, up = [rank, layer.in_features], [layer.out_features, rank]
    elif hasattr(layer, "in_channels") and hasattr(layer, "kernel_size"):
        if layer.groups != 1 or layer.padding_mode != "zeros":
            return "is a convolution with groups or another padding than zeros"
        down, up = [rank, layer.in_channels, *layer.kernel_size], [layer.out_channels, rank, 1, 1]
    else:
        return "is no linear or convolution layer of it"
    shapes = list(branch.down.shape), list(branch.up.shape)
    return "" if shapes == (down, up) else f"wants {down} and {up}, not {shapes[0]} and {shapes[1]}"


def added(out: Tensor, x: Tensor, branch: Branch, weight: float, layer: Any) -> Tensor:
    """out + weight * B A x, for a linear layer's x [..., I] or a convolution's [B, I, H, W]; in the type of `out`."""
    x = x.to(branch.down.dtype)
    if branch.down.ndim == 4:
        hidden = F.conv2d(x, branch.down, None, layer.stride, layer.padding, layer.dilation)
        return torch.add(out, F.conv2d(hidden, branch.up).to(out.dtype), alpha=weight)
    hidden = F.linear(x, branch.down).flatten(0, -2)
    base = out.to(hidden.dtype).flatten(0, -2)
    return torch.addmm(base, hidden, branch.up.t(), alpha=weight).view(out.shape).to(out.dtype)
