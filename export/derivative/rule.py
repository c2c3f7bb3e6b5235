"""What a rule is, and what it is given.

A rule turns the cotangents of an operator's outputs into those of its inputs (a vector-Jacobian product). It reads every
attribute of the operator; what it cannot do right it refuses. One file a family under ``rules/``; ``@rule("Relu")`` enters
a function into the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import onnx_ir as ir

from dkcam.errors import ExportError
from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.places import Place, place_of
from dkcam.export.writer import FLOATS, Array, Writer, array_of, rank_of

T = TypeVar("T")


class UnsupportedOperator(ExportError):
    """An operator, or a form of it, that no rule can pull a gradient through."""

    def __init__(self, node: ir.Node, why: str = "") -> None:
        self.node, self.why = node, why
        super().__init__(f"no gradient passes {node.op_type} (node {node.name!r}){': ' + why if why else ''}")


COMPARED = frozenset({"MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Max", "Min"})  # rules look for the output among the inputs


def _rounded(value: ir.Value) -> ir.Value:
    """Behind the QuantizeLinear and DequantizeLinear that a value goes through, where nothing reads it otherwise."""
    readers = [use.node for use in value.uses()]
    if readers and all(node.op_type == "QuantizeLinear" for node in readers):
        for use in readers[0].outputs[0].uses():
            if use.node.op_type == "DequantizeLinear":
                return use.node.outputs[0]
    return value


@dataclass(frozen=True)
class Step:
    """One node of the network, as its rule sees it. ``active``: which inputs want a cotangent.

    ``x``, ``y``, ``input`` and ``output`` give floating-point values in float32, whatever the network computes in, and where there is
    a ``place`` only what is there.
    """

    writer: Writer
    node: ir.Node
    active: Sequence[bool]
    place: Place | None = None  # where alone the values are wanted

    @property
    def x(self) -> ir.Value:
        return self.input(0)

    @property
    def y(self) -> ir.Value:
        return self.output(0)

    def has(self, index: int) -> bool:
        """Whether there is an input of this number."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> ir.Value:
        value = self.node.inputs[index]
        assert value is not None, f"{self.node.op_type} has no input {index}"
        return self._wide(value)

    def output(self, index: int) -> ir.Value:
        """As the network goes on with it: behind the rounding of an int8 network, whose engine has nothing else."""
        value = self.node.outputs[index]
        return self._wide(value if self.node.op_type in COMPARED else _rounded(value))

    def at(self, place: Place) -> Step:
        """The same node at one place of some axes, if its inputs are aligned by NumPy's rule."""
        return replace(self, place=place)

    def _wide(self, value: ir.Value) -> ir.Value:
        value = value if self.place is None else self.place.slice(self.writer, value)
        return self.writer.float32(value) if value.dtype in FLOATS else value

    def constant(self, index: int) -> Array | None:
        """A constant input's numbers; None where it is missing or computed."""
        return array_of(self.node.inputs[index]) if self.has(index) else None

    def attribute(self, name: str, default: T) -> T:
        """An attribute's value, lists as lists; its type is the default's."""
        found: Any = self.node.attributes.get(name)
        if found is None:
            return default
        value = found.value
        return list(value) if isinstance(value, (list, tuple)) else value  # type: ignore[return-value]

    @property
    def rank(self) -> int:
        """Of the first input."""
        return rank_of(self.x)

    def refuse(self, why: str) -> UnsupportedOperator:
        """To be raised: what about this operator cannot be done."""
        return UnsupportedOperator(self.node, why)


Rule = Callable[[Writer, Step, Sequence[Cotangent | None]], Mapping[int, Cotangent]]
"""(writer, step, cotangent of each output, None where none arrived) → cotangent by number of the active input."""

RULES: dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Enter a rule for these operators."""

    def enter(function: Rule) -> Rule:
        for kind in kinds:
            assert kind not in RULES, f"two rules for {kind}"
            RULES[kind] = function
        return function

    return enter


Single = Callable[[Writer, Step, Cotangent], Cotangent]
"""Of an operator with one output and one input that can be active, the first."""


def single(*kinds: str) -> Callable[[Single], Single]:
    """Enter a rule for operators with one output, of whose inputs only the first may be active."""

    def enter(function: Single) -> Single:
        @rule(*kinds)
        def apply(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
            if any(step.active[1:]):
                raise step.refuse("its parameters depend on the picture")
            (cotangent,) = cotangents[:1]
            assert cotangent is not None
            return {0: function(writer, step, cotangent)}

        return function

    return enter


Local = Callable[[Writer, Step], ir.Value | None]
"""A local derivative dy/dx of the shape of x; None is 1."""


def by_place(writer: Writer, step: Step, cotangent: Cotangent, mixes: Sequence[int], function: Single) -> Cotangent:
    """``function`` at the one place where the cotangent is not zero, if there is one. mixes: axes whose places depend on each other."""
    place = place_of(cotangent)
    if place is None or {axis % step.rank for axis, _, _ in place.at}.intersection(axis % step.rank for axis in mixes):
        return function(writer, step, cotangent)
    return place.back(writer, function(writer, step.at(place), place.within(writer, cotangent)), step.x)


def pointwise(*kinds: str, aligned: bool = True) -> Callable[[Local], Local]:
    """Enter an operator that acts on each number by itself, by its local derivative.

    aligned: its inputs are broadcast by NumPy's rule, so that it may be pulled back at one place.
    """

    def enter(function: Local) -> Local:
        def times(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
            return cotangent.times(writer, function(writer, step))

        @single(*kinds)
        def apply(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
            return by_place(writer, step, cotangent, [], times) if aligned else times(writer, step, cotangent)

        return function

    return enter
