"""bitsandbytes NF4 layers as plain tensors, and back. It quantises nothing and reads no files.

Block size 64 and plain statistics, which is how the `nf4` recipe packs: two codes a byte along the flattened weight,
one fp32 maximum per 64 of them. The table of sixteen values is the library's own and is not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from personalq.errors import QuantizationError
from personalq.quant.state import Expected

BLOCK = 64


def is_nf4(layer: nn.Module) -> bool:
    """Whether a layer is one of bitsandbytes in NF4."""
    state = getattr(getattr(layer, "weight", None), "quant_state", None)
    return isinstance(layer, nn.Linear) and getattr(state, "quant_type", None) == "nf4"


def nf4_tensors(layer: nn.Module) -> dict[str, Tensor]:
    """`codes`, `absmax` and `bias` of an NF4 layer.

    Raises QuantizationError for one that is packed in another way: on some processors bitsandbytes rearranges a layer
    for good when it first runs, and rounds its statistics.
    """
    weight: Any = layer.weight
    state = weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        raise QuantizationError(
            "bitsandbytes rearranged this layer when it ran: quantise again and save before running."
        )
    if state.nested or state.blocksize != BLOCK or not torch.equal(state.code, _table(state.code.device)):
        raise QuantizationError(f"Only NF4 with plain statistics in blocks of {BLOCK} is stored: use the nf4 recipe.")
    tensors = {"codes": weight.data, "absmax": state.absmax}
    if layer.bias is not None:
        tensors["bias"] = cast(Tensor, layer.bias).detach()
    return tensors


def expected_nf4(layer: nn.Linear) -> Expected:
    """Shapes and types of an NF4 layer's tensors; only the shapes of `layer` are read, it may be on meta."""
    size = layer.weight.numel()
    expected: Expected = {"codes": ((-(-size // 2), 1), torch.uint8), "absmax": ((-(-size // BLOCK),), torch.float32)}
    if layer.bias is not None:
        expected["bias"] = ((layer.out_features,), layer.bias.dtype)
    return expected


def nf4_from_packed(layer: nn.Linear, tensors: Mapping[str, Tensor]) -> nn.Linear:
    """The NF4 layer that `nf4_tensors` took apart, in the place of `layer`, which may be on meta.

    Raises QuantizationError for tensors that are not those of such a layer.
    """
    from bitsandbytes.functional import QuantState  # seconds to import, and only this peer needs it
    from bitsandbytes.nn import Linear4bit, Params4bit

    expected = expected_nf4(layer)
    if {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} != expected:
        raise QuantizationError("The stored tensors are not those of an NF4 layer of this shape: quantise again.")
    codes, dtype = tensors["codes"], layer.weight.dtype
    options = {"blocksize": BLOCK, "quant_type": "nf4"}
    state = QuantState(tensors["absmax"], layer.weight.shape, _table(codes.device), dtype=dtype, **options)
    packed = Linear4bit(1, 1, bias=False, compute_dtype=dtype, compress_statistics=False, quant_type="nf4")
    packed.in_features, packed.out_features = layer.in_features, layer.out_features
    packed.weight = Params4bit(
        codes, quant_state=state, compress_statistics=False, module=packed, bnb_quantized=True, **options
    )
    packed.quant_state = state
    packed.bias = nn.Parameter(tensors["bias"], requires_grad=False) if "bias" in tensors else None
    return cast("nn.Linear", packed)


def _table(device: torch.device) -> Tensor:
    from bitsandbytes.functional import get_4bit_type

    table: Tensor = get_4bit_type("nf4", device=device)
    return table
