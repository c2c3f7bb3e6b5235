"""Operators on two or more inputs, number by number, by NumPy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent, unbroadcast
from dkcam.export.derivative.places import place_of
from dkcam.export.derivative.rule import Step, rule
from dkcam.export.derivative.rules.pointwise import square, where
from dkcam.export.writer import Writer

Slope = Callable[[Writer, Step, int], ir.Value | None]
"""(writer, step, number of an input) → dy/d(that input), of a shape that broadcasts to that of y; None is 1."""


def slopes(*kinds: str) -> Callable[[Slope], Slope]:
    """Enter operators by their local derivatives."""

    def enter(function: Slope) -> Slope:
        @rule(*kinds)
        def apply(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
            (cotangent,) = cotangents
            assert cotangent is not None
            place = place_of(cotangent)
            there = step if place is None else step.at(place)
            inner = cotangent if place is None else place.within(writer, cotangent)
            result = {}
            for index, active in enumerate(step.active):
                if active:
                    one = inner.times(writer, function(writer, there, index))
                    one = unbroadcast(writer, one, there.y, there.input(index))
                    result[index] = one if place is None else place.back(writer, one, step.input(index))
            return result

        return function

    return enter


@slopes("Add", "Sum")
def add(writer: Writer, step: Step, index: int) -> ir.Value | None:
    return None


@slopes("Sub")
def sub(writer: Writer, step: Step, index: int) -> ir.Value | None:
    return writer.number(-1) if index else None


@slopes("Mean")
def mean(writer: Writer, step: Step, index: int) -> ir.Value | None:
    return writer.number(1 / len(step.node.inputs))


@slopes("Mul")
def mul(writer: Writer, step: Step, index: int) -> ir.Value | None:
    return step.input(1 - index)


@slopes("Div")
def div(writer: Writer, step: Step, index: int) -> ir.Value | None:
    if index == 0:
        return writer.op("Reciprocal", step.input(1))
    return writer.neg(writer.div(step.y, step.input(1)))


@slopes("Pow")
def power(writer: Writer, step: Step, index: int) -> ir.Value | None:
    """e xᵉ⁻¹, 0 where e is 0; y ln x, 0 where x is 0 (no number where x is below, as in the network's own training)."""
    x = step.x
    exponent = writer.op("Cast", step.input(1), to=int(ir.DataType.FLOAT))
    if index == 1:
        return writer.mul(step.y, writer.op("Log", writer.op("Where", writer.op("Equal", x, writer.number(0)), writer.number(1), x)))
    numbers = step.constant(1)
    if numbers is not None and numbers.size == 1:
        scalar = float(numbers.reshape(()))
        if scalar == 1:
            return None
        if scalar in (2, 3):
            return writer.mul(x if scalar == 2 else square(writer, x), writer.number(scalar))
    flat = writer.op("Equal", exponent, writer.number(0))
    lower = writer.op("Where", flat, writer.number(0), writer.sub(exponent, writer.number(1)))
    return writer.mul(writer.op("Pow", x, lower), exponent)


@slopes("Where")
def choose(writer: Writer, step: Step, index: int) -> ir.Value | None:
    truth = step.input(0)
    return where(writer, truth if index == 1 else writer.op("Not", truth))


@slopes("Max", "Min")
def extreme(writer: Writer, step: Step, index: int) -> ir.Value | None:
    """The first of equal inputs takes it all."""
    count = len(step.node.inputs)
    if count == 1:
        return None
    before: ir.Value | None = None
    for other in range(index):
        here = writer.op("Equal", step.input(other), step.y)
        before = here if before is None else writer.op("Or", before, here)
    not_before = None if before is None else writer.op("Not", before)
    if index == count - 1 and not_before is not None:  # then it is this one
        return where(writer, not_before)
    here = writer.op("Equal", step.input(index), step.y)
    return where(writer, here if not_before is None else writer.op("And", here, not_before))


@rule("Mod")
def mod(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    raise step.refuse("the remainder of a division jumps")
