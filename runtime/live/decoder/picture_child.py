"""The process that decodes single pictures: a body comes in shared memory, the picture goes back in other shared memory."""

from __future__ import annotations

import os
import signal
import socket
import warnings
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import InputError
from dkcam.runtime import jpeg
from dkcam.runtime.live.decoder import confine
from dkcam.runtime.live.decoder.wire import Channel, Room
from dkcam.runtime.live.stream import Limits
from dkcam.runtime.process import quiet_opencv

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


def main(descriptor: int) -> None:
    """descriptor: of the socket to dk-run. Ends with it."""
    import cv2  # noqa: F401  # before the limit is set: what libraries take is no picture's doing
    from PIL import Image

    Image.init()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    messages = channel.messages()
    limits = Limits(int(next(messages)[0]["memory"]))
    confine.limit(limits.memory << 20)
    confine.leave_network()
    channel.send({"ready": True})
    for message, body in messages:
        if body is None:
            break
        with Room.of(int(message["room"]), body) as room:
            data = bytes(room.view(room.size))
        try:
            picture = picture_of(data, limits)
        except InputError as error:
            channel.send({"failed": str(error)})
            continue
        channel.send({"size": picture.shape[:2]})
        message, descriptor_ = next(messages)
        assert descriptor_ is not None
        with Room.of(int(message["room"]), descriptor_) as room:
            room.pixels(*picture.shape[:2])[:] = picture
        channel.send({"picture": True})
    os._exit(0)


def picture_of(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    """A picture as uint8 [H, W, 3] BGR. Its size is read before it is unfolded. Errors: InputError."""
    import cv2

    quiet_opencv()
    height, width = _size(data)
    if height * width > limits.pixels:
        raise InputError(f"the picture unfolds to {width}x{height} pixels; send one of {limits.pixels / 1e6:.0f} megapixels at most")
    if data[:2] == b"\xff\xd8":
        image: NDArray[Any] | None = jpeg.decode(data, limits.pixels)
    else:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except (cv2.error, MemoryError):
            image = None
    if image is None or image.shape[0] * image.shape[1] > limits.pixels:
        raise InputError("the picture is damaged, or asks for too much memory")
    return np.asarray(image, np.uint8)


def _size(data: bytes) -> tuple[int, int]:
    """Height and width, from the headers."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is our own
            Image.MAX_IMAGE_PIXELS = None
            with Image.open(BytesIO(data), formats=FORMATS) as header:
                return header.size[1], header.size[0]
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, MemoryError) as error:
        raise InputError("the body is no picture; expected JPEG, PNG, WebP, BMP or TIFF") from error
