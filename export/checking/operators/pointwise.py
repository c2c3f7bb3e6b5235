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

del kind, plain


def zero(x: Tensor) -> Tensor:
    return x.new_zeros(())


@operator("Relu")
def relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(call.branch(0, x) <= 0, zero(x), x) if call.seen else torch.relu(x)


@operator("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(call.branch(0, x) > 0, x, x * call.attribute("alpha", 0.01))


@operator("PRelu")
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(call.branch(0, x) > 0, x, x * slope)


def _exponential_branch(call: Call, x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(x > 0, e^(x/scale) − 1 where it is not), without the overflow of the branch not taken."""
    positive = call.branch(0, x) > 0
    return positive, torch.expm1(torch.where(positive, zero(x), x) / scale)


@operator("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    positive, exponential = _exponential_branch(call, x, 1.0)
    return torch.where(positive, x, call.attribute("alpha", 1.0) * exponential)


@operator("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    alpha = call.attribute("alpha", 1.0)
    positive, exponential = _exponential_branch(call, x, alpha)
    return torch.where(positive, x, alpha * exponential)


@operator("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call.attribute("alpha", 1.67326319217681884765625), call.attribute("gamma", 1.05070102214813232421875)
    positive, exponential = _exponential_branch(call, x, 1.0)
    return gamma * torch.where(positive, x, alpha * exponential)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(call.branch(0, x) > call.attribute("alpha", 1.0), x, zero(x))


@operator("Shrink")
def shrink(call: Call, x: Tensor) -> Tensor:
    bound, bias = call.attribute("lambd", 0.5), call.attribute("bias", 0.0)
    seen = call.branch(0, x)
    return torch.where(seen < -bound, x + bias, torch.where(seen > bound, x - bias, zero(x))).to(x.dtype)


def _hard_sigmoid(call: Call, x: Tensor, alpha: float, beta: float) -> Tensor:
    line = x * alpha + beta
    seen = call.branch(0, x) * alpha + beta
    return torch.where(seen <= 0, zero(x), torch.where(seen >= 1, zero(x) + 1, line))


@operator("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return _hard_sigmoid(call, x, call.attribute("alpha", 0.2), call.attribute("beta", 0.5))


@operator("HardSwish")
def hard_swish(call: Call, x: Tensor) -> Tensor:
    seen = call.branch(0, x)
    return torch.where(seen <= -3, zero(x), torch.where(seen >= 3, x, x * (x / 6 + 0.5)))


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


@operator("Abs")
def absolute(call: Call, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return torch.abs(x)
    return x * torch.sign(call.branch(0, x)) if call.seen else torch.abs(x)


@operator("Sign")
def sign(call: Call, x: Tensor) -> Tensor:
    return torch.sign(call.branch(0, x))


@operator("Floor")
def floor(call: Call, x: Tensor) -> Tensor:
    return torch.floor(call.branch(0, x))


@operator("Ceil")
def ceil(call: Call, x: Tensor) -> Tensor:
    return torch.ceil(call.branch(0, x))


@operator("Round")
def nearest(call: Call, x: Tensor) -> Tensor:
    return torch.round(call.branch(0, x))


@operator("IsInf")
def is_inf(call: Call, x: Tensor) -> Tensor:
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.attribute("detect_positive", 1):
        found = found | torch.isposinf(x)
    if call.attribute("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found


@operator("Clip")
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    seen = call.branch(0, x)
    if low is not None:
        x, seen = torch.where(seen <= low, low, x), torch.where(seen <= low, low, seen)
    if high is not None:
        x = torch.where(seen >= high, high, x)
    return x


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


@operator("Hardmax")
def hardmax(call: Call, x: Tensor) -> Tensor:
    axis = call.attribute("axis", -1)
    return torch.zeros_like(x).scatter(axis, call.branch(0, x).argmax(axis, keepdim=True), 1.0)
