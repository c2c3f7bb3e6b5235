"""What one connection to a camera gives: network cameras through PyAV (FFmpeg), everything else through OpenCV."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import SourceError
from dkcam.runtime.process import quiet_opencv
from dkcam.runtime.sources import NETWORK, is_cut_jpeg, open_source

Picture = NDArray[np.uint8]
MOST_PIXELS = 100_000_000
MOST_LAG_S = 30.0  # behind the first picture; more is a jump of the stream's clock
DRIFT = 5e-4  # a camera's clock against this one's
Grab = Callable[[], "Picture | None"]  # makes the picture, uint8 [H, W, 3] BGR; None where the camera sent a damaged one


class Stream(Protocol):
    """An open connection. grabs: pictures as they arrive, not decoded yet where that is possible, so that a picture
    nobody takes costs next to nothing. It ends, or raises SourceError, when the connection does.
    """

    def grabs(self) -> Iterator[tuple[Grab, float]]:
        """Each with the seconds it is late: behind the stream's own clock, because it waited in a buffer on the way."""
        ...

    def close(self) -> None: ...


def open_stream(uri: str, timeout_s: float) -> Stream:
    """Connect. Errors: SourceError saying why nothing answers."""
    if uri.lower().startswith(NETWORK):
        return NetworkStream(uri, timeout_s)
    return DeviceStream(uri)


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


class NetworkStream:
    """RTSP (over TCP; ``rtsp://…?udp`` over UDP) and MJPEG over HTTP, with buffers kept short.

    A server that is silent for ``timeout_s`` counts as gone. MJPEG is decoded only when a picture is taken.
    """

    def __init__(self, uri: str, timeout_s: float) -> None:
        import av

        options = {"fflags": "nobuffer", "flags": "low_delay", "max_delay": "200000", "probesize": "65536", "analyzeduration": "500000"}
        if uri.lower().startswith("rtsp"):
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

    def grabs(self) -> Iterator[tuple[Grab, float]]:
        """See ``Stream``. MJPEG over HTTP has no clock, and is never late: packets are taken as fast as they come."""
        import av

        mjpeg = self._stream.codec_context.name == "mjpeg"
        convert, lag = _Converter(), Lag()
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                if mjpeg:
                    yield _jpeg(bytes(packet)), 0.0
                    continue
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    yield _damaged, 0.0
                    continue
                for frame in frames:
                    yield _damaged if frame.is_corrupt else convert.later(frame), lag.of(frame.time, time.perf_counter())
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"{self._name} broke off: {_reason(error, self._timeout_s)}") from error

    def close(self) -> None:
        self._container.close()


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


class Lag:
    """How late a picture is, from its time on the stream's clock: the quickest so far counts as not late at all."""

    def __init__(self) -> None:
        self._offset: float | None = None
        self._at = 0.0

    def of(self, stream_s: float | None, now: float) -> float:
        """stream_s: of the picture, None where the stream has no clock. now: of time.perf_counter."""
        if stream_s is None:
            return 0.0
        offset = now - stream_s
        if self._offset is None or abs(offset - self._offset) > MOST_LAG_S:
            self._offset = offset
        else:
            self._offset = min(self._offset + DRIFT * (now - self._at), offset)
        self._at = now
        return offset - self._offset


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
    if data[:2] != b"\xff\xd8" or is_cut_jpeg(data):
        return None
    if _jpeg_pixels(data) > MOST_PIXELS:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if image is None else np.asarray(image, np.uint8)


def _jpeg_pixels(data: bytes) -> int:
    """What the headers say; the largest, where there are several. ITU-T T.81, B.2.2: FF C0..CF, length, precision, height, width."""
    found = re.finditer(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..[\x08\x0c](..)(..)[\x01\x03\x04]", data[: 1 << 17], re.DOTALL)
    return max((int.from_bytes(one[1], "big") * int.from_bytes(one[2], "big") for one in found), default=0)


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
