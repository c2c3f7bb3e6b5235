"""What one connection to a camera gives: network cameras through PyAV (FFmpeg), everything else through OpenCV."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import SourceError
from dkcam.runtime.process import quiet_opencv
from dkcam.runtime.sources import NETWORK, open_source

Picture = NDArray[np.uint8]
Grab = Callable[[], "Picture | None"]  # makes the picture, uint8 [H, W, 3] BGR; None where the camera sent a damaged one


class Stream(Protocol):
    """An open connection. grabs: pictures as they arrive, not decoded yet where that is possible, so that a picture
    nobody takes costs next to nothing. It ends, or raises SourceError, when the connection does.
    """

    def grabs(self) -> Iterator[Grab]: ...
    def close(self) -> None: ...


def open_stream(uri: str, timeout_s: float) -> Stream:
    """Connect. Errors: SourceError saying why nothing answers."""
    if uri.startswith(NETWORK):
        return NetworkStream(uri, timeout_s)
    return DeviceStream(uri)


def shown(uri: str) -> str:
    """A source's name for people, logs and files: without the password, and without its query, where keys travel."""
    if not uri.startswith(NETWORK):
        return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1@", uri)  # in a GStreamer pipeline
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri.split("://")[0] + "://…"
    user, at, host = parts.netloc.rpartition("@")
    name = user.split(":")[0]
    return urlunsplit((parts.scheme, f"{name}{at}{host}" if name else host, parts.path, "", ""))


class NetworkStream:
    """RTSP (over TCP; ``rtsp://…?udp`` over UDP) and MJPEG over HTTP, with buffers kept short.

    A server that is silent for ``timeout_s`` counts as gone. MJPEG is decoded only when a picture is taken.
    """

    def __init__(self, uri: str, timeout_s: float) -> None:
        import av

        options = {"fflags": "nobuffer", "flags": "low_delay", "max_delay": "200000", "probesize": "65536", "analyzeduration": "500000"}
        if uri.startswith("rtsp"):
            options["analyzeduration"] = "2000000"  # its frame size may come with the first key frame only
            if not uri.endswith("?udp"):
                options["rtsp_transport"] = "tcp"
        self._name = shown(uri)
        try:
            self._container: Any = av.open(uri, options=options, timeout=(timeout_s, timeout_s))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{self._name} cannot be opened: {_reason(error, timeout_s)}") from error
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"{self._name} sends no video")
        self._stream: Any = self._container.streams.video[0]
        self._stream.thread_type = "SLICE"  # threads over frames would hold back as many frames as there are threads
        self._timeout_s = timeout_s

    def grabs(self) -> Iterator[Grab]:
        import av

        mjpeg = self._stream.codec_context.name == "mjpeg"
        convert = _Converter()
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                if mjpeg:
                    yield _jpeg(bytes(packet))
                    continue
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    yield _damaged
                    continue
                for frame in frames:
                    yield _damaged if frame.is_corrupt else convert.later(frame)
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"{self._name} broke off: {_reason(error, self._timeout_s)}") from error

    def close(self) -> None:
        self._container.close()


class DeviceStream:
    """A camera of this machine, or a GStreamer pipeline."""

    def __init__(self, uri: str) -> None:
        self._source = open_source(uri)

    def grabs(self) -> Iterator[Grab]:
        for frame in self._source:
            yield lambda image=frame.image: image  # type: ignore[misc]

    def close(self) -> None:
        self._source.close()


class _Converter:
    """Decoded frames to BGR; for the one thread that takes pictures."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter: Any = VideoReformatter()

    def later(self, frame: Any) -> Grab:
        return lambda: np.asarray(self._reformatter.reformat(frame, format="bgr24").to_ndarray(), np.uint8)


def _jpeg(data: bytes) -> Grab:
    return lambda: decode_jpeg(data)


def decode_jpeg(data: bytes) -> Picture | None:
    """None for a picture that was cut off or is none."""
    import cv2

    quiet_opencv()
    if data[:2] != b"\xff\xd8" or data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(image, np.uint8)


def _damaged() -> None:
    return None


def _reason(error: Exception, timeout_s: float) -> str:
    """FFmpeg's words without the address, which may hold a password."""
    import av

    if isinstance(error, av.error.ExitError) or "Immediate exit" in str(error):
        return f"it was silent for {timeout_s:g} s"
    if getattr(error, "errno", None) in (errno.EIO, errno.ECONNRESET, errno.EPIPE):
        return "the connection was closed"
    words = getattr(error, "strerror", None) or str(error).split(":")[0]
    return str(words)[0].lower() + str(words)[1:] if words else type(error).__name__
