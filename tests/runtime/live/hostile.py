"""What a hostile camera or client sends: small files that ask for much memory, much time, or another address."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np


def small_jpeg(side: int = 32) -> bytes:
    return cv2.imencode(".jpg", np.full((side, side, 3), 90, np.uint8))[1].tobytes()


def sized(data: bytes, height: int, width: int) -> bytes:
    """A JPEG with another size in its frame header."""
    at = next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def comments(data: bytes, size: int) -> bytes:
    """A JPEG whose header lies behind comments of ``size`` bytes."""
    block = b"\xff\xfe" + struct.pack(">H", 65535) + bytes(65533)
    return data[:2] + block * -(-size // len(block)) + data[2:]


def scans(count: int, side: int = 4000) -> bytes:
    """A progressive JPEG in which one scan without data stands that many times, each a pass over the whole picture."""
    done, whole = cv2.imencode(".jpg", np.full((side, side, 3), 90, np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    data, at = whole.tobytes(), 0
    while True:  # to the first scan of higher frequencies, whose table then is there
        at = data.index(b"\xff\xda", at + 1)
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        header = data[at : at + 2 + length]
        if header[-3] > 0:
            return data[:at] + header * count + b"\xff\xd9"


def png(height: int, width: int, rows: int | None = None) -> bytes:
    """A PNG of one bit a pixel. rows: how many it really holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" + bytes(-(-width // 8))
    data = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bmp(height: int, width: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 16, 0, 0, 54) + header + bytes(16)


def tiff(height: int, width: int) -> bytes:
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, 16),
    ]
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + body


def webp(height: int, width: int) -> bytes:
    """The size of its canvas is changed; a lossless picture of 16383 pixels a side is the most that the format has."""
    data = bytearray(cv2.imencode(".webp", np.zeros((16, 16, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
    at = data.index(b"VP8L") + 9
    bits = struct.unpack("<I", data[at : at + 4])[0] & ~0xFFFFFFF
    data[at : at + 4] = struct.pack("<I", bits | (width - 1) | (height - 1) << 14)
    return bytes(data)


def gif(height: int, width: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x02\x02\x4c\x01\x00;"
    )


PICTURES: dict[str, Callable[[], bytes]] = {
    "jpeg of 32000 x 32000": lambda: sized(small_jpeg(), 32000, 32000),
    "jpeg of 32000 x 32000 behind comments": lambda: comments(sized(small_jpeg(), 32000, 32000), 200_000),
    "jpeg of 5000 segments": lambda: small_jpeg()[:2] + b"\xff\xfe\0\2" * 5000 + sized(small_jpeg(), 65500, 65500)[2:],
    "jpeg of 30000 scans": lambda: scans(30_000),
    "jpeg without an end": lambda: small_jpeg()[:-2],
    "jpeg without a picture": lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 100_000 + b"\xff\xd9",
    "png of 40000 x 40000": lambda: png(40_000, 40_000),
    "png of 60000 x 60000, cut": lambda: png(60_000, 60_000, 100),
    "bmp of 60000 x 60000": lambda: bmp(60_000, 60_000),
    "tiff of 60000 x 60000": lambda: tiff(60_000, 60_000),
    "webp of 16000 x 16000": lambda: webp(16_000, 16_000),
    "gif of 60000 x 60000": lambda: gif(60_000, 60_000),
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='60000' height='60000'/>",
    "playlist": lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n",
    "noise": lambda: np.random.default_rng(0).bytes(100_000),
}
