"""Normalisations and softmax. Their statistics are computed once more, from x, in float32; scales and biases are not active.

With x̂ = (x − mean) / √(variance + ε), a cotangent m of x̂ gives (m − mean m − x̂ · mean(m x̂)) / √(variance + ε).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dkcam.export.derivative.axes import regrouped
from dkcam.export.derivative.cotangent import Cotangent, merge, spread
from dkcam.export.derivative.rule import Step, by_place, rule, single
from dkcam.export.derivative.rules.pointwise import square
from dkcam.export.writer import Writer, rank_of, shape_of

PER_CHANNEL = 21  # opset from which GroupNormalization has a scale for each channel, not for each group


@dataclass(frozen=True)
class Normalised:
    """x̂ of the shape of x, and 1 / √(variance + ε), with the axes that were averaged over."""

    hat: ir.Value
    inverse: ir.Value
    axes: Sequence[int]


def normalised(writer: Writer, x: ir.Value, axes: Sequence[int], epsilon: float, *, centred: bool = True) -> Normalised:
    """x̂ over some axes; not ``centred`` divides by the root of the mean square."""
    if centred:
        x = writer.sub(x, writer.mean(x, *axes))
    spread_by = writer.add(writer.mean(square(writer, x), *axes), writer.number(epsilon))
    inverse = writer.op("Reciprocal", writer.op("Sqrt", spread_by))
    return Normalised(writer.mul(x, inverse), inverse, axes)


def through(writer: Writer, m: ir.Value, by: Normalised, *, centred: bool = True) -> Cotangent:
    """The cotangent of x for that of x̂, m [K, *x]."""
    axes = [axis + 1 for axis in by.axes]
    along_hat = writer.mul(by.hat, writer.mean(writer.mul(m, by.hat), *axes))
    if centred:
        m = writer.sub(m, writer.mean(m, *axes))
    return Cotangent(writer.sub(m, along_hat), by.inverse)


@rule("LayerNormalization")
def layer(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    """Also of its second and third outputs, the mean and 1 / √(variance + ε)."""
    if any(step.active[1:]):
        raise step.refuse("its scale or bias depends on the picture")
    rank = step.rank
    axes = list(range(step.attribute("axis", -1) % rank, rank))
    of_y, of_mean, of_inverse = (*cotangents, None, None)[:3]
    parts = []
    if of_y is not None:
        parts.append(by_place(writer, step, of_y, axes, _layer))
    if of_mean is not None:
        parts.append(_over_count(writer, of_mean, step.x, axes))
    if of_inverse is not None:  # d(1/σ)/dx = −x̂ / σ² / n
        by = normalised(writer, step.x, axes, step.attribute("epsilon", 1e-5))
        slope = writer.neg(writer.mul(by.hat, square(writer, by.inverse)))
        parts.append(_over_count(writer, of_inverse, step.x, axes).times(writer, slope))
    return {0: merge(writer, parts)}


def _layer(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """Of the first output alone."""
    axes = list(range(step.attribute("axis", -1) % step.rank, step.rank))
    by = normalised(writer, step.x, axes, step.attribute("epsilon", 1e-5))
    return through(writer, cotangent.times(writer, step.input(1)).whole(writer), by)


def _over_count(writer: Writer, cotangent: Cotangent, x: ir.Value, axes: Sequence[int]) -> Cotangent:
    for axis in axes:
        cotangent = cotangent.times(writer, writer.op("Reciprocal", writer.size(x, axis)))
    return cotangent


@single("RMSNormalization")
def rms(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    axes = list(range(step.attribute("axis", -1) % step.rank, step.rank))

    def pulled(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
        by = normalised(writer, step.x, axes, step.attribute("epsilon", 1e-5), centred=False)
        return through(writer, cotangent.times(writer, step.input(1)).whole(writer), by, centred=False)

    return by_place(writer, step, cotangent, axes, pulled)


@single("InstanceNormalization")
def instance(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    scale = writer.reshape(step.input(1), -1, [1] * (step.rank - 2))
    by = normalised(writer, step.x, list(range(2, step.rank)), step.attribute("epsilon", 1e-5))
    return through(writer, cotangent.times(writer, scale).whole(writer), by)


@single("GroupNormalization")
def group(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """Channels [C] as [groups, C / groups]; the scale is one for each group before opset 21, one for each channel after."""
    count, channels = step.attribute("num_groups", 1), shape_of(step.x)[1]
    if not isinstance(channels, int):
        raise step.refuse("the number of channels is free")
    wanted = channels if writer.opset >= PER_CHANNEL else count
    if shape_of(step.input(1)) != [wanted]:
        raise step.refuse(f"its scale has shape {shape_of(step.input(1))}, which opset {writer.opset} says is [{wanted}]")
    inner = [1] * (step.rank - 2)
    split = writer.reshape(step.x, writer.dims(step.x, 0, 1), [count, channels // count], writer.dims(step.x, 2))
    scale = writer.reshape(step.input(1), [count, -1], inner)
    by = normalised(writer, split, list(range(2, rank_of(split))), step.attribute("epsilon", 1e-5))
    m = regrouped(writer, cotangent, split, step.x).times(writer, scale).whole(writer)
    return regrouped(writer, through(writer, m, by), step.x, split)


@single("MeanVarianceNormalization")
def mean_variance(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """y = (x − mean) / (σ + ε): (m − mean m − x̂ · mean(m y)) / (σ + ε), x̂ = (x − mean) / σ."""
    axes = [axis % step.rank for axis in step.attribute("axes", [0, 2, 3])]
    centred = writer.sub(step.x, writer.mean(step.x, *axes))
    sigma = writer.op("Sqrt", writer.mean(square(writer, centred), *axes))
    inverse = writer.op("Reciprocal", writer.add(sigma, writer.number(1e-9)))
    m, up = cotangent.whole(writer), [axis + 1 for axis in axes]
    along_hat = writer.mul(writer.div(centred, sigma), writer.mean(writer.mul(m, step.y), *up))
    return Cotangent(writer.sub(writer.sub(m, writer.mean(m, *up)), along_hat), inverse)


@single("LpNormalization")
def lp(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """y = x / ‖x‖: (m − s Σ m y) / ‖x‖, s being y for the root of squares, the sign for the sum of absolutes."""
    axis, p = step.attribute("axis", -1) % step.rank, step.attribute("p", 2)
    if p not in (1, 2):
        raise step.refuse(f"p = {p}")
    norm = writer.op(f"ReduceL{p}", step.x, writer.ints(axis), keepdims=1)
    m = cotangent.whole(writer)
    slope = step.y if p == 2 else writer.op("Sign", step.x)
    inner = writer.sub(m, writer.mul(slope, writer.sum(writer.mul(m, step.y), axis + 1)))
    return Cotangent(inner, writer.op("Reciprocal", norm))


@single("Softmax")
def softmax(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """y (m − Σ m y)."""
    axis = step.attribute("axis", -1) % step.rank

    def pulled(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
        m = cotangent.whole(writer)
        return Cotangent(writer.sub(m, writer.sum(writer.mul(m, step.y), axis + 1)), step.y)

    return by_place(writer, step, cotangent, [axis], pulled)


@single("LogSoftmax")
def log_softmax(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """m − softmax · Σ m."""
    axis = step.attribute("axis", -1) % step.rank
    m = spread(writer, cotangent.whole(writer), axis, shape_of(step.y)[axis], step.y)
    return Cotangent(writer.sub(m, writer.mul(writer.op("Exp", step.y), writer.sum(m, axis + 1))))


@rule("Hardmax")
def hardmax(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    raise step.refuse("it is a step; Softmax is smooth")
