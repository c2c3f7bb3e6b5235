"""Where the heat lies. Heatmaps are float [h, w], ≥ 0; places are in cells: x from 0 to w, y from 0 to h, cell (i, j)
covers j..j+1 by i..i+1. Between cell centres heat is linear, beyond the outermost constant, as overlays show it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Area:
    """A rectangle in cells."""

    left: float
    top: float
    right: float
    bottom: float

    def within(self, height: int, width: int) -> Area:
        """The part that lies on the map."""
        left, right = (min(max(value, 0.0), width) for value in (self.left, self.right))
        top, bottom = (min(max(value, 0.0), height) for value in (self.top, self.bottom))
        return Area(left, top, max(right, left), max(bottom, top))


def pointing(heat: Map, area: Area, tolerance: float = 0.5) -> bool:
    """Whether the centre of the hottest cell lies in the area, or within ``tolerance`` cells of it.

    The pointing game of Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, there with 15
    pixels. A map without heat points nowhere. Of equal cells the first one counts.
    """
    if not float(heat.max()) > 0:
        return False
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    x, y = float(column) + 0.5, float(row) + 0.5
    return area.left - tolerance <= x <= area.right + tolerance and area.top - tolerance <= y <= area.bottom + tolerance


def energy(heat: Map, area: Area) -> float:
    """Share of the heat that lies in the area, 0..1; 0 for a map without heat.

    The energy-based pointing game of Wang et al., "Score-CAM", CVPR workshops 2020, integrated exactly over the
    interpolated map.
    """
    inside = area.within(*heat.shape)
    total = _integral(heat, 0, heat.shape[0], 0, heat.shape[1])
    return _integral(heat, inside.top, inside.bottom, inside.left, inside.right) / total if total > 0 else 0.0


def area_share(shape: tuple[int, ...], area: Area) -> float:
    """The area's share of the map, 0..1: the energy of a map that is the same everywhere."""
    inside = area.within(shape[0], shape[1])
    return (inside.right - inside.left) * (inside.bottom - inside.top) / (shape[0] * shape[1])


def energy_ratio(heat: Map, area: Area) -> float:
    """Energy over area share: 1 for even heat, above 1 where heat gathers in the area; 0 for an empty area."""
    share = area_share(heat.shape, area)
    return energy(heat, area) / share if share > 0 else 0.0


def iou(heat: Map, area: Area, quantile: float = 0.8, fine: int = 16) -> float:
    """Intersection over union of the area and the map's hottest 1 − ``quantile``, 0..1.

    Sampled at ``fine`` × ``fine`` points a cell. 0 for a map without heat.
    """
    if not float(heat.max()) > 0:
        return 0.0
    height, width = heat.shape
    y, x = (np.arange(cells * fine) / fine + 0.5 / fine for cells in (height, width))
    values = _interpolation(y, height) @ heat.astype(np.float64) @ _interpolation(x, width).T
    hot = values > np.quantile(values, quantile)
    inside = ((y >= area.top) & (y < area.bottom))[:, None] & ((x >= area.left) & (x < area.right))[None]
    union = int((hot | inside).sum())
    return int((hot & inside).sum()) / union if union else 0.0


def entropy(heat: Map) -> float:
    """Shannon entropy of the heat over the cells, over its largest value: 0 for one hot cell, 1 for even heat.

    1 for a map without heat, which says as little as even heat.
    """
    values = heat.astype(np.float64).ravel()
    total = float(values.sum())
    if not total > 0 or values.size < 2:
        return 1.0
    shares = values[values > 0] / total
    return float(-(shares * np.log(shares)).sum() / math.log(values.size))


def heat_in(heat: Map, mask: NDArray[np.bool_]) -> float:
    """Share of the heat under a mask [H, W] that covers the same picture at any finer size, 0..1; 0 without heat."""
    y, x = ((np.arange(side) + 0.5) * cells / side for side, cells in zip(mask.shape, heat.shape, strict=True))
    values = _interpolation(y, heat.shape[0]) @ heat.astype(np.float64) @ _interpolation(x, heat.shape[1]).T
    total = float(values.sum())
    return float(values[mask].sum()) / total if total > 0 else 0.0


def centroid(heat: Map) -> tuple[float, float] | None:
    """Centre of the heat as (x, y), 0..1 of the map; None without heat."""
    values = heat.astype(np.float64)
    total = float(values.sum())
    if not total > 0:
        return None
    y, x = ((np.arange(cells) + 0.5) / cells for cells in heat.shape)
    return float(values.sum(0) @ x) / total, float(values.sum(1) @ y) / total


def centred_gaussian(height: int, width: int) -> NDArray[np.float64]:
    """The control that looks at nothing: highest in the middle."""
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray(np.exp(-(((y + 0.5) / height - 0.5) ** 2 + ((x + 0.5) / width - 0.5) ** 2) / 0.125), np.float64)


def _integral(heat: Map, top: float, bottom: float, left: float, right: float) -> float:
    rows, columns = _coverage(top, bottom, heat.shape[0]), _coverage(left, right, heat.shape[1])
    return float(rows @ heat.astype(np.float64) @ columns)


def _coverage(low: float, high: float, cells: int) -> NDArray[np.float64]:
    """Integral of each cell's interpolation weight from ``low`` to ``high``."""
    at = np.clip(np.array([low, high])[:, None] - (np.arange(cells) + 0.5), -1, 1)
    below = np.where(at < 0, (at + 1) ** 2 / 2, 1 - (1 - at) ** 2 / 2)  # of the hat function, from −1 on
    found = below[1] - below[0]
    # beyond the outermost centres the hat is flat at 1
    found[0] += _beyond(0.5 - low) - _beyond(0.5 - high)
    found[-1] += _beyond(high - cells + 0.5) - _beyond(low - cells + 0.5)
    return np.asarray(found, np.float64)


def _beyond(distance: float) -> float:
    """What the flat end has more than the hat's slope, from the centre outwards."""
    inside = min(max(distance, 0.0), 0.5)
    return inside - (0.5 - (1 - inside) ** 2 / 2)


def _interpolation(at: NDArray[np.float64], cells: int) -> NDArray[np.float64]:
    """Matrix [len(at), cells]: each place's share of the cells."""
    place = np.clip(at - 0.5, 0, cells - 1)
    low = np.floor(place).astype(int)
    matrix = np.zeros((len(at), cells))
    everywhere = np.arange(len(at))
    np.add.at(matrix, (everywhere, low), 1 - (place - low))
    np.add.at(matrix, (everywhere, np.minimum(low + 1, cells - 1)), place - low)
    return matrix
