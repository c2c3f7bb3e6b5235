"""Pictures from files. OpenCV's own imread crashes the process on a name that is no UTF-8, as sticks and old archives have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_image(path: Path) -> NDArray[np.uint8] | None:
    """uint8 [H, W, 3] BGR with EXIF's rotation applied; None for what is no picture. Errors: cv2.error of its decoders."""
    import cv2

    try:
        data = np.fromfile(path, np.uint8)
    except (OSError, ValueError):
        return None
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    return None if image is None else np.asarray(image, np.uint8)


def opencv_takes(name: str) -> bool:
    """Whether OpenCV may be given a file's name at all."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
