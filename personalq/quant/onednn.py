"""The fast CPU path: oneDNN's int8 products, with the passes around them done in pieces that stay in the cache.

oneDNN multiplies unsigned activations by signed weights, and scales each output channel while it stores. Activations
are therefore kept as code + 128 with a zero point of 128. Weights are laid out for it once, or, where they are stored
at four bits, unpacked block by block at every call, so that the int8 weight never exists as a whole. It computes what
the plain-torch operations compute, but rounds in the type of the activations where those round in fp32.

It knows no modules and no recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.quant.formats import INT8
from personalq.quant.ops import ConvShape

ZERO = 128
"""The unsigned code of zero."""

PIECE = 1 << 20
"""Numbers quantised or rescaled at a time: larger temporaries leave the cache, and are mapped anew at every call."""

STRIP = 1 << 21
"""Bytes of a convolution's input laid out as columns at a time."""

BLOCK = 1 << 24
"""Weights unpacked from four bits at a time: many enough to be multiplied well, few beside the model."""

ALIGNED = 64
"""oneDNN multiplies in tiles of this many output channels."""

WIDE = (torch.float32, torch.bfloat16)
"""The types that oneDNN stores a scaled product in."""


def available() -> bool:
    """Whether this machine multiplies bytes exactly: an x86 processor with VNNI and a torch built with oneDNN."""
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and hasattr(torch.ops.onednn, "qlinear_pointwise") and torch.cpu._is_vnni_supported()


# --- weights -----------------------------------------------------------------------------------


def prepack_linear(codes: Tensor) -> Tensor:
    """int8 [O, K] in oneDNN's own layout, an opaque tensor [K, O]; four bytes a row more."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(codes, None)
    return packed


def prepack_conv(codes: Tensor, shape: ConvShape) -> Tensor:
    """int8 [O, kh*kw*C], channels innermost, in oneDNN's own layout, an opaque tensor [O, C, kh, kw]."""
    weight = codes.view(len(codes), *shape.kernel, -1).permute(0, 3, 1, 2)
    packed: Tensor = torch.ops.onednn.qconv_prepack(
        weight, torch.ones(len(codes)), 1.0, ZERO, shape.stride, shape.padding, shape.dilation, 1, None
    )
    return packed


def unpacked(packed: Tensor) -> Tensor:
    """The int8 codes [O, K] of a prepacked weight, of either kind."""
    codes: Tensor = packed.to_dense()
    return codes.t() if codes.ndim == 2 else codes.permute(0, 2, 3, 1).flatten(1)


# --- activations -------------------------------------------------------------------------------


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [M, K] as uint8 codes with zero point 128, and a scale max|x| / 127 per row, [M, 1] in the type of `x`.

    The scale is rounded to that type before it is used. NaN and infinity land in the scale and so in the result.
    """
    rows = max(1, PIECE // x.shape[1])
    if len(x) > rows:  # a temporary of every piece stays in the cache
        codes, scales = zip(*map(quantize_tokens, torch.split(x, rows)), strict=True)
        return torch.cat(codes), torch.cat(scales)
    scale = _scale(largest(x))
    return _codes(x, scale.float().reciprocal()), scale


def quantize_samples(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, C, H, W] as uint8 codes [B, H, W, C] with zero point 128, and a scale per sample, [B, 1] in its type."""
    pixels = x.permute(0, 2, 3, 1).contiguous()
    flat = pixels.flatten(1)
    columns = max(1, PIECE // len(flat))
    if flat.shape[1] <= columns:
        scale = _scale(largest(flat))
        return _codes(pixels, scale.float().reciprocal()[:, :, None, None]), scale
    pieces = torch.split(flat, columns, 1)
    scale = _scale(torch.cat([largest(piece) for piece in pieces], 1).amax(1, keepdim=True))
    factor = scale.float().reciprocal()
    return torch.cat([_codes(piece, factor) for piece in pieces], 1).view(pixels.shape), scale


def _codes(x: Tensor, factor: Tensor) -> Tensor:
    """Nearest integers of x * factor, which are in -127..127, plus 128, as uint8."""
    return (x * factor).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(ZERO)


def largest(rows: Tensor) -> Tensor:
    """max|x| of each row, [M, 1]; NaN where there is one.

    A bfloat16 without its sign bit orders like the integer that its bits spell, and integers compare faster.
    """
    if rows.dtype != torch.bfloat16:
        return rows.abs().amax(1, keepdim=True)
    return rows.view(torch.int16).bitwise_and(0x7FFF).amax(1, keepdim=True).view(torch.bfloat16)


def _scale(magnitude: Tensor) -> Tensor:
    return (magnitude / INT8.qmax).clamp_min_(torch.finfo(magnitude.dtype).tiny)


# --- products of a prepacked weight ------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K] times a prepacked weight with fp32 `scale` [O]: [..., O] in the type of `x`, int8 per token."""
    flat = x.reshape(-1, x.shape[-1]).to(_wide(x))
    tokens, rows = quantize_tokens(flat)
    return _product(tokens, weight, rows, scale, bias).view(*x.shape[:-1], -1).to(x.dtype)


def conv2d(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, shape: ConvShape) -> Tensor:
    """x [B, C, H, W] with a prepacked weight: [B, O, H', W'] in the type of `x`, int8 per sample, channels-last."""
    codes, sample_scale = quantize_samples(x.to(_wide(x)))
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    out: Tensor = torch.ops.onednn.qconv2d_pointwise(
        codes.permute(0, 3, 1, 2), 1.0, ZERO, weight, scale, zeros, None,
        shape.stride, shape.padding, shape.dilation, 1, 1.0, 0, sample_scale.dtype, "none", [], "",
    )  # fmt: skip
    pixels = out.permute(0, 2, 3, 1)
    return _rescale(pixels, sample_scale[:, None, None], bias, pixels).permute(0, 3, 1, 2).to(x.dtype)


# --- products of a weight that is unpacked block by block --------------------------------------

Unpack = Callable[[slice], Tensor]
"""The int8 codes [K, o] of a slice of the output channels, contiguous."""


def linear_blocks(x: Tensor, unpack: Unpack, scale: Tensor, bias: Tensor | None) -> Tensor:
    """As `linear`, for a weight of which `unpack` makes a block at a time."""
    flat = x.reshape(-1, x.shape[-1]).to(_wide(x))
    tokens, rows = quantize_tokens(flat)
    out = flat.new_empty(len(flat), len(scale))
    for part in _blocks(flat.shape[1], len(scale)):
        weight, offset = unpack(part).to_mkldnn(), bias if bias is None else bias[part]
        _product(tokens, weight, rows, scale[part], offset, out[:, part])
    return out.view(*x.shape[:-1], -1).to(x.dtype)


def conv2d_blocks(x: Tensor, unpack: Unpack, scale: Tensor, bias: Tensor | None, shape: ConvShape) -> Tensor:
    """As `conv2d`, for a weight of which `unpack` makes a block at a time.

    The input's columns are laid out a few lines of the picture at a time, over again for every block: copying bytes
    costs little beside multiplying them.
    """
    codes, sample_scale = quantize_samples(x.to(_wide(x)))
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = shape
    padded = F.pad(codes, (0, 0, pw, pw, ph, ph), value=ZERO)
    batch, tall, wide, channels = padded.shape
    height, width = (tall - dh * (kh - 1) - 1) // sh + 1, (wide - dw * (kw - 1) - 1) // sw + 1
    sample_step, down, right, _ = padded.stride()
    out = sample_scale.new_empty(batch, height, width, len(scale))
    lines = max(1, STRIP // (width * kh * kw * channels))
    for part in _blocks(kh * kw * channels, len(scale)):
        weight, offset = unpack(part).to_mkldnn(), bias if bias is None else bias[part]
        for sample in range(batch):
            for top in range(0, height, lines):
                strip = padded.as_strided(
                    (min(lines, height - top), width, kh, kw, channels),
                    (sh * down, sw * right, dh * down, dw * right, 1),
                    sample * sample_step + top * sh * down,
                )
                columns = strip.reshape(strip.shape[0] * width, -1)
                into = out[sample, top : top + lines].view(len(columns), -1)[:, part]
                _product(columns, weight, sample_scale[sample], scale[part], offset, into)
    return out.permute(0, 3, 1, 2).to(x.dtype)


# --- what both share ---------------------------------------------------------------------------


def _product(
    tokens: Tensor, weight: Tensor, rows: Tensor, columns: Tensor, bias: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """Tokens uint8 [M, K] times an opaque weight [K, o], with scales of rows [M, 1] or [1] and columns: `out` [M, o].

    In pieces, so that what oneDNN stores is still in the cache when it is rescaled.
    """
    zeros, dtype, piece = columns.new_zeros(len(columns), dtype=torch.int32), rows.dtype, max(1, PIECE // len(columns))
    if len(tokens) > piece:
        out = rows.new_empty(len(tokens), len(columns)) if out is None else out
        for start in range(0, len(tokens), piece):
            some = slice(start, start + piece)
            _product(tokens[some], weight, rows[some] if len(rows) > 1 else rows, columns, bias, out[some])
        return out
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        tokens, 1.0, ZERO, weight, columns, zeros, None, 1.0, 0, dtype, "none", [], ""
    )
    return _rescale(product, rows, bias, product if out is None else out)


def _rescale(product: Tensor, rows: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """out = product * rows + bias, all in one type; `out` may be `product` itself."""
    if bias is None:
        return torch.mul(product, rows, out=out)
    return torch.addcmul(bias.to(out.dtype), product, rows, out=out)


def _blocks(inputs: int, outputs: int) -> Iterator[slice]:
    """Output channels in blocks of about `BLOCK` weights."""
    block = max(ALIGNED, BLOCK // inputs // ALIGNED * ALIGNED)
    return (slice(start, min(start + block, outputs)) for start in range(0, outputs, block))


def _wide(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype in WIDE else torch.float32
