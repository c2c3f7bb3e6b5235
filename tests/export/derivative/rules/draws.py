"""Seeded random numbers and shapes for tests of rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Draws:
    """What a test draws, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        """low … high, both included."""
        return int(self.random.integers(low, high + 1))

    def sizes(self, rank: int, low: int = 1, high: int = 5) -> list[int]:
        return [self.integer(low, high) for _ in range(rank)]

    def choose(self, *options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def chance(self, probability: float = 0.5) -> bool:
        return bool(self.random.random() < probability)

    def some(self, count: int, low: int = 1) -> list[int]:
        """At least ``low`` of the numbers 0 … count − 1, in any order."""
        return [int(one) for one in self.random.permutation(count)[: self.integer(low, count)]]

    def normal(self, shape: Sequence[int]) -> Array:
        return self.random.standard_normal(tuple(shape)).astype(np.float32)

    def between(self, low: float, high: float, shape: Sequence[int]) -> Array:
        return self.random.uniform(low, high, tuple(shape)).astype(np.float32)

    def positive(self, shape: Sequence[int]) -> Array:
        return self.between(0.5, 2.0, shape)

    def apart(self, shape: Sequence[int]) -> Array:
        """Numbers that float32 and float64 put in the same order: no two closer than 0.1."""
        count = int(np.prod(shape, dtype=np.int64))
        return (self.random.permutation(count) / 8 - count / 16 + 0.03).reshape(tuple(shape)).astype(np.float32)
