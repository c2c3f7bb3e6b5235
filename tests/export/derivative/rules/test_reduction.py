"""Reductions, pulled back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.export.derivative.harness import ROUNDED, Operator, refused
from tests.export.derivative.harness import check_and_parse as check
from tests.export.derivative.rules.draws import Array, Draws

KINDS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceProd",
    "ReduceLogSum",
    "ReduceLogSumExp",
]


def numbers(draws: Draws, kind: str, shape: list[int]) -> Array:
    if kind in ("ReduceMax", "ReduceMin"):
        return draws.apart(shape)
    return draws.positive(shape) if kind in ("ReduceLogSum", "ReduceProd") else draws.normal(shape)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_over_some_axes(kind: str, number: int) -> None:
    draws = Draws(100 * number + len(kind))
    shape = draws.sizes(draws.integer(1, 4), 1, 4)
    axes = [axis - len(shape) if draws.chance() else axis for axis in draws.some(len(shape))]
    attributes = {"keepdims": number % 2} if draws.chance(0.8) else {}
    inputs: list[Array | None] = [numbers(draws, kind, shape), np.array(axes, np.int64)]
    if number == 0:
        inputs[1] = draws.choose(None, np.array([], np.int64))  # all
    check(Operator(kind, inputs, attributes), k=draws.choose(2, 3), random=number, exact=ROUNDED)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ReduceSum", "ReduceProd")])
def test_axes_as_an_attribute(kind: str) -> None:
    """As before opset 18."""
    numbers_ = numbers(Draws(len(kind)), kind, [2, 3, 4])
    check(Operator(kind, [numbers_], {"axes": [0, -1], "keepdims": 0}, opset=17), exact=ROUNDED)


@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMean", "ReduceL2", "ReduceMax"])
@pytest.mark.parametrize("keep", [0, 1])
def test_of_free_sizes(kind: str, keep: int) -> None:
    draws = Draws(keep)
    inputs = [numbers(draws, kind, [2, 3, 4, 5]), np.array([2, 3])]
    check(Operator(kind, inputs, {"keepdims": keep}, free={0: {0: "batch", 2: "H", 3: "W"}}), exact=ROUNDED)


@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin"])
def test_equals_share_evenly(kind: str) -> None:
    numbers = np.array([[1, 2, 2, 1, 1], [3, 3, 3, 0, 0]], np.float32)
    check(Operator(kind, [numbers, np.array([1])]), exact=ROUNDED)
    check(Operator(kind, [numbers, np.array([0, 1])], {"keepdims": 0}), exact=ROUNDED)


def test_a_product_with_zeros() -> None:
    numbers = np.array([[1, 2, 3], [0, 2, 3], [0, 0, 3]], np.float32)
    check(Operator("ReduceProd", [numbers, np.array([1])]))


def test_the_norm_of_nothing_is_flat() -> None:
    numbers = np.array([[0, 0, 0], [1, 2, 2]], np.float32)
    check(Operator("ReduceL2", [numbers, np.array([1])]))
    check(Operator("ReduceL1", [numbers, np.array([1])]))


@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("axes", [None, []])
def test_over_no_axes(kind: str, axes: list[int] | None) -> None:
    given = None if axes is None else np.array(axes, np.int64)
    attributes: dict[str, Any] = {"noop_with_empty_axes": 1, "keepdims": 0}
    check(Operator(kind, [Draws(2).normal([2, 3]), given], attributes))


def test_what_is_refused() -> None:
    x = Draws(3).normal([2, 3])
    refused(Operator("ReduceL2", [x, None], {"noop_with_empty_axes": 1}), "over no axes")
    refused(Operator("ReduceSum", [x, np.array([1])], computed=[1], declared=[[2, 1]]), "axes are computed", [2, 1])
