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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from personalq.diffusion.branch import Branch, added, laid_out, misfit
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


class Hooked(NamedTuple):
    """A layer with a hook, and where it sits."""

    parent: weakref.ref[nn.Module]
    leaf: str
    layer: weakref.ref[nn.Module]
    handle: RemovableHandle

    @property
    def in_place(self) -> bool:
        """Whether its parent still has this layer, and not a packed one, say, in its stead."""
        parent, layer = self.parent(), self.layer()
        return parent is not None and layer is not None and parent._modules.get(self.leaf) is layer


class Slots:
    """LoRAs by key on the models they are bound to; the least recently used ones leave first."""

    def __init__(self, budget: int = BUDGET) -> None:
        """`budget` bounds the bytes held; what is selected is held in any case."""
        self.budget = budget
        self._held: OrderedDict[Hashable, Resident] = OrderedDict()
        self._selected: tuple[Hashable, ...] = ()
        self._active: tuple[tuple[dict[str, Branch], float], ...] = ()
        self._models: dict[str, weakref.ref[nn.Module]] = {}
        self._hooks: dict[str, Hooked] = {}
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
        if not same or not all(hooked.in_place for hooked in self._hooks.values()):
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
            path, _, leaf = name.rpartition(".")
            parent, layer = self._layer(path), self._layer(name)
            if parent is not None and layer is not None:
                handle = layer.register_forward_hook(self._adding(name))
                self._hooks[name] = Hooked(weakref.ref(parent), leaf, weakref.ref(layer), handle)
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
        for hooked in self._hooks.values():
            hooked.handle.remove()
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
