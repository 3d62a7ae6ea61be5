"""What a row really stores and covers, read off the packed model and one measured forward. It makes no pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from personalq.backend.compare import generate
from personalq.backend.engine import Engine
from personalq.bench.peers.levels import Tag
from personalq.diffusion.load import denoiser
from personalq.quant.apply import Report
from personalq.records import Job

ATTENTION = "attention"
"""What the products of queries, keys, probabilities and values are counted under; nobody here packs them."""


@dataclass(frozen=True)
class Facts:
    """One row's bits and coverage. Shares are of the whole denoiser, 0 to 1."""

    name: str
    tag: Tag
    weight_bits: float
    """Stored bits a parameter over the whole denoiser, scales, tables and 16-bit layers included."""
    packed_bits: float | None
    """The same over the packed layers alone; None where none is packed."""
    covers: tuple[str, ...]
    """Kinds of layer that are packed, such as "Conv2d"; a kind that is packed in part is among them."""
    parameters: float
    """Share of the parameters in packed layers."""
    macs: float
    """Share of a forward's multiply-accumulates that packed weights take part in, attention counted as a whole."""

    @property
    def real(self) -> bool:
        """Whether the row's bytes and time mean something, `Tag.real`."""
        return self.tag.real


def facts(engine: Engine, name: str, job: Job, tag: Tag) -> Facts:
    """The facts of one of the engine's variants, from its packed model and the first step of `job`.

    The projections of the text, which later steps leave out, are counted. Raises what `generate` raises.
    """
    with engine.hold(job, name) as session:
        model, report = denoiser(session.pipe), session.report
    with counted(model) as macs, closing(generate(engine, replace(job, steps=1, count=1), name, False)) as frames:
        for _ in frames:
            pass
    size = sum(p.numel() for p in model.parameters())
    if report is None:
        held = sum(p.nbytes for p in model.parameters())
        return Facts(name, tag, 8 * held / size, None, (), 0.0, 0.0)
    return summed(name, tag, report, macs)


def summed(name: str, tag: Tag, report: Report, macs: Mapping[str, int]) -> Facts:
    """The facts from a report and the multiply-accumulates by layer."""
    packed = [layer for layer in report.layers if layer.format is not None]
    everything, inside = sum(layer.parameters for layer in report.layers), sum(layer.parameters for layer in packed)
    return Facts(
        name=name,
        tag=tag,
        weight_bits=8 * report.stored_bytes / everything,
        packed_bits=8 * sum(layer.stored_bytes for layer in packed) / inside if inside else None,
        covers=tuple(sorted({layer.kind for layer in packed})),
        parameters=inside / everything,
        macs=sum(macs[layer.name] for layer in packed) / sum(macs.values()),
    )


@contextmanager
def counted(model: nn.Module) -> Iterator[Counter[str]]:
    """Multiply-accumulates of each layer, and of attention, of every forward while this is open.

    Layers are told by the sizes that they name, so that packed ones of any library are counted; what stands inside
    such a layer is its own affair.
    """
    macs: Counter[str] = Counter()
    hooks, layers = [], list(_layers(model))
    for name, layer in layers:
        hooks.append(layer.register_forward_hook(lambda m, _, out, n=name: macs.update({n: _layer_macs(m, out)})))
    for module in model.modules():
        if hasattr(module, "to_q") and hasattr(module, "heads"):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda m, args, options: macs.update({ATTENTION: _attention_macs(m, args, options)}),
                    with_kwargs=True,
                )
            )
    try:
        yield macs
    finally:
        for hook in hooks:
            hook.remove()


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that have sizes of a linear or convolution layer."""
    inside = ""
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if hasattr(module, "in_features") or (hasattr(module, "kernel_size") and hasattr(module, "in_channels")):
            inside = f"{name}."
            yield name, module


def _layer_macs(layer: Any, out: Tensor) -> int:
    if hasattr(layer, "in_features"):
        return out.numel() * int(layer.in_features)
    down, right = layer.kernel_size
    return int(out.numel() * layer.in_channels // layer.groups * down * right)


def _attention_macs(attn: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Q K^T and A V of one call. Joint attention runs over both streams, text cross-attention from one to the other."""
    hidden = args[0] if args else options["hidden_states"]
    text = args[1] if len(args) > 1 else options.get("encoder_hidden_states")
    batch, tokens = len(hidden), hidden[0].numel() // hidden.shape[1 if hidden.ndim == 4 else -1]
    keys = tokens if text is None else text.shape[1]
    if text is not None and getattr(attn, "added_kv_proj_dim", None) is not None:
        tokens = keys = tokens + text.shape[1]
    return 2 * int(batch * tokens * keys * attn.to_q.out_features)
