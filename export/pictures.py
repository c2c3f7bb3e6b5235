"""Pictures to verify and calibrate on, from a folder, a picture or a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.errors import ExportError
from dkcam.files import exists

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def load_pictures(path: Path, height: int, width: int, count: int) -> list[NDArray[np.uint8]]:
    """Up to ``count`` pictures, evenly spread over what is there, uint8 [height, width, 3] RGB, stretched.

    Errors: ExportError where there is nothing to read.
    """
    if not exists(path):
        raise ExportError(f"--calibration {path} does not exist; expected a folder of pictures, a picture or a video")
    frames = []
    for image in _folder(path, count) if path.is_dir() else _file(path, count):
        if image is not None:
            resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            frames.append(np.ascontiguousarray(resized[..., ::-1], np.uint8))
    if not frames:
        raise ExportError(f"--calibration {path} holds no readable picture; expected {', '.join(SUFFIXES)} or a video")
    return frames


def _folder(path: Path, count: int) -> Iterator[Any]:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    for index in _spread(len(files), count):
        yield cv2.imread(str(files[index]))


def _file(path: Path, count: int) -> Iterator[Any]:
    single = cv2.imread(str(path)) if path.suffix.lower() in SUFFIXES else None
    if single is not None:
        yield single
        return
    video = cv2.VideoCapture(str(path))
    wanted = set(_spread(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), count))
    index = 0
    while video.grab():
        if index in wanted:
            yield video.retrieve()[1]
        index += 1
    video.release()


def _spread(available: int, count: int) -> list[int]:
    """At most ``count`` of the numbers below ``available``, evenly spaced."""
    return sorted({index * available // min(count, available) for index in range(min(count, available))}) if available > 0 else []
