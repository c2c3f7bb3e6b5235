"""Operators of two or more tensors that are broadcast against each other."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from dkcam.export.checking.operators.table import Call, operator

for kind, plain in {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}.items():
    operator(kind)(lambda call, a, b, plain=plain: plain(a, b))

for kind, plain in {
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
}.items():
    operator(kind, branches=(0, 1))(lambda call, a, b, plain=plain: call.choose(plain, a, b))

del kind, plain


@operator("Div")
def divide(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def modulo(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call.attribute("fmod", 0) else torch.remainder(a, b)


@operator("Pow")
def power(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


@operator("Where")
def where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@operator("Sum")
def total(call: Call, *values: Tensor) -> Tensor:
    return reduce(torch.add, values)


@operator("Mean")
def mean(call: Call, *values: Tensor) -> Tensor:
    return reduce(torch.add, values) / len(values)


@operator("Max", branches=None)
def maximum(call: Call, *values: Tensor) -> Tensor:
    return _extreme(call, values, 1)


@operator("Min", branches=None)
def minimum(call: Call, *values: Tensor) -> Tensor:
    return _extreme(call, values, -1)


def _extreme(call: Call, values: tuple[Tensor, ...], sign: int) -> Tensor:
    """The largest (sign 1) or smallest (−1); the first of equals, not a number where any is not."""

    def winner(*values: Tensor) -> Tensor:
        best, number = values[0], torch.zeros((), dtype=torch.int8)
        for index, value in enumerate(values[1:], start=1):
            later = (value > best if sign > 0 else value < best) | value.isnan()
            best, number = torch.where(later, value, best), torch.where(later, index, number)
        return number

    found, y = call.choose(winner, *values), values[0]
    for index, value in enumerate(values[1:], start=1):
        y = torch.where(found == index, value, y)
    return y
