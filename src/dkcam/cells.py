"""Places on a heatmap, in its cells: x from 0 to w, y from 0 to h; cell (i, j) of a float map [h, w] covers j..j+1 by i..i+1.
Between cell centres heat is linear, beyond the outermost constant, as overlays show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating[Any]]

TOLERANCE = 0.5  # of ``pointing``, in cells: the hottest cell's centre is no better known than that


@dataclass(frozen=True)
class Area:
    """A rectangle in cells."""

    left: float
    top: float
    right: float
    bottom: float

    def within(self, height: float, width: float) -> Area:
        """The part that lies on the map."""
        left, right = (min(max(value, 0.0), width) for value in (self.left, self.right))
        top, bottom = (min(max(value, 0.0), height) for value in (self.top, self.bottom))
        return Area(left, top, max(right, left), max(bottom, top))


def hottest(heat: Map) -> tuple[int, int]:
    """Row and column of the hottest cell, the first of equal ones."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(row), int(column)


def peak(heat: Map) -> tuple[float, float] | None:
    """Centre (x, y) of the hottest cell; None for a map without heat."""
    if not float(heat.max()) > 0:
        return None
    row, column = hottest(heat)
    return column + 0.5, row + 0.5


def pointing(heat: Map, *areas: Area, tolerance: float = TOLERANCE) -> float:
    """1 where the centre of the hottest cell lies in one of the areas, or within ``tolerance`` cells of it, else 0.

    The pointing game of Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, there with 15
    pixels. Of several equally hot cells, the share that hits: an even map gives the chance of a peak anywhere. A map
    without heat points nowhere.
    """
    if not float(heat.max()) > 0:
        return 0.0
    return float(hits(heat.shape, *areas, tolerance=tolerance)[heat == heat.max()].mean())


def hits(shape: tuple[int, ...], *areas: Area, tolerance: float = TOLERANCE) -> NDArray[np.bool_]:
    """The cells, bool [h, w], at which a peak points to one of the areas."""
    y, x = np.arange(shape[0])[:, None] + 0.5, np.arange(shape[1])[None] + 0.5
    found = np.zeros(shape, bool)
    for area in areas:
        found |= (y >= area.top - tolerance) & (y <= area.bottom + tolerance) & (x >= area.left - tolerance) & (x <= area.right + tolerance)
    return found


def interpolation(at: NDArray[np.float64], cells: int, dtype: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
    """Matrix [len(at), cells] along one axis: each place's share of the cells."""
    place = np.clip(at - 0.5, 0, cells - 1)
    low = np.floor(place).astype(int)
    share = (place - low).astype(dtype)
    matrix = np.zeros((len(at), cells), dtype)
    everywhere = np.arange(len(at))
    matrix[everywhere, low] = 1 - share
    matrix[everywhere, np.minimum(low + 1, cells - 1)] += share
    return matrix
