"""Cotangents that are zero but at one place of an axis: what a network reads of one token, one channel, one class.

Such a cotangent is a pair (g, d) with g of size 1 along the axis and d a constant that is 1 at the place and 0 elsewhere. An operator
that treats every place by itself is pulled back at that place alone: its values are sliced there, and d is put back afterwards. So what
K multiplies stays small until something mixes the places (an attention's keys).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.writer import Array, Writer, array_of, rank_of, shape_of


@dataclass(frozen=True)
class Place:
    """Numbers of the one place along some axes, which count from the end (−1 is the last). row: d there, the axes being 1."""

    at: tuple[tuple[int, int, int], ...]  # axis, number, size
    row: Array

    def slice(self, writer: Writer, value: ir.Value) -> ir.Value:
        """A value at the place; along an axis that it lacks, or has as 1, it is the same everywhere."""
        for axis, number, _ in self.at:
            if rank_of(value) >= -axis and shape_of(value)[axis] != 1:
                value = writer.slice(value, axis, number, number + 1)
        return value

    def within(self, writer: Writer, cotangent: Cotangent) -> Cotangent:
        """The cotangent at the place."""
        g = self.slice(writer, cotangent.g)
        return Cotangent(g if np.all(self.row == 1) else writer.mul(g, writer.constant(self.row, np.float32)))

    def back(self, writer: Writer, cotangent: Cotangent, source: ir.Value | None = None) -> Cotangent:
        """A cotangent at the place as one of all places, along those axes that ``source`` has."""
        hots = [
            (np.arange(size) == number).reshape(-1, *[1] * (-axis - 1))
            for axis, number, size in self.at
            if source is None or (rank_of(source) >= -axis and shape_of(source)[axis] != 1)
        ]
        if not hots:
            return cotangent
        return Cotangent(cotangent.whole(writer), writer.constant(reduce(np.multiply, hots), np.float32))


def place_of(cotangent: Cotangent) -> Place | None:
    """Where a constant d is not zero, if that is one place of an axis at least."""
    numbers = array_of(cotangent.d)
    if numbers is None or numbers.size == 1:
        return None
    at = []
    for axis in range(numbers.ndim):
        here = np.flatnonzero(numbers.any(axis=tuple(other for other in range(numbers.ndim) if other != axis)))
        if len(here) == 1 and numbers.shape[axis] > 1:
            at.append((axis - numbers.ndim, int(here[0]), numbers.shape[axis]))
    if not at:
        return None
    row = numbers
    for axis, number, _ in at:
        row = row.take([number], axis)
    return Place(tuple(at), row)


def canonical(writer: Writer, cotangent: Cotangent) -> Cotangent:
    """With d 1 at the place, where there is one: equal places are then one value."""
    place = place_of(cotangent)
    return cotangent if place is None else place.back(writer, place.within(writer, cotangent))
