"""Means with intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
