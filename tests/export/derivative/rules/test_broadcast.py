"""Operators on several inputs by NumPy's broadcasting, pulled back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.export.derivative.harness import ROUNDED, Operator, refused
from tests.export.derivative.harness import check_and_parse as check
from tests.export.derivative.rules.draws import Array, Draws


def broadcast(draws: Draws, count: int) -> list[list[int]]:
    """Shapes that broadcast to one another, of ranks 0 … 4."""
    full = [draws.choose(1, 2), *draws.sizes(draws.integer(1, 3), 1, 4)]
    shapes: list[list[int]] = []
    for _ in range(count):
        own = full[draws.integer(0, len(full)) if shapes else 0 :]
        shapes.append([1 if draws.chance(0.3) else size for size in own])
    order = draws.some(count, count)
    return [shapes[index] for index in order]


def tried(kind: str, number: int, count: int, numbers: Callable[[Draws, list[int]], Array]) -> None:
    draws = Draws(1000 * count + number)
    inputs = [numbers(draws, shape) for shape in broadcast(draws, count)]
    active = sorted(draws.some(count))
    computed = [index for index in range(count) if index not in active and draws.chance()]
    check(Operator(kind, inputs, active=active, computed=computed), k=draws.choose(2, 3), random=number, exact=ROUNDED)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul"])
def test_of_two(kind: str, number: int) -> None:
    tried(kind, number, 2, Draws.normal)


@pytest.mark.parametrize("number", range(6))
def test_div(number: int) -> None:
    tried("Div", number, 2, Draws.positive)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("kind", ["Sum", "Mean"])
def test_of_several(kind: str, number: int) -> None:
    tried(kind, number, 1 + number % 4, Draws.normal)


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_extremes(kind: str, number: int) -> None:
    tried(kind, number, 1 + number % 4, Draws.apart)


@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_the_first_of_equals_takes_it_all(kind: str) -> None:
    numbers = [np.array([row], np.float32) for row in ([1, 2, 0, 2], [1, 0, 3, 2], [0, 2, 3, 2])]
    check(Operator(kind, numbers, active=[0, 1, 2]))
    check(Operator(kind, numbers, active=[1]))
    check(Operator(kind, numbers, active=[2]))


@pytest.mark.parametrize("exponent", [1, 2, 3, 0.5, -1, -2, 4, 0, [2, 0, 3, 0.5]])
def test_pow_of_a_constant_exponent(exponent: float | list[float]) -> None:
    base = Draws(2).positive([2, 3, 4])
    check(Operator("Pow", [base, np.array(exponent, np.float32)]), exact=ROUNDED)
    if exponent in (2, 0.5, 0):
        check(Operator("Pow", [base, np.array(exponent, np.float32)], computed=[1]), exact=ROUNDED)


@pytest.mark.parametrize("exponent", [2, 3, 4])
def test_pow_of_bases_below_zero(exponent: int) -> None:
    check(Operator("Pow", [Draws(3).normal([2, 9]), np.array(exponent, np.int64)]), exact=ROUNDED)


def test_pow_of_zero() -> None:
    base = np.array([[0, 0, 0, 1]], np.float32)
    check(Operator("Pow", [base, np.array([0, 1, 3, 0], np.float32)]))
    check(Operator("Pow", [base, np.array([0, 1, 3, 0], np.float32)], active=[0, 1]))


@pytest.mark.parametrize("number", range(4))
def test_pow_of_computed_exponents(number: int) -> None:
    draws = Draws(number)
    shapes = broadcast(draws, 2)
    check(Operator("Pow", [draws.positive(shape) for shape in shapes], active=[[1], [0, 1]][number % 2]), exact=ROUNDED)


@pytest.mark.parametrize("number", range(6))
def test_where(number: int) -> None:
    draws = Draws(number)
    truth, first, second = broadcast(draws, 3)
    active = [[1], [2], [1, 2]][number % 3]
    check(Operator("Where", [np.asarray(draws.random.random(truth) < 0.5), draws.normal(first), draws.normal(second)], active=active))


@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_of_free_sizes(kind: str) -> None:
    draws = Draws(5)
    x, channel = draws.normal([2, 3, 4, 5]), draws.normal([3, 1, 1])
    free = {0: "batch", 2: "H", 3: "W"}
    check(Operator(kind, [x, channel], free={0: free}))
    check(Operator(kind, [x, draws.normal([1, 3, 1, 5])], active=[0, 1], free={0: free, 1: {3: "W"}}))


def test_what_depends_on_a_free_size_is_refused() -> None:
    draws = Draws(6)
    pair = [draws.normal([2, 3, 4]), draws.normal([2, 3, 4])]
    refused(Operator("Add", pair, active=[0, 1], free={0: {2: "W"}, 1: {2: "V"}}), "depends on the size")


def test_mod_is_refused() -> None:
    draws = Draws(7)
    refused(Operator("Mod", [draws.positive([2, 3]), draws.positive([3])], {"fmod": 1}), "jumps")
