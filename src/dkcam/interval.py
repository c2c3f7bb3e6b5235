"""Means with intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z = 1.959964  # of the normal distribution, 95 %
INTRACLASS = 0.1  # correlation within a group: 0.12 was measured for windows of one frame whose class int8 changes


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
    total, count = _per_group([value for value, _ in kept], [label for _, label in kept])
    drawn = np.random.default_rng(seed).integers(0, len(total), (rounds, len(total)))
    means = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Mean(float(total.sum() / count.sum()), float(low), float(high), len(kept))


def share(values: Sequence[bool], groups: Sequence[Hashable]) -> Mean:
    """Share of true values with Wilson's interval, as wide as for so many independent values as they are worth (Kish's design effect).

    The design effect is measured from the groups, but taken as 1 + ``INTRACLASS`` · (group size − 1) at least: where few values
    differ, nothing can be measured.
    """
    if not values:
        return Mean(math.nan, math.nan, math.nan, 0)
    true, sizes = _per_group(values, groups)
    found = float(true.sum() / sizes.sum())
    effective, z = worth(sizes), Z
    if len(sizes) < len(values):
        z = _student(len(sizes) - 1) if len(sizes) > 1 else math.inf
        variance = float(((true - found * sizes) ** 2).sum()) / sizes.sum() ** 2 * len(sizes) / max(len(sizes) - 1, 1)
        effective = min(effective, found * (1 - found) / variance) if variance > 0 else effective
    return Mean(found, *wilson(found, effective, z), len(values))


def mean_or_share(values: Sequence[float], groups: Sequence[Hashable]) -> Mean:
    """``share`` where every value is yes or no (1 or 0), whose interval has a width also where all say yes; else ``mean``."""
    if all(value in (0.0, 1.0) for value in values):
        return share([value == 1.0 for value in values], groups)
    return mean(values, groups)


def worth(sizes: NDArray[np.floating[Any]]) -> float:
    """How many independent values groups of these sizes are worth at most."""
    usual = float((sizes**2).sum() / sizes.sum())
    return float(sizes.sum()) / (1 + INTRACLASS * (usual - 1))


def wilson(found: float, count: float, z: float = Z) -> tuple[float, float]:
    """The score interval of a share 0..1 of ``count`` values: Wilson, JASA 22 (1927). (0, 1) without values."""
    if not count or math.isinf(z):
        return 0.0, 1.0
    middle = (found + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(found * (1 - found) / count + z**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def fewest(least: float) -> int:
    """How many independent values, all of them true, put the near end of Wilson's interval at ``least``, 0..1."""
    return math.ceil(Z**2 * least / (1 - least) - 1e-9)


def needed(least: float, count: float) -> float:
    """The share that puts the near end of Wilson's interval at ``least`` for ``count`` independent values; 1 where none does."""
    low, high = least, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if wilson(middle, count)[0] >= least else (middle, high)
    return high


def _student(freedom: int) -> float:
    """Student's t for 95 %: Abramowitz and Stegun, 26.7.5, within 2 % from 3 degrees of freedom on."""
    z = Z
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _per_group(values: Sequence[float], groups: Sequence[Hashable]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of each group's values."""
    sums: dict[Hashable, float] = {}
    counts: dict[Hashable, int] = {}
    for value, group in zip(values, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + value
        counts[group] = counts.get(group, 0) + 1
    return np.array(list(sums.values()), np.float64), np.array([counts[group] for group in sums], np.float64)


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
