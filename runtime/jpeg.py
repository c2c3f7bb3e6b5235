"""JPEGs, judged by their own headers before they are decoded: their size, how many scans, whether they are whole.

The segments are walked from the first on, never searched: a comment may hold what looks like a header.
Source: ITU-T T.81, B.1 and B.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dkcam.runtime.process import quiet_opencv

MOST_SEGMENTS = 4096  # a camera's picture has about ten; an ICC profile, a few hundred at most
MOST_SCANS = 64  # progressive pictures have about ten; each costs a pass over the whole picture
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 without DHT, JPG and DAC
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment: TEM, RST0 to RST7, SOI
_MARKER = re.compile(rb"\xff[^\x00\xff]")  # as libjpeg looks for one: over bytes between segments, fill bytes and stuffed zeros
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # restarts belong to a scan's data


@dataclass(frozen=True)
class JpegHeader:
    """height, width: in pixels, the largest that a frame header names. whole: it goes on to its end marker after a scan."""

    height: int
    width: int
    scans: int
    whole: bool


def read_header(data: bytes) -> JpegHeader | None:
    """None for what is no JPEG, names no size, or has more than ``MOST_SEGMENTS`` segments."""
    if data[:2] != b"\xff\xd8":
        return None
    at, height, width, scans, whole = 2, 0, 0, 0, False
    for _ in range(MOST_SEGMENTS):
        marker = (_AFTER_SCAN if scans else _MARKER).search(data, at)
        if marker is None:
            break
        at, kind = marker.end(), data[marker.end() - 1]
        if kind == END_OF_IMAGE:
            whole = scans > 0
            break
        if kind in ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            break
        if kind in FRAMES and length >= 7:
            tall, wide = int.from_bytes(data[at + 3 : at + 5], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            if tall * wide >= height * width:
                height, width = tall, wide
        scans += kind == START_OF_SCAN
        at += length
    else:
        return None
    return JpegHeader(height, width, scans, whole) if height and width else None


def size_of(data: bytes) -> tuple[int, int]:
    """Height and width as the first frame header says; (0, 0) where there is none. Quick: nothing behind that header is looked at."""
    at = 2
    for _ in range(MOST_SEGMENTS):
        marker = _MARKER.search(data, at)
        if marker is None or data[:2] != b"\xff\xd8":
            break
        at, kind = marker.end(), data[marker.end() - 1]
        if kind in FRAMES:
            return int.from_bytes(data[at + 3 : at + 5], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if kind not in ALONE:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return 0, 0


def decode(data: bytes, most_pixels: int = 100_000_000) -> NDArray[np.uint8] | None:
    """uint8 [H, W, 3] BGR. None for what is no JPEG, was cut off, is larger, has more than ``MOST_SCANS`` scans, or is damaged."""
    import cv2

    quiet_opencv()
    header = read_header(data)
    if header is None or not header.whole or header.scans > MOST_SCANS or header.height * header.width > most_pixels:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)


def is_cut(data: bytes) -> bool:
    """Whether data begins as a JPEG and lacks its end."""
    header = read_header(data)
    return data[:2] == b"\xff\xd8" and (header is None or not header.whole)
