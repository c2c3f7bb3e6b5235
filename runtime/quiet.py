"""OpenCV and FFmpeg print warnings of their own to stderr; dkcam says the same in one line of its errors."""

from __future__ import annotations

import os
from typing import Any


def quiet_opencv() -> None:
    """Silence OpenCV's log and its FFmpeg's, unless the user set OPENCV_LOG_LEVEL or OPENCV_FFMPEG_LOGLEVEL."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    import cv2

    module: Any = cv2
    if hasattr(module, "setLogLevel"):  # OpenCV 4
        module.setLogLevel(0)
    else:
        module.utils.logging.setLogLevel(module.utils.logging.LOG_LEVEL_SILENT)
