"""Where the heat lies. Heatmaps are float [h, w], ≥ 0; places are in cells, as in ``dkcam.cells``. Several areas count as their
union, but for ``iou``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dkcam.cells import Area, Map, interpolation, pointing

ANYWHERE = 64  # places of ``anywhere``


def energy(heat: Map, *areas: Area) -> float:
    """Share of the heat that lies in the areas, 0..1; 0 for a map without heat.

    The energy-based pointing game of Wang et al., "Score-CAM", CVPR workshops 2020, integrated exactly over the
    interpolated map.
    """
    total = _integral(heat, Area(0, 0, heat.shape[1], heat.shape[0]))
    return min(1.0, sum(_integral(heat, part) for part in _parts(heat.shape, areas)) / total) if total > 0 else 0.0


def area_share(shape: tuple[int, ...], *areas: Area, shown: Area | None = None) -> float:
    """The areas' share of the picture, 0..1: the energy of a map that is the same everywhere. shown: where the map shows the
    picture, default everywhere.
    """
    whole = (shown or Area(0, 0, shape[1], shape[0])).within(shape[0], shape[1])
    size = (whole.right - whole.left) * (whole.bottom - whole.top)
    return min(1.0, sum((part.right - part.left) * (part.bottom - part.top) for part in _parts(shape, areas)) / size) if size > 0 else 0.0


def energy_ratio(heat: Map, *areas: Area, shown: Area | None = None) -> float:
    """Energy over area share: 1 for even heat, above 1 where heat gathers in the areas; 0 for empty areas."""
    share = area_share(heat.shape, *areas, shown=shown)
    return energy(heat, *areas) / share if share > 0 else 0.0


def iou(heat: Map, *areas: Area, quantile: float = 0.8, fine: int = 16) -> float:
    """Intersection over union of an area and the map's hottest 1 − ``quantile``, 0..1; the best of several areas.

    Sampled at ``fine`` × ``fine`` points a cell. 0 for a map without heat.
    """
    if not float(heat.max()) > 0:
        return 0.0
    height, width = heat.shape
    y, x = (np.arange(cells * fine) / fine + 0.5 / fine for cells in (height, width))
    values = interpolation(y, height) @ heat.astype(np.float64) @ interpolation(x, width).T
    hot = values > np.quantile(values, quantile)
    best = 0.0
    for area in areas:
        inside = ((y >= area.top) & (y < area.bottom))[:, None] & ((x >= area.left) & (x < area.right))[None]
        union = int((hot | inside).sum())
        best = max(best, int((hot & inside).sum()) / union if union else 0.0)
    return best


def anywhere(heat: Map, most: int = ANYWHERE) -> Iterator[Map]:
    """The same map moved on, round the rim: to every place, or to ``most`` of them, drawn with a fixed seed."""
    for place in np.random.default_rng(0).permutation(heat.size)[:most]:
        down, right = divmod(int(place), heat.shape[1])
        yield np.roll(heat, (down, right), (0, 1))


def chance(heat: Map, *areas: Area, shown: Area | None = None) -> dict[str, float]:
    """What each measure gives for a map that knows nothing of the areas.

    pointing: of a peak in any cell whose centre shows the picture, each as likely; exact. energy, energy_ratio: of even
    heat there. iou, whose expectation depends on the map's form: of this very map at any place.
    """
    flat = even(heat.shape, shown)
    return {
        "pointing": pointing(flat, *areas),
        "energy": energy(flat, *areas),
        "energy_ratio": energy_ratio(flat, *areas, shown=shown),
        "iou": float(np.mean([iou(moved, *areas, fine=8) for moved in anywhere(heat)])),
    }


def even(shape: tuple[int, ...], shown: Area | None) -> NDArray[np.float64]:
    """1 in the cells whose centre shows the picture (or the one in its middle, where none does), else 0."""
    area = shown or Area(0, 0, shape[1], shape[0])
    axes = []
    for low, high, cells in ((area.top, area.bottom, shape[0]), (area.left, area.right, shape[1])):
        centres = np.arange(cells) + 0.5
        seen = (centres >= low) & (centres <= high)
        seen[min(max(int((low + high) / 2), 0), cells - 1)] = True
        axes.append(seen.astype(np.float64))
    return np.asarray(np.outer(*axes), np.float64)


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
    values = interpolation(y, heat.shape[0]) @ heat.astype(np.float64) @ interpolation(x, heat.shape[1]).T
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
    """The control that looks at nothing: highest in the middle, in exactly equal cells where that lies between them."""
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray(np.exp(-(((2 * y + 1 - height) / (2 * height)) ** 2 + ((2 * x + 1 - width) / (2 * width)) ** 2) / 0.125), np.float64)


def _parts(shape: tuple[int, ...], areas: tuple[Area, ...]) -> Iterator[Area]:
    """The union of the areas on the map, as rectangles that do not overlap."""
    inside = [area.within(shape[0], shape[1]) for area in areas]
    rows = sorted({edge for area in inside for edge in (area.top, area.bottom)})
    columns = sorted({edge for area in inside for edge in (area.left, area.right)})
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            if any(a.left <= left and right <= a.right and a.top <= top and bottom <= a.bottom for a in inside):
                yield Area(left, top, right, bottom)


def _integral(heat: Map, area: Area) -> float:
    rows, columns = _coverage(area.top, area.bottom, heat.shape[0]), _coverage(area.left, area.right, heat.shape[1])
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
