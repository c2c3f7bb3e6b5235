"""Whether the heat matters to the score: insertion and deletion of Petsiuk et al., "RISE", BMVC 2018."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Score = Callable[[list[Picture]], NDArray[np.floating[Any]]]  # pictures → one class's probability for each


def deletion(picture: Picture, heat: NDArray[np.floating[Any]], score: Score, steps: int = 20) -> float:
    """Area under the probability's curve while the hottest pixels are blurred away first, 0..1; lower is better.

    picture: uint8 [H, W, 3] at network size. heat: [h, w]. score: called once with steps + 1 pictures.
    """
    return _area(score(_series(_blurred(picture), picture, heat, steps)))


def insertion(picture: Picture, heat: NDArray[np.floating[Any]], score: Score, steps: int = 20) -> float:
    """The same while a blurred picture gets its hottest pixels back first, 0..1; higher is better."""
    return _area(score(_series(picture, _blurred(picture), heat, steps)))


def _series(new: Picture, old: Picture, heat: NDArray[np.floating[Any]], steps: int) -> list[Picture]:
    """``old``, with more and more of its pixels taken from ``new``, the hottest first."""
    height, width = old.shape[:2]
    spread = cv2.resize(heat.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    order = np.argsort(-spread.ravel(), kind="stable")
    found = [old]
    for step in range(1, steps + 1):
        changed = old.reshape(-1, 3).copy()
        places = order[: round(len(order) * step / steps)]
        changed[places] = new.reshape(-1, 3)[places]
        found.append(changed.reshape(old.shape))
    return found


def _blurred(picture: Picture) -> Picture:
    """As in the paper: a picture without detail, of the same colours."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(picture.shape[:2]) / 20), np.uint8)


def _area(values: NDArray[np.floating[Any]]) -> float:
    """Trapezoids over 0..1."""
    curve = np.asarray(values, np.float64)
    return float((curve[1:] + curve[:-1]).mean() / 2)
