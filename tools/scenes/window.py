"""Windows of real frames: one object at a chosen size, alone in view."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from dkcam.rendered import Box
from dkcam.rendered.signs import Picture

TRIES = 12
MOST_ZOOM = 2.5  # output pixels per frame pixel
SHOWN = 0.97  # of the object's area
HIDDEN = 0.15  # of another object's area may be seen

Place = tuple[float, float, float]  # left and top in frame pixels, output pixels per frame pixel


def place_window(
    frame: tuple[int, int], target: Box, others: Iterable[Box], rng: np.random.Generator, size: tuple[int, int], wanted: float
) -> Place | None:
    """Where to cut a window so that ``target`` is ``wanted`` pixels wide in it, off centre at random.

    frame, size: height and width of the frame and of the window, in pixels. others: what the window may not show. None
    where there is no room.
    """
    scale = min(wanted / (target.right - target.left), MOST_ZOOM)
    wide, high = size[1] / scale, size[0] / scale
    if wide > frame[1] or high > frame[0]:
        return None
    left = rng.uniform(max(0.0, target.right - wide), max(min(target.left, frame[1] - wide), target.right - wide, 0.0))
    top = rng.uniform(max(0.0, target.bottom - high), max(min(target.top, frame[0] - high), target.bottom - high, 0.0))
    window = (left, top, left + wide, top + high)
    if overlap(target, *window) < SHOWN or any(overlap(other, *window) > HIDDEN for other in others):
        return None
    return left, top, scale


def in_window(box: Box, place: Place) -> Box:
    """A frame's box in the window's pixels."""
    left, top, scale = place
    return Box(box.label, (box.left - left) * scale, (box.top - top) * scale, (box.right - left) * scale, (box.bottom - top) * scale)


def overlap(box: Box, left: float, top: float, right: float, bottom: float) -> float:
    """Share of a box's area that lies inside a window, 0 to 1."""
    wide = min(box.right, right) - max(box.left, left)
    high = min(box.bottom, bottom) - max(box.top, top)
    return max(wide, 0.0) * max(high, 0.0) / max((box.right - box.left) * (box.bottom - box.top), 1e-9)


def cut(frame: Picture, place: Place, height: int, width: int) -> Picture:
    """The window's pixels, uint8 [height, width, 3]; edges are mirrored."""
    left, top, scale = place
    matrix = np.array([[1 / scale, 0, left], [0, 1 / scale, top]], np.float32)
    if scale < 1:  # warping skips pixels when it shrinks: average first
        x0, y0 = int(np.floor(left)), int(np.floor(top))
        x1, y1 = int(np.ceil(left + width / scale)), int(np.ceil(top + height / scale))
        if x0 >= 0 and y0 >= 0 and x1 <= frame.shape[1] and y1 <= frame.shape[0]:
            return np.asarray(cv2.resize(frame[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(frame, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8)
