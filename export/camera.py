"""Pictures that a camera could send: rendered road scenes, each under another condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.rendered import random_scene, render

Picture = NDArray[np.uint8]
Values = NDArray[np.float64]  # of a picture, 0..255


def _noisy(picture: Values, rng: np.random.Generator) -> Values:
    """High gain in dim light: read noise and shot noise, σ² = 8² + 4·value."""
    dim = picture * 0.5
    return dim + rng.normal(size=picture.shape) * np.sqrt(64 + 4 * dim)


def _blurred(picture: Values, rng: np.random.Generator) -> Values:
    """Out of focus: σ of a hundredth of the width."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), picture.shape[1] / 100), np.float64)


CONDITIONS: Mapping[str, Callable[[Values, np.random.Generator], Values]] = {
    "plain": lambda picture, rng: picture,
    "dark": lambda picture, rng: picture * 0.12,
    "bright": lambda picture, rng: picture * 1.6 + 50,  # clipped: the sky is white
    "low contrast": lambda picture, rng: picture * 0.15 + 140,  # fog
    "noisy": _noisy,
    "blurred": _blurred,
}


def camera_pictures(rng: np.random.Generator, height: int, width: int, count: int) -> list[tuple[str, Picture]]:
    """(condition, picture uint8 [height, width, 3] RGB) of as many different scenes, the conditions in turn."""
    names = list(CONDITIONS)
    found = []
    for index in range(count):
        name = names[index % len(names)]
        scene = render(random_scene(rng), height, width)[0][..., ::-1].astype(np.float64)
        found.append((name, np.ascontiguousarray(np.clip(np.rint(CONDITIONS[name](scene, rng)), 0, 255), np.uint8)))
    return found
