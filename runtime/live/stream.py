"""What one connection to a camera gives: network cameras through PyAV (FFmpeg), everything else through OpenCV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import SourceError
from dkcam.runtime.sources import NETWORK, open_source

Picture = NDArray[np.uint8]
LEAST_SIDE, MOST_ASPECT = 16, 16  # pixels; of the longer side to the shorter
BYTES_PER_PIXEL = 11  # of a progressive JPEG while it is decoded: 6 of coefficients, 3 of the picture, 2 to spare
Grab = Callable[[], "Picture | None"]  # makes the picture, uint8 [H, W, 3] BGR; None where the camera sent a damaged one


@dataclass(frozen=True)
class Limits:
    """What a network camera may ask for.

    memory: MiB that its decoder may take. redirects: whether it may name another host, where the stream is.
    """

    memory: int = 256
    redirects: bool = False

    @property
    def pixels(self) -> int:
        """Of a picture."""
        return (self.memory << 20) // BYTES_PER_PIXEL

    def check(self, height: int, width: int) -> None:
        """Errors: SourceError for a picture of too many pixels, or of a form that no camera has."""
        if min(height, width) < LEAST_SIDE or max(height, width) > MOST_ASPECT * min(height, width):
            raise SourceError(f"it sends pictures of {width}x{height} pixels; expected {LEAST_SIDE} a side at least, and no strips")
        if height * width > self.pixels:
            wanted = -(-height * width * BYTES_PER_PIXEL >> 20)
            raise SourceError(
                f"it sends pictures of {width}x{height} pixels, more than {self.memory} MiB can hold; --camera-memory {wanted} allows them"
            )


class Stream(Protocol):
    """An open connection. grabs: pictures as they arrive, not decoded yet where that is possible, so that a picture
    nobody takes costs next to nothing. It ends, or raises SourceError, when the connection does.
    """

    def grabs(self) -> Iterator[tuple[Grab, float]]:
        """Each with the seconds it is late: behind the stream's own clock, because it waited in a buffer on the way."""
        ...

    def close(self) -> None: ...


def open_stream(uri: str, timeout_s: float, limits: Limits = Limits(), connected: Callable[[], None] = lambda: None) -> Stream:
    """Connect. connected: called once a network camera's connection is there, and no other is needed. Errors: SourceError
    saying why nothing answers.
    """
    if is_network(uri):
        from dkcam.runtime.live.network import NetworkStream

        return NetworkStream(uri, timeout_s, limits, connected)
    return DeviceStream(uri)


def is_network(uri: str) -> bool:
    return uri.lower().startswith(NETWORK)


def shown(uri: str) -> str:
    """A source's name for people, logs and files: without the password, and without its query, where keys travel."""
    if not uri.lower().startswith(NETWORK):
        uri = re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1@", uri)  # in a GStreamer pipeline
        return re.sub(r"\b((?:[\w-]*-)?(?:pw|pass|passwd|password)\s*=\s*)(\"[^\"]*\"|\S+)", r"\1…", uri, flags=re.IGNORECASE)
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.split("://")[0] + "://…"
    user, at, host = parts.netloc.rpartition("@")
    name = user.split(":")[0]
    return urlunsplit((parts.scheme, f"{name}{at}{host}" if name else host, parts.path, "", ""))


class DeviceStream:
    """A camera of this machine, or a GStreamer pipeline."""

    def __init__(self, uri: str) -> None:
        try:
            self._source = open_source(uri)
        except SourceError as error:
            raise SourceError(str(error).replace(uri, shown(uri))) from error

    def grabs(self) -> Iterator[tuple[Grab, float]]:
        for frame in self._source:
            yield (lambda image=frame.image: image), 0.0  # type: ignore[misc]

    def close(self) -> None:
        self._source.close()
