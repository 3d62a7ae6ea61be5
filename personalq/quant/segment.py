"""Which layers of a denoiser have inputs put together from parts, or outputs taken apart, and what comes before them.

Known here from the classes that diffusers builds denoisers of, which needs no forward pass and no data;
`dataflow` finds the same in any model's graph. What the parts are used for is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

After = Literal["silu", "gelu", "geglu"]
SDXL_TIME_IDS = 6
"""Original size, crop and target size: how many sines of `addition_time_embed_dim` SDXL appends to the pooled text."""


@dataclass(frozen=True)
class Segments:
    """The parts of a layer's input and output along its channels, and the activation function directly before it."""

    inputs: tuple[int, ...] = ()
    """Widths of the parts that were concatenated, or merged from heads, to make the input; empty is a whole input."""
    outputs: tuple[int, ...] = ()
    """Widths of the parts that the output is split into; empty is a whole output."""
    after: After | None = None
    """What the input, or a part of it, comes from."""


WHOLE = Segments()
Found = Iterator[tuple[str, Segments]]
"""Layer names, relative to the module that is looked at."""


def find_segments(model: nn.Module, example: Mapping[str, Any] | None = None) -> dict[str, Segments]:
    """Segments by layer name; layers without any are left out. The model may be on meta, and must not be packed yet.

    With `example`, the keyword arguments of a forward pass, they come from the graph of that pass and any model will
    do (QuantizationError when it cannot be exported); without, from the classes of the model's modules.
    """
    if example is not None:
        from personalq.quant.dataflow import traced_segments  # torch.export takes seconds to import

        return traced_segments(model, example)
    found: dict[str, Segments] = {}
    for name, module in model.named_modules():
        known = BY_CLASS.get(type(module).__name__)
        for layer, segments in known(module) if known else ():
            full = f"{name}.{layer}" if name else layer
            found[full] = _both(found.get(full, WHOLE), segments)
    return found


def _both(one: Segments, other: Segments) -> Segments:
    """What a module says of a layer, and what the module around it says."""
    return Segments(one.inputs or other.inputs, one.outputs or other.outputs, one.after or other.after)


def _attention(module: Any) -> Found:
    """The heads are merged before the projections of the output, of image and text alike."""
    out = getattr(module, "to_out", None)
    for name, layer in (("to_out.0", out[0] if out else None), ("to_add_out", getattr(module, "to_add_out", None))):
        if layer is not None and module.heads > 1:
            yield name, Segments((layer.in_features // module.heads,) * module.heads)


def _feed_forward(module: Any) -> Found:
    kind = type(module.net[0]).__name__
    if kind == "GEGLU":
        yield "net.0.proj", Segments(outputs=(module.net[0].proj.out_features // 2,) * 2)
        yield "net.2", Segments(after="geglu")
    elif kind == "GELU":
        yield "net.2", Segments(after="gelu")


def _resnet(module: Any) -> Found:
    if not isinstance(module.nonlinearity, nn.SiLU):
        return
    if module.downsample is None:
        yield "conv1", Segments(after="silu")
    if module.time_emb_proj is not None:
        halves = (module.out_channels,) * 2 if module.time_embedding_norm == "scale_shift" else ()
        yield "time_emb_proj", Segments((), halves, None if module.skip_time_act else "silu")
    yield "conv2", Segments(after="silu")


def _unet(unet: Any) -> Found:
    """Sines beside cosines, the pooled text beside SDXL's sizes, and on the way up hidden channels beside a skip's."""
    sines = unet.time_embedding.linear_1.in_features
    yield "time_embedding.linear_1", Segments((sines // 2,) * 2)
    if unet.config.addition_embed_type == "text_time":
        sizes = SDXL_TIME_IDS * unet.config.addition_time_embed_dim
        yield "add_embedding.linear_1", Segments((unet.add_embedding.linear_1.in_features - sizes, sizes))
    hidden = (unet.mid_block or unet.down_blocks[-1]).resnets[-1].out_channels
    for i, block in enumerate(unet.up_blocks):
        for j, resnet in enumerate(block.resnets):
            parts, name = Segments((hidden, resnet.in_channels - hidden)), f"up_blocks.{i}.resnets.{j}"
            if resnet.in_channels > hidden:
                yield f"{name}.conv1", parts
            if resnet.in_channels > hidden and resnet.conv_shortcut is not None:
                yield f"{name}.conv_shortcut", parts
            hidden = resnet.out_channels
    if isinstance(unet.conv_act, nn.SiLU):
        yield "conv_out", Segments(after="silu")


def _modulation(chunks: int) -> Callable[[Any], Found]:
    """An adaptive norm's linear layer, which follows SiLU, and whose output is shifts, scales and gates."""

    def found(module: Any) -> Found:
        yield "linear", Segments((), (module.linear.out_features // chunks,) * chunks, "silu")

    return found


def _embedding(module: Any) -> Found:
    act = module.act if hasattr(module, "act") else module.act_1
    if isinstance(act, nn.SiLU | nn.GELU):
        yield "linear_2", Segments(after="silu" if isinstance(act, nn.SiLU) else "gelu")


def _time_text(module: Any) -> Found:
    """Sines beside cosines of the time step and, in FLUX, of the guidance."""
    for name in ("timestep_embedder", "guidance_embedder"):
        if hasattr(module, name):
            yield f"{name}.linear_1", Segments((getattr(module, name).linear_1.in_features // 2,) * 2)


def _single_block(module: Any) -> Found:
    """FLUX's single blocks project attention and feed-forward together, in unequal parts."""
    mlp = module.proj_mlp.out_features
    yield "proj_out", Segments((module.proj_out.in_features - mlp, mlp), after="gelu")


BY_CLASS: dict[str, Callable[[Any], Found]] = {
    "UNet2DConditionModel": _unet,
    "ResnetBlock2D": _resnet,
    "Attention": _attention,
    "FluxAttention": _attention,
    "FeedForward": _feed_forward,
    "FluxSingleTransformerBlock": _single_block,
    "AdaLayerNormContinuous": _modulation(2),
    "AdaLayerNormZeroSingle": _modulation(3),
    "AdaLayerNormZero": _modulation(6),
    "SD35AdaLayerNormZeroX": _modulation(9),
    "TimestepEmbedding": _embedding,
    "PixArtAlphaTextProjection": _embedding,
    "CombinedTimestepTextProjEmbeddings": _time_text,
    "CombinedTimestepGuidanceTextProjEmbeddings": _time_text,
}
"""What is known of a module by its class's name; names, so that diffusers need not be imported."""
