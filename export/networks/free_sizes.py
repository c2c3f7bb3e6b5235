"""Names for dimensions that are free: found by looking at several sizes, not by rules for each operator.

Every dimension that depends on batch, height and width is taken to be a sum of their products, c₀ + c₁·batch + c₂·height·width + …,
with one coefficient for each product; the sizes that are looked at determine the coefficients, further ones check them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import product

import numpy as np
import onnx_ir as ir

Size = tuple[int, int, int]  # batch, height, width
Polynomial = dict[tuple[str, ...], Fraction]
FREE = {"batch": ("batch",), "size": ("height", "width")}
COARSE = 128  # pixels: no feature map is coarser


def sizes(base: Size, dynamic: Sequence[str], step: int) -> list[Size]:
    """What to look at: the corners of a box above ``base``, ``step`` pixels wide, then a few more to check, above and below."""
    batch, height, width = base
    free = set(dynamic)
    batches = (batch + 1, batch + 2) if "batch" in free else (batch,)
    heights = (height, height + step) if "size" in free else (height,)
    widths = (width, width + step) if "size" in free else (width,)
    corners = list(product(batches, heights, widths))
    more = batch + 4 if "batch" in free else batch
    if "size" not in free:
        return [*corners, (more, height, width)]
    half = (batches[0], height - height // (2 * step) * step, width - width // (2 * step) * step)
    return [*corners, (more, height + 3 * step, width + 2 * step), (batches[0], height + 2 * step, width), half]


class Names:
    """Turns the values of a dimension at ``sizes(base, dynamic, step)`` into a number or a name."""

    def __init__(self, sizes: Sequence[Size], dynamic: Sequence[str]) -> None:
        self._points = [dict(zip(("batch", "height", "width"), size, strict=True)) for size in sizes]
        self._variables = [name for part in ("batch", "size") if part in dynamic for name in FREE[part]]
        self._found: dict[tuple[int | None, ...], Polynomial | None] = {}
        self._names: dict[tuple[int | None, ...], int | str | None] = {}

    def polynomial(self, values: tuple[int | None, ...]) -> Polynomial | None:
        """Coefficients by product of names, without zeros; None where the values are no such sum."""
        if values not in self._found:
            self._found[values] = self._fit(values)
        return self._found[values]

    def _fit(self, values: tuple[int | None, ...]) -> Polynomial | None:
        if any(value is None for value in values):
            return None
        names, points = self._variables, self._points
        corners = np.array([Fraction(value) for value in values[: 2 ** len(names)] if value is not None], object).reshape((2,) * len(names))
        for axis, name in enumerate(names):
            first, second = np.take(corners, 0, axis), np.take(corners, 1, axis)
            low = points[0][name]
            slope = (second - first) / Fraction(points[2 ** (len(names) - axis - 1)][name] - low)
            corners = np.stack([first - slope * low, slope], axis)
        found = {
            tuple(name for name, on in zip(names, which, strict=True) if on): corners[which]
            for which in product((0, 1), repeat=len(names))
            if corners[which] != 0
        }
        for value, point in zip(values, points, strict=True):
            if sum(c * math.prod(point[name] for name in term) for term, c in found.items()) != value:
                return None
        return found

    def name(self, values: tuple[int | None, ...]) -> int | str | None:
        """A number, a name ("height/32", "height*width/1024"), or None."""
        if values not in self._names:
            self._names[values] = self._named(values)
        return self._names[values]

    def _named(self, values: tuple[int | None, ...]) -> int | str | None:
        found = self.polynomial(values)
        if found is None:
            return None
        if not set(found) - {()}:
            return int(found.get((), Fraction(0)))
        text = "+".join(f"{c.numerator}*{'*'.join((*term, '1'))}/{c.denominator}" for term, c in found.items()).replace("+-", "-")
        return (ir.SymbolicDim(text) + 0).value  # as the arithmetic of dimensions writes it

    def stride(self, values: tuple[int | None, ...]) -> int:
        """Of which number height and width have to be multiples for this dimension to be whole."""
        found = self.polynomial(values) or {}
        return math.lcm(*(c.denominator for term, c in found.items() if term in (("height",), ("width",))), 1)
