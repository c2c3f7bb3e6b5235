"""Means with intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z = 1.959964  # of the normal distribution, 95 %


@dataclass(frozen=True)
class Mean:
    """value with its 95 % interval low..high over ``count`` values; nan without any."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})" if self.count else "–"


def mean(values: Sequence[float], groups: Sequence[Hashable] | None = None, rounds: int = 1000, seed: int = 0) -> Mean:
    """Mean and percentile bootstrap (Efron and Tibshirani 1993, chapter 13); nan values are left out.

    groups: what belongs together (the frame of each value): whole groups are drawn, since objects of one frame are no
    independent evidence. Default: each value on its own.
    """
    labels = groups if groups is not None else range(len(values))
    kept = [(value, label) for value, label in zip(values, labels, strict=True) if not math.isnan(value)]
    if not kept:
        return Mean(math.nan, math.nan, math.nan, 0)
    sums: dict[Hashable, float] = {}
    counts: dict[Hashable, int] = {}
    for value, label in kept:
        sums[label] = sums.get(label, 0.0) + value
        counts[label] = counts.get(label, 0) + 1
    total, count = np.array(list(sums.values())), np.array([counts[label] for label in sums])
    drawn = np.random.default_rng(seed).integers(0, len(total), (rounds, len(total)))
    means = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Mean(float(total.sum() / count.sum()), float(low), float(high), len(kept))


def share(values: Sequence[bool], groups: Sequence[Hashable]) -> Mean:
    """Share of true values; its interval is the wider, on each side, of Wilson's (1927) and the bootstrap over groups.

    Where every value is true the bootstrap has no width, and Wilson's still tells few values from many; where the values of
    a group are alike, Wilson's is too narrow.
    """
    drawn, (low, high) = mean([float(value) for value in values], groups), wilson(sum(values), len(values))
    return Mean(drawn.value, min(drawn.low, low), max(drawn.high, high), drawn.count) if values else drawn


def wilson(true: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share: Wilson, JASA 22 (1927). (0, 1) without values."""
    if not count:
        return 0.0, 1.0
    middle = (true + Z**2 / 2) / (count + Z**2)
    half = Z / (count + Z**2) * math.sqrt(true * (count - true) / count + Z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def fewest(least: float) -> int:
    """How many values, all of them true, put the near end of Wilson's interval at ``least``, 0..1."""
    return math.ceil(Z**2 * least / (1 - least) - 1e-9)


def mean_of_table(values: NDArray[np.floating[Any]], rounds: int = 1000, seed: int = 0) -> Mean:
    """Mean of [models, pictures] with an interval over both: rows and columns are drawn, each with replacement."""
    table = np.asarray(values, np.float64)
    if not table.size:
        return Mean(math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    # how often each row and each column was drawn
    rows, columns = (rng.multinomial(side, np.full(side, 1 / side), rounds) for side in table.shape)
    means = ((rows @ table) * columns).sum(1) / table.size
    low, high = np.quantile(means, [0.025, 0.975])
    return Mean(float(table.mean()), float(low), float(high), table.size)
