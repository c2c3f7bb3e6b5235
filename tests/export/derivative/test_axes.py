"""Axes of cotangents: groups of equal product, runs of indices, pairs that stay pairs."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest

from dkcam.export.derivative.axes import along, groups, inserted, moved, removed, runs
from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.writer import Dimension, Writer, factors, shape_of
from tests.export.derivative.rules.draws import Draws

GROUPS: list[tuple[list[Dimension], list[Dimension], list[tuple[list[int], list[int]]]]] = [
    ([2, 3, 4], [6, 4], [([0, 1], [0]), ([2], [1])]),
    ([2, 6], [4, 3], [([0, 1], [0, 1])]),
    ([1, 6], [2, 3], [([0], []), ([1], [0, 1])]),
    ([5, 1], [5], [([0], [0]), ([1], [])]),
    ([], [1, 1], [([], [0]), ([], [1])]),
    (["batch", 12, "H", "W"], ["batch", 12, "H*W"], [([0], [0]), ([1], [1]), ([2, 3], [2])]),
    (["batch", "H*W", 12], ["batch", "H", "W", 3, 4], [([0], [0]), ([1], [1, 2]), ([2], [3, 4])]),
    (["batch", 12, "H", "W"], ["batch", 12, "unknown"], [([0], [0]), ([1], [1]), ([2, 3], [2])]),
    (["batch", 6, "H", 5], ["other", 2, 15], [([0, 1, 2, 3], [0, 1, 2])]),
    (["batch", 6], ["6*batch"], [([0, 1], [0])]),
    (["batch", 96, "H/4", "W/4"], ["batch", 96, "H*W/16"], [([0], [0]), ([1], [1]), ([2, 3], [2])]),
    ([2, 0, 3], [0, 6], [([0, 1, 2], [0, 1])]),
]


@pytest.mark.parametrize(("a", "b", "expected"), GROUPS)
def test_groups(a: list[Dimension], b: list[Dimension], expected: list[tuple[list[int], list[int]]]) -> None:
    assert groups(a, b) == expected
    assert groups(b, a) == [(right, left) for left, right in expected]


@pytest.mark.parametrize("number", range(50))
def test_groups_of_any_shape(number: int) -> None:
    """Every axis once and in order, equal products, and no group that could be cut in two."""
    draws = Draws(number)
    count = math.prod(draws.sizes(5, 1, 3))
    shapes: list[list[Dimension]] = []
    for _ in range(2):
        rest, shape = count, [1] * draws.integer(0, 1)
        while rest > 1:
            shape.append(draws.choose(*(d for d in range(2, rest + 1) if rest % d == 0)))
            rest //= shape[-1]
        shapes.append([*shape, *[1] * draws.integer(0, 1)])
    a, b = shapes
    split = groups(a, b)
    assert [axis for one, _ in split for axis in one] == list(range(len(a)))
    assert [axis for _, one in split for axis in one] == list(range(len(b)))
    for left, right in split:
        assert math.prod(a[i] for i in left) == math.prod(b[i] for i in right)
        sums = [{math.prod(s[i] for i in one[:end]) for end in range(1, len(one))} for s, one in ((a, left), (b, right))]
        assert not sums[0] & sums[1]


def test_factors() -> None:
    for dimension, number, names in (
        (4, 4, []),
        ("H", 1, ["H"]),
        ("4*H*W*H", 4, ["H", "H", "W"]),
        ("H*W/1024", Fraction(1, 1024), ["H", "W"]),
        ("3*H/2*W/4", Fraction(3, 8), ["H", "W"]),
        ("floor(H/2)*W", 1, ["floor(H/2)*W"]),
        ("H - 1", 1, ["H - 1"]),
        ("H//2", 1, ["H//2"]),
        ("6/H", 1, ["6/H"]),
    ):
        assert factors(dimension) == (Fraction(number), Counter(names))


def test_runs() -> None:
    assert runs(np.array([2, 3, 4])) == [(0, 3, 1)]
    assert runs(np.array([2, 1, 0, 1, 2])) == [(0, 3, -1), (3, 2, 1)]
    assert runs(np.array([0, 0, 0, 1, 2])) == [(0, 3, 0), (3, 2, 1)]
    assert runs(np.array([-1, 5, -1, 0, 4])) == [(1, 1, 1), (3, 1, 1), (4, 1, 1)]
    assert runs(np.array([], np.int64)) == []


def pair(g: list[int], d: list[int] | None) -> tuple[Writer, Cotangent]:
    values = [
        None if shape is None else ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        for name, shape in (("g", g), ("d", d))
    ]
    assert values[0] is not None
    return Writer(ir.Graph([values[0]], [], nodes=[], opset_imports={"": 18}), 18), Cotangent(values[0], values[1])


def shapes(cotangent: Cotangent) -> tuple[list[Dimension], list[Dimension] | None]:
    return shape_of(cotangent.g), None if cotangent.d is None else shape_of(cotangent.d)


def test_pairs_stay_pairs() -> None:
    writer, cotangent = pair([3, 2, 6, 1, 1], [6, 4, 5])
    assert shapes(moved(writer, cotangent, [0, 2, 3, 1])) == ([3, 2, 1, 1, 6], [1, 4, 5, 6])
    assert shapes(inserted(writer, cotangent, [0, 3], 6)) == ([3, 1, 2, 6, 1, 1, 1], [6, 1, 4, 5])
    writer, cotangent = pair([3, 2, 1, 5, 1], [1, 5, 1])
    assert shapes(removed(writer, cotangent, [1, 3], 4)) == ([3, 2, 5], [5])


def test_a_map_goes_to_the_part_that_varies() -> None:
    y = ir.Value(name="y", shape=ir.Shape([2, 4]), type=ir.TensorType(ir.DataType.FLOAT))

    def halved(value: ir.Value, axis: int) -> ir.Value:
        return writer.slice(value, axis, 0, 2)

    ones = np.array([1.0, 1.0])
    for g, d, expected in (
        ([3, 2, 4], None, ([3, 2, 2], None)),
        ([3, 2, 1], [4], ([3, 2, 1], [2])),
        ([3, 2, 4], [2, 1], ([3, 2, 2], [2, 1])),
        ([3, 2, 4], [4], ([3, 2, 2], None)),
        ([3, 2, 1], [2, 1], ([3, 2, 1], [2, 1])),
        ([3, 2, 1], None, ([3, 2, 1], None)),
    ):
        writer, cotangent = pair(g, d)
        assert shapes(along(writer, cotangent, 1, y, halved, ones)) == expected
    writer, cotangent = pair([3, 2, 1], None)
    assert shapes(along(writer, cotangent, 1, y, halved, np.array([1.0, 2.0]))) == ([3, 2, 1], [2])  # the sums alone vary
    assert shapes(along(writer, cotangent, 1, y, halved)) == ([3, 2, 2], None)  # spread out first
