"""What the models are tested on: windows of real road frames that no training saw, or rendered scenes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from dkcam.rendered import Box
from dkcam.runtime.geometry import PAD_GREY
from dkcam.tools.corruptions import rotation_matrix, stretch_matrix
from dkcam.tools.scenes.composed import ComposedScenes
from dkcam.tools.scenes.example import Example, SignSize
from dkcam.tools.scenes.rendered import RenderedScenes

SIZE = 192, 320  # of the demo model's input
Change = Callable[[Example, np.random.Generator], Example]


def draw(data: str, count: int, size: SignSize | None = None) -> list[Example]:
    """``count`` pictures with one sign each; the same signs and places for every size."""
    size = size or SignSize()
    if data == "rendered:":
        return rendered(count, size)
    composed = _composed(data)
    signs = [(frame, box) for frame in composed.frames["val"] for box in frame.boxes if box.label]
    order = np.random.default_rng(8351).permutation(len(signs))
    chosen = [signs[i] for i in order]
    return [composed.sign_of(chosen, np.random.default_rng((8351, n)), n, *SIZE, size) for n in range(count)]


@lru_cache(maxsize=1)
def _composed(data: str) -> ComposedScenes:
    """Read once: it is asked for at several sizes."""
    return ComposedScenes(Path(data))


def rendered(count: int, size: SignSize | None = None) -> list[Example]:
    """``count`` rendered scenes with one sign each."""
    found: list[Example] = []
    number, scenes = 0, RenderedScenes()
    while len(found) < count:
        example = scenes.validation(np.random.default_rng((8351, 1, number)), *SIZE, size or SignSize())
        number += 1
        if example.box is not None:
            found.append(example)
    return found


def changed(corruption: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    """A corruption that leaves everything in its place."""
    return lambda example, rng: replace(example, picture=corruption(example.picture, rng))


def rotated(degrees: float) -> Change:
    """Picture and box, turned about the sign's centre so that it stays in view."""
    return lambda example, rng: _moved(example, lambda shape: _about(example, rotation_matrix(shape, degrees)))


def stretched(ratio: float) -> Change:
    """Picture and box, stretched about the sign's centre."""
    return lambda example, rng: _moved(example, lambda shape: _about(example, stretch_matrix(shape, ratio)))


def _about(example: Example, matrix: np.ndarray) -> np.ndarray:
    """The same map, with the sign's centre as the fixed point."""
    assert example.box is not None
    centre = np.array([(example.box.left + example.box.right) / 2, (example.box.top + example.box.bottom) / 2])
    return np.column_stack([matrix[:, :2], centre - matrix[:, :2] @ centre])


def _moved(example: Example, matrix_of: Callable[[tuple[int, ...]], np.ndarray]) -> Example:
    matrix, box = matrix_of(example.picture.shape), example.box
    assert box is not None
    size = example.picture.shape[1], example.picture.shape[0]
    # grey beyond the edge: mirrored, the sign would be there twice
    picture = cv2.warpAffine(example.picture, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(PAD_GREY,) * 3)
    # signs are round more than square: the box keeps its sides' lengths under rotation
    wide = (box.right - box.left) * math.hypot(matrix[0, 0], matrix[1, 0])
    high = (box.bottom - box.top) * math.hypot(matrix[0, 1], matrix[1, 1])
    x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    place = Box(box.label, x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
    return Example(np.asarray(picture, np.uint8), example.label, place)
