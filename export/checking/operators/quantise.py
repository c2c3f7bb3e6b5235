"""Rounding to whole numbers and back.

A quantised value stays a real tensor that holds whole numbers, so that autograd passes it straight through: rounding has derivative 1
inside the range of the type, and 0 where it is cut off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dkcam.export.checking.operators.table import Call, operator

RANGES = {
    torch.uint8: (0, 255),
    torch.int8: (-128, 127),
    torch.uint16: (0, 65535),
    torch.int16: (-32768, 32767),
    torch.int32: (-(2**31), 2**31 - 1),
}


class Quantised(torch.autograd.Function):
    """clamp(whole, low, high), where whole is a real x rounded: straight through to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, whole: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((whole >= low) & (whole <= high))
        return whole.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def _spread(call: Call, parameter: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point, one a tensor, an axis's place or a block, broadcast against x."""
    axis, block = call.attribute("axis", 1), call.attribute("block_size", 0)
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1:
        return parameter.reshape(())
    return parameter.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))


@operator("QuantizeLinear", branches=(0,))
def quantise(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    kind = call.attribute("output_dtype", 0)
    call.attribute("saturate", 1)  # says something for 8-bit floats alone
    call.attribute("precision", 0)  # of the division; all is computed in one
    wanted = zero.dtype if zero is not None else call.torch_type(kind) if kind else torch.uint8
    if wanted not in RANGES:
        raise call.refuse(f"to {wanted}")
    offset = x.new_zeros(()) if zero is None else _spread(call, zero.to(call.dtype), x)
    low, high = RANGES[wanted]
    step = _spread(call, scale, x)
    whole = call.choose(lambda x: torch.round(x / step) + offset, x)
    found: Tensor = Quantised.apply(x / step, whole, low, high)  # type: ignore[no-untyped-call]
    return found


@operator("DequantizeLinear")
def dequantise(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    call.attribute("output_dtype", 0)  # a real type: all are one
    x = x.to(call.dtype)
    if zero is not None:
        x = x - _spread(call, zero.to(call.dtype), x)
    return x * _spread(call, scale, x)
