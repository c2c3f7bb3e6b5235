"""How alike two heatmaps are. All take float arrays of the same shape [h, w] (or flat) and give a float."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dkcam.cells import Map, hottest

HOTTEST = 0.2


def pearson(a: Map, b: Map) -> float:
    """Pearson's correlation, −1..1; 0 where one of them is constant."""
    first, second = (values.astype(np.float64).ravel() for values in (a, b))
    first, second = first - first.mean(), second - second.mean()
    below = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / below if below > 0 else 0.0


def spearman(a: Map, b: Map) -> float:
    """Spearman's rank correlation, −1..1; equal values share their mean rank."""
    return pearson(ranks(a), ranks(b))


def ranks(values: Map) -> NDArray[np.float64]:
    """Ranks from 0, flat; equal values share their mean rank."""
    _, place, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[place.ravel()], np.float64)


def overlap_of_hottest(a: Map, b: Map, share: float = HOTTEST) -> float:
    """Intersection over union of the hottest ``share`` of the cells, 0..1."""
    count = max(1, math.ceil(share * a.size))
    first, second = (set(np.argsort(-values.ravel(), kind="stable")[:count].tolist()) for values in (a, b))
    return len(first & second) / len(first | second)


def peak_shift(a: Map, b: Map) -> float:
    """Distance of the hottest cells of two maps [h, w], in cells."""
    return math.dist(hottest(a), hottest(b))
