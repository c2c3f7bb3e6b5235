"""Headers of JPEGs, against what OpenCV makes of the same bytes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dkcam.runtime import jpeg

PICTURE = np.random.default_rng(0).integers(0, 255, (240, 328, 3), dtype=np.uint8)


def encoded(*options: int) -> bytes:
    return cv2.imencode(".jpg", PICTURE, options)[1].tobytes()


@pytest.mark.parametrize(
    ("options", "scans"),
    [((), 1), ((cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 10), ((cv2.IMWRITE_JPEG_RST_INTERVAL, 1), 1), ((cv2.IMWRITE_JPEG_QUALITY, 3), 1)],
)
def test_size_scans_and_end(options: tuple[int, ...], scans: int) -> None:
    data = encoded(*options)
    assert jpeg.read_header(data) == jpeg.JpegHeader(240, 328, scans, True)
    assert jpeg.read_header(data + b"\xff\xd8 what cameras add") == jpeg.JpegHeader(240, 328, scans, True)
    assert jpeg.size_of(data) == (240, 328)
    image = jpeg.decode(data)
    assert image is not None
    np.testing.assert_array_equal(image, cv2.imdecode(np.frombuffer(data, np.uint8), 1))


def test_more_restarts_than_segments_may_be() -> None:
    data = cv2.imencode(".jpg", np.zeros((1200, 1600, 3), np.uint8), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    header = jpeg.read_header(data)
    assert 8 * data.count(b"\xff\xd0") > jpeg.MOST_SEGMENTS and header is not None and header.whole


def test_what_only_looks_like_a_header_is_none() -> None:
    data = encoded()
    frame = data[data.index(b"\xff\xc0") :][:19]
    fake = frame[:5] + b"\0\1\0\1" + frame[9:]
    comment = b"\xff\xfe" + (2 + len(fake) + 2).to_bytes(2, "big") + fake + b"\xff\xd9"
    assert jpeg.read_header(data[:2] + comment + data[2:]) == jpeg.JpegHeader(240, 328, 1, True)
    assert jpeg.read_header(data[:2] + b"\xff\xff\xff" + data[2:]) == jpeg.JpegHeader(240, 328, 1, True)  # fill bytes
    assert jpeg.read_header(data[:2] + b"extra" + data[2:]) == jpeg.JpegHeader(240, 328, 1, True)  # libjpeg skips them, too


def test_the_larger_of_two_sizes_counts() -> None:
    data = encoded()
    at = data.index(b"\xff\xc0")
    second = data[at : at + 5] + b"\x7d\0\x7d\0" + data[at + 9 : at + 19]
    header = jpeg.read_header(data[: at + 19] + second + data[at + 19 :])
    assert header is not None and (header.height, header.width) == (32000, 32000)
    assert jpeg.decode(data, 240 * 328) is not None and jpeg.decode(data, 240 * 328 - 1) is None


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_a_cut_picture_is_not_whole(share: float) -> None:
    data = encoded()[: int(share * len(encoded()))]
    header = jpeg.read_header(data)
    assert (header is None or not header.whole) and jpeg.is_cut(data) and jpeg.decode(data) is None
    assert not jpeg.is_cut(encoded()) and not jpeg.is_cut(b"GIF89a")


def test_real_pictures(data: Path) -> None:
    files = sorted(data.rglob("*.jpg"))[:200:10]
    assert files
    for file in files:
        content = file.read_bytes()
        image = cv2.imread(str(file), cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR)
        header = jpeg.read_header(content)
        assert image is not None and header is not None and header.whole
        assert (header.height, header.width) == image.shape[:2] == jpeg.size_of(content)
