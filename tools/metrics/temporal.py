"""How steady the heat is from frame to frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]


def jitter(points: Sequence[Point | None], objects: Sequence[Point | None] | None = None) -> float:
    """Root mean square of a point's step from frame to frame, in the points' unit; nan without two frames in a row.

    points: peak or centroid of each frame, None where there is none. objects: the explained object's centre in the same
    unit; its own step is subtracted, and steps where it is missing do not count.
    """
    squares = []
    for i in range(1, len(points)):
        before, now = points[i - 1], points[i]
        if before is None or now is None:
            continue
        x, y = now[0] - before[0], now[1] - before[1]
        if objects is not None:
            was, there = objects[i - 1], objects[i]
            if was is None or there is None:
                continue
            x, y = x - (there[0] - was[0]), y - (there[1] - was[1])
        squares.append(x * x + y * y)
    return math.sqrt(sum(squares) / len(squares)) if squares else math.nan
