"""Operators with one active input that act on each number by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.rule import Step, pointwise, rule
from dkcam.export.writer import Writer, array_of, rank_of


def where(writer: Writer, truth: ir.Value) -> ir.Value:
    """1.0 where it is true, else 0.0."""
    return writer.op("Cast", truth, to=int(ir.DataType.FLOAT))


def square(writer: Writer, value: ir.Value) -> ir.Value:
    return writer.mul(value, value)


def one_minus(writer: Writer, value: ir.Value) -> ir.Value:
    return writer.sub(writer.number(1), value)


def one_plus(writer: Writer, value: ir.Value) -> ir.Value:
    return writer.add(writer.number(1), value)


def negative_part(writer: Writer, value: ir.Value) -> ir.Value:
    """min(x, 0), so that an exponential of what a branch does not take stays finite."""
    return writer.op("Min", value, writer.number(0))


@pointwise("Identity", "Cast")
def same(writer: Writer, step: Step) -> ir.Value | None:
    """Numbers pass as they are."""
    return None


@rule("CastLike")
def cast_like(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    """Of the second input nothing but the type matters."""
    (cotangent,) = cotangents
    assert cotangent is not None
    return {0: cotangent} if step.active[0] else {}


@pointwise("Dropout")
def dropout(writer: Writer, step: Step) -> ir.Value | None:
    """Off at inference."""
    if step.has(2):
        training = step.constant(2)
        if training is None or bool(training.any()):
            raise step.refuse("it drops at random (training_mode)")
    return None


@pointwise("Neg")
def neg(writer: Writer, step: Step) -> ir.Value | None:
    return writer.number(-1)


@pointwise("Abs")
def absolute(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Sign", step.x)


@pointwise("Exp")
def exp(writer: Writer, step: Step) -> ir.Value | None:
    return step.y


@pointwise("Log")
def log(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Reciprocal", step.x)


@pointwise("Sqrt")
def sqrt(writer: Writer, step: Step) -> ir.Value | None:
    return writer.div(writer.number(0.5), step.y)


@pointwise("Reciprocal")
def reciprocal(writer: Writer, step: Step) -> ir.Value | None:
    return writer.neg(square(writer, step.y))


@pointwise("Erf")
def erf(writer: Writer, step: Step) -> ir.Value | None:
    return writer.mul(writer.op("Exp", writer.neg(square(writer, step.x))), writer.number(2 / math.sqrt(math.pi)))


# angles


@pointwise("Sin")
def sin(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Cos", step.x)


@pointwise("Cos")
def cos(writer: Writer, step: Step) -> ir.Value | None:
    return writer.neg(writer.op("Sin", step.x))


@pointwise("Tan")
def tan(writer: Writer, step: Step) -> ir.Value | None:
    return one_plus(writer, square(writer, step.y))


@pointwise("Asin")
def asin(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Reciprocal", writer.op("Sqrt", one_minus(writer, square(writer, step.x))))


@pointwise("Acos")
def acos(writer: Writer, step: Step) -> ir.Value | None:
    return writer.neg(writer.op("Reciprocal", writer.op("Sqrt", one_minus(writer, square(writer, step.x)))))


@pointwise("Atan")
def atan(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Reciprocal", one_plus(writer, square(writer, step.x)))


@pointwise("Sinh")
def sinh(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Cosh", step.x)


@pointwise("Cosh")
def cosh(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Sinh", step.x)


@pointwise("Asinh")
def asinh(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Reciprocal", writer.op("Sqrt", one_plus(writer, square(writer, step.x))))


@pointwise("Acosh")
def acosh(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Reciprocal", writer.op("Sqrt", writer.sub(square(writer, step.x), writer.number(1))))


@pointwise("Atanh")
def atanh(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Reciprocal", one_minus(writer, square(writer, step.x)))


# smooth activations


@pointwise("Sigmoid")
def sigmoid(writer: Writer, step: Step) -> ir.Value | None:
    return writer.mul(step.y, one_minus(writer, step.y))


@pointwise("Tanh")
def tanh(writer: Writer, step: Step) -> ir.Value | None:
    return one_minus(writer, square(writer, step.y))


@pointwise("Softplus")
def softplus(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Sigmoid", step.x)


@pointwise("Softsign")
def softsign(writer: Writer, step: Step) -> ir.Value | None:
    return writer.op("Reciprocal", square(writer, one_plus(writer, writer.op("Abs", step.x))))


@pointwise("Swish")
def swish(writer: Writer, step: Step) -> ir.Value | None:
    """y = x s, s = sigmoid(αx): s + α y (1 − s)."""
    alpha = writer.number(step.attribute("alpha", 1.0))
    s = writer.op("Sigmoid", writer.mul(step.x, alpha))
    return writer.add(s, writer.mul(writer.mul(step.y, alpha), one_minus(writer, s)))


@pointwise("Mish")
def mish(writer: Writer, step: Step) -> ir.Value | None:
    """y = x t, t = tanh(softplus(x)): t + x sigmoid(x) (1 − t²)."""
    t = writer.op("Tanh", writer.op("Softplus", step.x))
    slope = writer.mul(writer.op("Sigmoid", step.x), one_minus(writer, square(writer, t)))
    return writer.add(t, writer.mul(step.x, slope))


@pointwise("Gelu")
def gelu(writer: Writer, step: Step) -> ir.Value | None:
    """y = x Φ(x): Φ + x φ, or the same of the approximation by tanh."""
    kind = step.attribute("approximate", "none")
    if kind == "none":
        return _gelu(writer, step.x)
    if kind == "tanh":
        return _gelu_tanh(writer, step.x)
    raise step.refuse(f"approximate = {kind!r}")


def _gelu(writer: Writer, x: ir.Value) -> ir.Value:
    number = writer.number
    density = writer.mul(writer.op("Exp", writer.mul(square(writer, x), number(-0.5))), number(1 / math.sqrt(2 * math.pi)))
    below = writer.mul(one_plus(writer, writer.op("Erf", writer.mul(x, number(math.sqrt(0.5))))), number(0.5))
    return writer.add(below, writer.mul(x, density))


def _gelu_tanh(writer: Writer, x: ir.Value) -> ir.Value:
    """y = x (1 + t) / 2, t = tanh(u), u = √(2/π) (x + 0.044715 x³)."""
    number, scale = writer.number, math.sqrt(2 / math.pi)
    squared = square(writer, x)
    u = writer.mul(writer.mul(x, number(scale)), one_plus(writer, writer.mul(squared, number(0.044715))))
    slope = writer.add(number(scale), writer.mul(squared, number(scale * 3 * 0.044715)))
    t = writer.op("Tanh", u)
    bend = writer.mul(writer.mul(x, slope), one_minus(writer, square(writer, t)))
    return writer.mul(writer.add(one_plus(writer, t), bend), number(0.5))


# activations with kinks


@pointwise("Relu")
def relu(writer: Writer, step: Step) -> ir.Value | None:
    """1 where the output is positive: its sign, which takes a fifth less of a small graph than a comparison."""
    return writer.op("Sign", step.y)


@pointwise("LeakyRelu")
def leaky_relu(writer: Writer, step: Step) -> ir.Value | None:
    alpha = writer.number(step.attribute("alpha", 0.01))
    if 0 <= step.attribute("alpha", 0.01) <= 1:
        return writer.op("Max", writer.op("Sign", step.x), alpha)
    return _two_slopes(writer, step.x, alpha)


@pointwise("PRelu")
def prelu(writer: Writer, step: Step) -> ir.Value | None:
    return _two_slopes(writer, step.x, step.input(1))


def _two_slopes(writer: Writer, x: ir.Value, below: ir.Value, above: float = 1.0) -> ir.Value:
    return writer.op("Where", writer.op("Greater", x, writer.number(0)), writer.number(above), below)


@pointwise("ThresholdedRelu")
def thresholded_relu(writer: Writer, step: Step) -> ir.Value | None:
    return where(writer, writer.op("Greater", step.x, writer.number(step.attribute("alpha", 1.0))))


@pointwise("Shrink")
def shrink(writer: Writer, step: Step) -> ir.Value | None:
    return where(writer, writer.op("Greater", writer.op("Abs", step.x), writer.number(step.attribute("lambd", 0.5))))


@pointwise("Elu")
def elu(writer: Writer, step: Step) -> ir.Value | None:
    alpha = step.attribute("alpha", 1.0)
    below = writer.op("Exp", negative_part(writer, step.x))
    return below if alpha == 1 else _two_slopes(writer, step.x, writer.mul(below, writer.number(alpha)))


@pointwise("Celu")
def celu(writer: Writer, step: Step) -> ir.Value | None:
    below = negative_part(writer, step.x)
    alpha = step.attribute("alpha", 1.0)
    return writer.op("Exp", below if alpha == 1 else writer.div(below, writer.number(alpha)))


@pointwise("Selu")
def selu(writer: Writer, step: Step) -> ir.Value | None:
    alpha, gamma = step.attribute("alpha", 1.67326319217681884765625), step.attribute("gamma", 1.05070102214813232421875)
    below = writer.mul(writer.op("Exp", negative_part(writer, step.x)), writer.number(alpha * gamma))
    return _two_slopes(writer, step.x, below, gamma)


def _inside(writer: Writer, s: ir.Value) -> ir.Value:
    """1 where 0 < s < 1, for s in 0..1; by signs and products, which cost less than comparisons."""
    return writer.op("Sign", writer.sub(s, square(writer, s)))


@pointwise("HardSigmoid")
def hard_sigmoid(writer: Writer, step: Step) -> ir.Value | None:
    return writer.mul(_inside(writer, step.y), writer.number(step.attribute("alpha", 0.2)))


@pointwise("HardSwish")
def hard_swish(writer: Writer, step: Step) -> ir.Value | None:
    """y = x s, s = hard sigmoid of slope 1/6: s + x/6 where 0 < s < 1."""
    s = writer.op("HardSigmoid", step.x, alpha=1 / 6, beta=0.5)
    return writer.add(s, writer.mul(writer.mul(step.x, writer.number(1 / 6)), _inside(writer, s)))


@pointwise("Clip")
def clip(writer: Writer, step: Step) -> ir.Value | None:
    """0 at the bounds and beyond."""
    tests = []
    if step.has(1):
        tests.append(writer.op("Greater", step.x, step.input(1)))
    if step.has(2):
        tests.append(writer.op("Less", step.x, step.input(2)))
    if not tests:
        return None
    return where(writer, tests[0] if len(tests) == 1 else writer.op("And", *tests))


# a factor for each channel


@pointwise("BatchNormalization", aligned=False)
def batch_normalization(writer: Writer, step: Step) -> ir.Value | None:
    """scale / √(variance + ε), the statistics being constants."""
    if step.attribute("training_mode", 0):
        raise step.refuse("its statistics are those of the batch (training_mode)")
    epsilon = step.attribute("epsilon", 1e-5)
    scale, variance = step.input(1), step.input(4)
    numbers = array_of(scale), array_of(variance)
    if numbers[0] is not None and numbers[1] is not None:  # rounded once
        factor = writer.constant(numbers[0].astype(np.float64) / np.sqrt(numbers[1].astype(np.float64) + epsilon), np.float32)
    else:
        factor = writer.div(scale, writer.op("Sqrt", writer.add(variance, writer.number(epsilon))))
    return writer.reshape(factor, -1, [1] * max(rank_of(step.x) - 2, 0))
