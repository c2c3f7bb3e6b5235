"""Pictures from files. OpenCV's own imread crashes the process on a name that is no UTF-8, as sticks and old archives have them.

How large a picture may be is OpenCV's to say, before it asks for memory: OPENCV_IO_MAX_IMAGE_PIXELS, which dkcam's commands set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import InputError


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """uint8 [H, W, 3] BGR with EXIF's rotation applied; None for what is no picture. Errors: InputError for one that is too large."""
    import cv2

    try:
        data = np.fromfile(path, np.uint8)
    except (OSError, ValueError):
        return None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        too_large = "MAX_IMAGE" in str(error)
        cause = "it holds more pixels than OPENCV_IO_MAX_IMAGE_PIXELS allows" if too_large else str(error).strip().splitlines()[-1][:120]
        raise InputError(f"{path} cannot be read as a picture: {cause}") from error
    return None if image is None else np.asarray(image, np.uint8)


def opencv_takes(name: str) -> bool:
    """Whether OpenCV may be given a file's name at all."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
