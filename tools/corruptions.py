"""What goes wrong with pictures, on purpose: noise, contrast, rotation, stretching, blur, darkness.

Written "noise 0.5", "contrast 0.3", …: a name and its strength. All take and give uint8 [H, W, 3] of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.errors import DataError

Picture = NDArray[np.uint8]


def noise(picture: Picture, variance: float, rng: np.random.Generator, back: str = "clip") -> Picture:
    """Gaussian noise of this variance on pixels scaled to 0..1, brought back to 0..255.

    back: "clip" cuts what lies outside 0..1; "minmax" stretches the picture's own range to 0..255, which keeps more of
    the picture at high variance. Liu et al. (Sensors 2023, 23, 8351) do not say which they used.
    """
    if variance == 0:
        return picture.copy()
    noisy = picture.astype(np.float32) / 255 + rng.normal(0, np.sqrt(variance), picture.shape).astype(np.float32)
    if back == "minmax":
        low, high = float(noisy.min()), float(noisy.max())
        noisy = (noisy - low) / max(high - low, 1e-9)
    return np.asarray(np.rint(np.clip(noisy, 0, 1) * 255), np.uint8)


def contrast(picture: Picture, factor: float, rng: np.random.Generator) -> Picture:
    """Differences from the picture's mean grey, times ``factor``: 1 leaves it, 0 is grey."""
    middle = float(picture.mean())
    return np.asarray(np.clip(np.rint((picture.astype(np.float32) - middle) * factor + middle), 0, 255), np.uint8)


def brightness(picture: Picture, factor: float, rng: np.random.Generator) -> Picture:
    """All values times ``factor``: 0.3 is dusk."""
    return np.asarray(np.clip(np.rint(picture.astype(np.float32) * factor), 0, 255), np.uint8)


def blur(picture: Picture, sigma: float, rng: np.random.Generator) -> Picture:
    """Gaussian blur, sigma in pixels."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8) if sigma > 0 else picture.copy()


def rotation(picture: Picture, degrees: float, rng: np.random.Generator) -> Picture:
    """About the centre, anticlockwise; corners are mirrored in."""
    return _warped(picture, rotation_matrix(picture.shape, degrees))


def stretch(picture: Picture, ratio: float, rng: np.random.Generator) -> Picture:
    """Width over height of things, times ``ratio``, about the centre: 3 makes them wide, 1/3 tall; the longer axis fits."""
    return _warped(picture, stretch_matrix(picture.shape, ratio))


def rotation_matrix(shape: tuple[int, ...], degrees: float) -> NDArray[np.float64]:
    """Where pixels go, [2, 3]."""
    return np.asarray(cv2.getRotationMatrix2D((shape[1] / 2, shape[0] / 2), degrees, 1.0), np.float64)


def stretch_matrix(shape: tuple[int, ...], ratio: float) -> NDArray[np.float64]:
    """Where pixels go, [2, 3]."""
    wide, high = (1.0, 1 / ratio) if ratio >= 1 else (ratio, 1.0)
    return np.array([[wide, 0, shape[1] / 2 * (1 - wide)], [0, high, shape[0] / 2 * (1 - high)]], np.float64)


def _warped(picture: Picture, matrix: NDArray[np.float64]) -> Picture:
    size = picture.shape[1], picture.shape[0]
    return np.asarray(cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


@dataclass(frozen=True)
class Kind:
    """apply: (picture, strength, rng) → picture. least, most: of the strength."""

    apply: Callable[[Picture, float, np.random.Generator], Picture]
    least: float
    most: float


KINDS: Mapping[str, Kind] = {
    "noise": Kind(noise, 0, 10),
    "contrast": Kind(contrast, 0, 10),
    "brightness": Kind(brightness, 0, 10),
    "blur": Kind(blur, 0, 100),
    "rotation": Kind(rotation, -360, 360),
    "stretch": Kind(stretch, 0.1, 10),
}


def parse_corruption(text: str) -> Callable[[Picture, np.random.Generator], Picture]:
    """ "noise 0.1" to a function. Errors: DataError saying what was expected."""
    name, _, strength = text.partition(" ")
    kind = KINDS.get(name)
    try:
        value = float(strength)
    except ValueError:
        value = float("nan")
    if kind is None or not kind.least <= value <= kind.most:
        expected = f"{name} {kind.least:g} to {kind.most:g}" if kind else f"one of {', '.join(KINDS)} and a number, such as noise 0.05"
        raise DataError(f"corruption is {text!r}, expected {expected}")
    return lambda picture, rng: kind.apply(picture, value, rng)
