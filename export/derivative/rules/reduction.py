"""Sums, means, extremes and norms over axes. Their cotangents are even along those axes, times a local derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.axes import inserted
from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.rule import Step, single
from dkcam.export.derivative.rules.pointwise import where
from dkcam.export.writer import Writer, shape_of

TINY = 1e-30  # below any norm that counts: the gradient of a norm at 0 is 0
PLAIN = frozenset({"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"})  # over no axes these are the identity

Slope = Callable[[Writer, Step, ir.Value, Sequence[int]], ir.Value | None]
"""(writer, step, y with its axes kept, axes) → dy/dx, of a shape that broadcasts to that of x; None is 1."""


def axes_of(step: Step) -> list[int]:
    """The axes, none where nothing is reduced. Errors: they are computed."""
    given = step.attribute("axes", list[int]())
    if step.has(1):
        numbers = step.constant(1)
        if numbers is None:
            raise step.refuse("its axes are computed")
        given = numbers.reshape(-1).tolist()
    if given:
        return sorted(int(axis) % step.rank for axis in given)
    return [] if step.attribute("noop_with_empty_axes", 0) else list(range(step.rank))


def reduction(*kinds: str) -> Callable[[Slope], Slope]:
    """Enter reductions by their local derivatives."""

    def enter(function: Slope) -> Slope:
        @single(*kinds)
        def apply(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
            axes, y = axes_of(step), step.y
            if not axes:
                if step.node.op_type not in PLAIN:
                    raise step.refuse("over no axes (noop_with_empty_axes) runtimes differ in what it is")
                return cotangent
            if not step.attribute("keepdims", 1):
                cotangent = inserted(writer, cotangent, axes, step.rank)
                y = writer.unsqueeze(y, *axes)
            return cotangent.times(writer, function(writer, step, y, axes))

        return function

    return enter


@reduction("ReduceSum")
def total(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    return None


@reduction("ReduceMean")
def mean(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    shape = shape_of(step.x)
    count = writer.number(float(np.prod([size for axis in axes if isinstance(size := shape[axis], int)])))
    for axis in axes:
        if not isinstance(shape[axis], int):
            count = writer.mul(count, writer.size(step.x, axis))
    return writer.op("Reciprocal", count)


@reduction("ReduceMax", "ReduceMin")
def extreme(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    """Equals share evenly."""
    here = where(writer, writer.op("Equal", step.x, y))
    return writer.div(here, writer.sum(here, *axes))


@reduction("ReduceL1")
def l1(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    return writer.op("Sign", step.x)


@reduction("ReduceL2")
def l2(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    return writer.div(step.x, writer.op("Max", y, writer.number(TINY)))


@reduction("ReduceSumSquare")
def sum_square(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    return writer.mul(step.x, writer.number(2))


@reduction("ReduceProd")
def product(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    """The product of the others: that of all but zeros over x, where none of the others is zero."""
    zero = writer.op("Equal", step.x, writer.number(0))
    safe = writer.op("Where", zero, writer.number(1), step.x)
    zeros = where(writer, zero)
    others = writer.sub(writer.sum(zeros, *axes), zeros)
    quotient = writer.div(writer.op("ReduceProd", safe, writer.ints(*axes), keepdims=1), safe)
    return writer.mul(quotient, where(writer, writer.op("Equal", others, writer.number(0))))


@reduction("ReduceLogSum")
def log_sum(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    return writer.op("Reciprocal", writer.sum(step.x, *axes))


@reduction("ReduceLogSumExp")
def log_sum_exp(writer: Writer, step: Step, y: ir.Value, axes: Sequence[int]) -> ir.Value | None:
    return writer.op("Exp", writer.sub(step.x, y))
