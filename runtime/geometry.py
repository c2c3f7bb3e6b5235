"""How a frame becomes the network's input, and how a heatmap finds its way back.

Coordinates are continuous: a picture of W pixels runs from 0 to W, pixel i covers i to i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from dkcam.cells import Area, interpolation, peak
from dkcam.errors import InputError
from dkcam.fields import RESIZE_MODES
from dkcam.rendered import Box

PAD_GREY = 114  # letterbox bars, 0..255


@dataclass(frozen=True)
class Part:
    """Frame pixels top:bottom, left:right fill height × width input pixels from (to_top, to_left) on."""

    top: int
    left: int
    bottom: int
    right: int
    to_top: int
    to_left: int
    height: int
    width: int


@dataclass(frozen=True)
class Fit:
    """The map from a frame (frame_height × frame_width) to an input (height × width), pixels.

    mode: "stretch" fills the input and changes the aspect; "letterbox" shows the whole frame with grey borders;
    "crop" fills the input and cuts the frame's longer side. x_input = x_frame · scale_x + offset_x, y alike.
    """

    frame_height: int
    frame_width: int
    height: int
    width: int
    mode: str = "stretch"

    def __post_init__(self) -> None:
        if self.mode not in RESIZE_MODES:
            raise InputError(f"resize mode is {self.mode!r}, expected one of {', '.join(RESIZE_MODES)}")

    @cached_property
    def content(self) -> tuple[int, int]:
        """Height and width of the whole resized frame in input pixels."""
        if self.mode == "stretch":
            return self.height, self.width
        ratios = (self.height / self.frame_height, self.width / self.frame_width)
        ratio = min(ratios) if self.mode == "letterbox" else max(ratios)
        return max(1, round(self.frame_height * ratio)), max(1, round(self.frame_width * ratio))

    @cached_property
    def offset(self) -> tuple[int, int]:
        """Where the resized frame's top left corner lies in the input, (y, x); negative where it is cut."""
        return (self.height - self.content[0]) // 2, (self.width - self.content[1]) // 2

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels per frame pixel, (y, x)."""
        return self.content[0] / self.frame_height, self.content[1] / self.frame_width

    @cached_property
    def part(self) -> Part:
        """Which pixels of the frame go to which pixels of the input."""
        if self.mode != "crop":
            (high, wide), (down, aside) = self.content, self.offset
            return Part(0, 0, self.frame_height, self.frame_width, down, aside, high, wide)
        left, top = self.to_frame(0, 0)
        right, bottom = self.to_frame(self.width, self.height)
        # exact to the subpixel only where the cut is whole pixels
        y0, x0 = max(0, round(top)), max(0, round(left))
        y1, x1 = min(self.frame_height, max(round(bottom), y0 + 1)), min(self.frame_width, max(round(right), x0 + 1))
        return Part(y0, x0, y1, x1, 0, 0, self.height, self.width)

    def to_frame(self, x: float, y: float) -> tuple[float, float]:
        """Input coordinates to frame coordinates."""
        return (x - self.offset[1]) / self.scale[1], (y - self.offset[0]) / self.scale[0]

    def to_cells(self, x: float, y: float, shape: tuple[int, ...]) -> tuple[float, float]:
        """Frame coordinates to cells of a heatmap [h, w] over the input."""
        down, right = shape[0] / self.height, shape[1] / self.width
        return (x * self.scale[1] + self.offset[1]) * right, (y * self.scale[0] + self.offset[0]) * down

    def area(self, box: Box, shape: tuple[int, ...]) -> Area:
        """A frame's box in the cells of a heatmap [h, w]."""
        return Area(*self.to_cells(box.left, box.top, shape), *self.to_cells(box.right, box.bottom, shape))

    def box(self, box: Sequence[float]) -> tuple[float, float, float, float] | None:
        """A box (x1, y1, x2, y2), 0..1 of the input, in 0..1 of the frame, cut at its edges; None where the frame shows nothing of it."""
        left, top = self.to_frame(box[0] * self.width, box[1] * self.height)
        right, bottom = self.to_frame(box[2] * self.width, box[3] * self.height)
        size = (self.frame_width, self.frame_height)
        x1, y1, x2, y2 = (min(max(value / side, 0.0), 1.0) for value, side in zip((left, top, right, bottom), size * 2, strict=True))
        return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None

    def shown(self, shape: tuple[int, ...]) -> Area:
        """The cells of a heatmap [h, w] that show the frame: all of them, but for a letterbox's borders."""
        part = self.part
        down, right = shape[0] / self.height, shape[1] / self.width
        return Area(part.to_left * right, part.to_top * down, (part.to_left + part.width) * right, (part.to_top + part.height) * down)

    def cell(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """Height and width of a heatmap's cell in frame pixels."""
        return self.height / shape[0] / self.scale[0], self.width / shape[1] / self.scale[1]

    def peak(self, heat: NDArray[np.float32]) -> tuple[float, float] | None:
        """Centre of the hottest cell as (x, y), 0..1 of the frame, its rim where the input shows more; None without heat."""
        found = peak(heat)
        if found is None:
            return None
        x, y = self.to_frame(found[0] * self.width / heat.shape[1], found[1] * self.height / heat.shape[0])
        return float(np.clip(x / self.frame_width, 0, 1)), float(np.clip(y / self.frame_height, 0, 1))

    def spread(self, heatmap: NDArray[np.float32]) -> NDArray[np.float32]:
        """Heatmap float32 [h, w] over the input to float32 [H, W] over the frame.

        Linear between cell centres, constant beyond the outermost; 0 where the input does not show the frame.
        """
        rows = _pixels(self.frame_height, self.height, heatmap.shape[0], self.scale[0], self.offset[0])
        columns = _pixels(self.frame_width, self.width, heatmap.shape[1], self.scale[1], self.offset[1])
        return np.asarray(rows @ heatmap @ columns.T, np.float32)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2) in the same unit; 0 where both are empty."""
    wide, high = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    both = max(wide, 0.0) * max(high, 0.0)
    whole = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both
    return both / whole if whole > 0 else 0.0


@lru_cache(maxsize=64)
def _pixels(frame: int, size: int, cells: int, scale: float, offset: int) -> NDArray[np.float32]:
    """Matrix float32 [frame, cells]: each frame pixel's share of the cells along one axis, 0 where it is not shown."""
    place = (np.arange(frame) + 0.5) * scale + offset
    seen = ((place >= 0) & (place <= size)).astype(np.float32)
    return np.asarray(interpolation(place * cells / size, cells, np.float32) * seen[:, None], np.float32)
