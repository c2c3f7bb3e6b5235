"""Habits of libraries that a long run over frames is better without."""

from __future__ import annotations

import ctypes
import os
from typing import Any


def quiet_opencv() -> None:
    """Silence OpenCV's log and its FFmpeg's, unless the user set OPENCV_LOG_LEVEL or OPENCV_FFMPEG_LOGLEVEL.

    What they say there, dkcam says in one line of its errors.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    import cv2

    module: Any = cv2
    if hasattr(module, "setLogLevel"):  # OpenCV 4
        module.setLogLevel(0)
    else:
        module.utils.logging.setLogLevel(module.utils.logging.LOG_LEVEL_SILENT)


def keep_freed_memory() -> None:
    """Let the C library keep freed pictures for the next frame (glibc; nothing elsewhere).

    By default it hands every freed block above 128 KiB back to the system and asks again for the next frame: fresh
    pages cost more than drawing into them. For a process of one's own, such as dk-run; the setting is process-wide.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mmap_threshold, trim_threshold, arena_max = -3, -1, -8  # malloc.h
    mallopt(arena_max, 2)  # else every thread keeps freed pictures of its own
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 512 << 20)
