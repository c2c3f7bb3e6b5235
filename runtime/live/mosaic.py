"""Pictures of several cameras in one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dkcam.runtime.overlay import caption
from dkcam.runtime.recording import fitted

WIDEST = 1920  # pixels of the whole mosaic


class Mosaic:
    """Tiles of one size, from the first picture's; a camera without a picture is black with its name."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._columns = math.ceil(math.sqrt(len(names)))
        self._rows = math.ceil(len(names) / self._columns)
        self._canvas: NDArray[np.uint8] | None = None
        self._size = (0, 0)

    def put(self, camera: int, picture: NDArray[np.uint8]) -> None:
        """A camera's newest picture, uint8 [H, W, 3] BGR."""
        if self._canvas is None:
            self._begin(*picture.shape[:2])
        self._tile(camera)[:] = fitted(picture, *self._size)

    def picture(self) -> NDArray[np.uint8]:
        """A copy of the whole, uint8 [H, W, 3] BGR."""
        assert self._canvas is not None, "no camera has sent a picture yet"
        return self._canvas.copy()

    def _begin(self, height: int, width: int) -> None:
        wide = max(2, min(width, WIDEST // self._columns) // 2 * 2)
        self._size = max(2, round(height * wide / width) // 2 * 2), wide
        self._canvas = np.zeros((self._rows * self._size[0], self._columns * wide, 3), np.uint8)
        for camera, name in enumerate(self._names):
            caption(self._tile(camera), f"{camera}: {name}")

    def _tile(self, camera: int) -> NDArray[np.uint8]:
        assert self._canvas is not None
        (high, wide), row, column = self._size, *divmod(camera, self._columns)
        return self._canvas[row * high : (row + 1) * high, column * wide : (column + 1) * wide]
