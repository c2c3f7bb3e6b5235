"""Operators that act on each number by itself. Derivatives at kinks: see interpreter.py."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from dkcam.export.checking.operators.table import Call, operator

for kind, plain in {
    "Identity": lambda x: x,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Erf": torch.erf,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Tan": torch.tan,
    "Asin": torch.asin,
    "Acos": torch.acos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Tanh": torch.tanh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
    "Softplus": lambda x: torch.logaddexp(x, x.new_zeros(())),  # torch's softplus is x from 20 on: 2e-9 off
    "Softsign": lambda x: x / (1 + x.abs()),
    "Mish": lambda x: x * torch.tanh(torch.logaddexp(x, x.new_zeros(()))),
    "Not": torch.logical_not,
    "IsNaN": torch.isnan,
}.items():
    operator(kind)(lambda call, x, plain=plain: plain(x))

for kind, step in {"Sign": torch.sign, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round}.items():
    operator(kind, branches=(0,))(lambda call, x, step=step: call.choose(step, x))

del kind, plain, step


def zero(x: Tensor) -> Tensor:
    return x.new_zeros(())


def positive(x: Tensor) -> Tensor:
    return x > 0


@operator("Relu", branches=(0,))
def relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(call.choose(lambda x: x <= 0, x), zero(x), x) if call.seen else torch.relu(x)


@operator("LeakyRelu", branches=(0,))
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(call.choose(positive, x), x, x * call.attribute("alpha", 0.01))


@operator("PRelu", branches=(0,))
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(call.choose(positive, x), x, x * slope)


def _exponential_branch(call: Call, x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(x > 0, e^(x/scale) − 1 where it is not), without the overflow of the branch not taken."""
    line = call.choose(positive, x)
    return line, torch.expm1(torch.where(line, zero(x), x) / scale)


@operator("Elu", branches=(0,))
def elu(call: Call, x: Tensor) -> Tensor:
    line, exponential = _exponential_branch(call, x, 1.0)
    return torch.where(line, x, call.attribute("alpha", 1.0) * exponential)


@operator("Celu", branches=(0,))
def celu(call: Call, x: Tensor) -> Tensor:
    alpha = call.attribute("alpha", 1.0)
    line, exponential = _exponential_branch(call, x, alpha)
    return torch.where(line, x, alpha * exponential)


@operator("Selu", branches=(0,))
def selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call.attribute("alpha", 1.67326319217681884765625), call.attribute("gamma", 1.05070102214813232421875)
    line, exponential = _exponential_branch(call, x, 1.0)
    return gamma * torch.where(line, x, alpha * exponential)


@operator("ThresholdedRelu", branches=(0,))
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    alpha = call.attribute("alpha", 1.0)
    return torch.where(call.choose(lambda x: x > alpha, x), x, zero(x))


@operator("Shrink", branches=(0,))
def shrink(call: Call, x: Tensor) -> Tensor:
    bound, bias = call.attribute("lambd", 0.5), call.attribute("bias", 0.0)
    side = call.choose(lambda x: side_of(x, -bound, bound), x)
    return torch.where(side < 0, x + bias, torch.where(side > 0, x - bias, zero(x))).to(x.dtype)


def side_of(x: Tensor, low: float, high: float) -> Tensor:
    """−1 below low, 1 above high, 0 between them and at both."""
    return (x > high).to(torch.int8) - (x < low).to(torch.int8)


@operator("HardSigmoid", branches=(0,))
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    part = call.choose(lambda x: _part(x * alpha + beta, 0, 1), x)
    return torch.where(part < 0, zero(x), torch.where(part > 0, zero(x) + 1, x * alpha + beta))


def _part(x: Tensor, low: float, high: float) -> Tensor:
    """−1 at low and below, 1 at high and above, 0 between."""
    return (x >= high).to(torch.int8) - (x <= low).to(torch.int8)


@operator("HardSwish", branches=(0,))
def hard_swish(call: Call, x: Tensor) -> Tensor:
    part = call.choose(lambda x: _part(x, -3, 3), x)
    return torch.where(part < 0, zero(x), torch.where(part > 0, x, x * (x / 6 + 0.5)))


@operator("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.attribute("alpha", 1.0) * x)


@operator("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    form = call.attribute("approximate", "none")
    if form == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    if form == "none":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    raise call.refuse(f"approximate = {form!r}")


@operator("Abs", branches=(0,))
def absolute(call: Call, x: Tensor) -> Tensor:
    return x * call.choose(torch.sign, x) if call.seen else torch.abs(x)


@operator("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.attribute("detect_positive", 1):
        found = found | torch.isposinf(x)
    if call.attribute("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found


@operator("Clip", branches=(0,))
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    def part(x: Tensor) -> Tensor:
        above = torch.zeros_like(x, dtype=torch.bool) if high is None else x >= high
        below = torch.zeros_like(x, dtype=torch.bool) if low is None else x <= low
        if low is not None and high is not None:
            above, below = above | (low >= high), below & (low < high)  # bounds that cross: the upper one
        return above.to(torch.int8) - below.to(torch.int8)

    found = call.choose(part, x)
    if low is not None:
        x = torch.where(found < 0, low, x)
    return x if high is None else torch.where(found > 0, high, x)


@operator("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    call.attribute("saturate", 1)  # says something for 8-bit floats alone
    call.attribute("round_mode", "up")
    return x.to(call.torch_type(call.required("to")))


@operator("CastLike")
def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    call.attribute("saturate", 1)
    call.attribute("round_mode", "up")
    return x.to(like.dtype)


@operator("Dropout")
def dropout(call: Call, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> tuple[Tensor, ...]:
    call.attribute("seed", 0)
    if training is not None and bool(training):
        raise call.refuse("it is in training mode")
    return x, torch.ones_like(x, dtype=torch.bool)


def softmax_like(call: Call, x: Tensor, log: bool) -> Tensor:
    axis = call.attribute("axis", -1)
    return functional.log_softmax(x, axis) if log else functional.softmax(x, axis)


@operator("Softmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    return softmax_like(call, x, log=False)


@operator("LogSoftmax")
def log_softmax(call: Call, x: Tensor) -> Tensor:
    return softmax_like(call, x, log=True)


@operator("Hardmax", branches=(0,))
def hardmax(call: Call, x: Tensor) -> Tensor:
    axis = call.attribute("axis", -1)
    return torch.zeros_like(x).scatter(axis, call.choose(lambda x: x.argmax(axis, keepdim=True), x), 1.0)
