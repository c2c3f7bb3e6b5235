"""What every kind of training data gives: pictures on demand, each from its own seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from dkcam.rendered import SIGN_NAMES, Box
from dkcam.rendered.signs import Picture

NO_SIGN = "no sign"
SIGN_LABELS = (NO_SIGN, *SIGN_NAMES)


@dataclass(frozen=True)
class SignSize:
    """Range of a sign's width in pixels of the finished picture."""

    smallest: float = 20.0
    largest: float = 60.0

    def pick(self, rng: np.random.Generator, height: int, width: int) -> float:
        """A width, log-uniform, at most 3/4 of the picture's shorter side."""
        limit = 0.75 * min(height, width)
        low, high = min(self.smallest, limit), min(self.largest, limit)
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@dataclass(frozen=True)
class Example:
    """picture: uint8 [H, W, 3] BGR. label: index into the labels. box: where the object is, or None.

    group: which physical sign, or which frame, the picture shows; None where it is like no other.
    """

    picture: Picture
    label: int
    box: Box | None = None
    group: str | None = None


class Examples(Protocol):
    """A source of pictures. ``training`` pictures and the others never share a file."""

    labels: tuple[str, ...]

    def training(self, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example: ...

    def validation(self, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example: ...


def degrade(picture: Picture, rng: np.random.Generator) -> Picture:
    """Camera faults at random: exposure, contrast, colour cast, blur, noise, JPEG. uint8 in, uint8 out."""
    image = picture.astype(np.float32)
    if rng.random() < 0.8:
        image = 255.0 * (image / 255.0) ** float(np.exp(rng.normal(0, 0.25)))
        image = (image - 110) * float(rng.uniform(0.7, 1.25)) + 110 + float(rng.uniform(-20, 20))
        image = image * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    blur = rng.random()
    if blur < 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.1))), np.float32)
    elif blur < 0.32:
        kernel = np.zeros((5, 5), np.float32)
        kernel[2, :] = 0.2
        image = np.asarray(cv2.filter2D(image, -1, kernel), np.float32)
    if rng.random() < 0.4:
        image = image + rng.normal(0, rng.uniform(1, 9), image.shape).astype(np.float32)
    result = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        _, data = cv2.imencode(".jpg", result, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(45, 95))])
        result = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return result
