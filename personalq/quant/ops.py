"""Plain-torch reference kernels on integer codes, for CPU and CUDA. They know nothing of modules or recipes.

Every product of codes is an exact integer product; the only rounding is that of the activations and of the final
rescaling. Activations are quantised symmetrically at run time: per token for linears, per sample for convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from personalq.quant.formats import INT8

CUDA_MIN_ROWS = 17
"""`torch._int_mm` on CUDA takes more than 16 rows, and inner and outer sizes that are multiples of eight."""
CUDA_MULTIPLE = 8


class ConvShape(NamedTuple):
    """The geometry of a convolution, each (height, width)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def quantize_rows(x: Tensor, dims: tuple[int, ...] = (-1,)) -> tuple[Tensor, Tensor]:
    """Dynamic symmetric int8: codes of the shape of `x` and fp32 scale max|x| / 127 over `dims`, kept as size 1.

    A NaN or infinity in `x` lands in its scale and so in the result; it is never hidden by the integer codes.
    """
    x = x.float()
    scale = (x.abs().amax(dims, keepdim=True) / INT8.qmax).clamp_min_(torch.finfo(torch.float32).tiny)
    return (x * scale.reciprocal()).round_().to(torch.int8), scale


def int_mm(a: Tensor, b: Tensor) -> Tensor:
    """a [M, K] int8 times b [N, K] int8 transposed: exact int32 [M, N], on CPU and CUDA, any sizes."""
    if a.is_cuda:
        return _int_mm_cuda(a, b)
    return torch._int_mm(a, b.t())


def int_mm_reference(a: Tensor, b: Tensor) -> Tensor:
    """`int_mm` in float64, where all these integers are exact: slow, and what the other is tested against."""
    return (a.double() @ b.double().t()).to(torch.int32)


def _int_mm_cuda(a: Tensor, b: Tensor) -> Tensor:
    """Pad with zeros, which add nothing to an integer product, to the sizes that cuBLAS takes."""
    rows, columns = a.shape[0], b.shape[0]
    deep = -a.shape[1] % CUDA_MULTIPLE
    a = F.pad(a, (0, deep, 0, max(0, CUDA_MIN_ROWS - rows)))
    b = F.pad(b, (0, deep, 0, -columns % CUDA_MULTIPLE))
    return torch._int_mm(a, b.t())[:rows, :columns]


def rescale(product: Tensor, rows: Tensor, columns: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """int32 [M, N] times fp32 scales [M, 1] and [N], plus bias [N], in fp32, then `dtype`."""
    out = product.float().mul_(rows).mul_(columns)
    if bias is not None:
        out.add_(bias.float())
    return out.to(dtype)


class Passes(NamedTuple):
    """What goes before and after an integer product: `quantize_rows` and `rescale`, or the same two compiled."""

    quantize: Callable[..., tuple[Tensor, Tensor]]
    rescale: Callable[..., Tensor]


PLAIN = Passes(quantize_rows, rescale)


def compiled_passes(backend: str = "inductor") -> Passes:
    """Both passes through `torch.compile`, each one kernel: Triton's on CUDA, made at the first call of a shape."""
    once: Callable[[Any], Any] = torch.compile(dynamic=True, backend=backend)
    return Passes(once(quantize_rows), once(rescale))


def linear_int8(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None, passes: Passes = PLAIN) -> Tensor:
    """x [..., K] times int8 weight codes [O, K] with scale [O]: [..., O] in the type of `x`, int8 per token."""
    tokens, token_scale = passes.quantize(x.reshape(-1, x.shape[-1]))
    out = passes.rescale(int_mm(tokens, codes), token_scale, scale, bias, x.dtype)
    return out.view(*x.shape[:-1], -1)


def conv2d_int8(
    x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None, shape: ConvShape, passes: Passes = PLAIN
) -> Tensor:
    """x [B, C, H, W] with int8 weight codes [O, kh*kw*C] (channels innermost): [B, O, H', W'], int8 per sample.

    The input is quantised once and then laid out as columns, so the copies are of bytes.
    The result is channels-last in memory.
    """
    image, sample_scale = passes.quantize(x, (1, 2, 3))
    columns = im2col(image, shape)
    batch, height, width = columns.shape[:3]
    rows = sample_scale.view(-1, 1).repeat_interleave(height * width, 0)
    out = passes.rescale(int_mm(columns.view(batch * height * width, -1), codes), rows, scale, bias, x.dtype)
    return out.view(batch, height, width, -1).permute(0, 3, 1, 2)


def im2col(image: Tensor, shape: ConvShape) -> Tensor:
    """int8 [B, C, H, W] to contiguous [B, H', W', kh*kw*C], the input that each output pixel sees."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = shape
    padded = F.pad(image.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph)).contiguous()
    batch, height, width, channels = padded.shape
    b, h, w, c = padded.stride()
    out_h = (height - dh * (kh - 1) - 1) // sh + 1
    out_w = (width - dw * (kw - 1) - 1) // sw + 1
    windows = padded.as_strided((batch, out_h, out_w, kh, kw, channels), (b, sh * h, sw * w, dh * h, dw * w, c))
    return windows.reshape(batch, out_h, out_w, -1)
