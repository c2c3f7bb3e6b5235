"""Cameras on the network, read by FFmpeg over connections that dkcam makes: FFmpeg opens no address that a camera names."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from dkcam.errors import SourceError
from dkcam.files import kind_of
from dkcam.runtime import jpeg
from dkcam.runtime.live.http import PORTS, Body, Redirect
from dkcam.runtime.live.lag import Backlog, Lag
from dkcam.runtime.live.rtsp import Refused, Relay
from dkcam.runtime.live.stream import Grab, Limits, Picture, shown

# what cameras send over HTTP; no playlists (hls, dash, concat, sdp), which name further addresses, and no single pictures
CONTAINERS = "mpjpeg,mjpeg,mpegts,h264,hevc,m4v,mpegvideo,mpeg,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,ogg,ivf,obu,nut"
CODECS = "mjpeg,h264,hevc,mpeg4,mpeg2video,mpeg1video,h263,flv,vp8,vp9,av1,libdav1d,theora"
BUFFER = 64 << 10  # bytes that FFmpeg asks HTTP for at once; what has arrived is given, if less
MOST_REDIRECTS = 5
PLAYLISTS = {
    b"#EXTM3U": "a playlist (HLS)",
    b"ffconcat": "a list of files",
    b"v=0": "a session description (SDP)",
    b"<": "a page or a manifest",
}


class NetworkStream:
    """RTSP (over TCP; ``rtsp://…?udp`` over UDP), and MJPEG or video over HTTP, with buffers kept short.

    A server that is silent for ``timeout_s`` counts as gone. MJPEG is decoded only when a picture is taken. Errors: SourceError.
    """

    def __init__(self, uri: str, timeout_s: float, limits: Limits, connected: Callable[[], None]) -> None:
        self._name, self._timeout_s, self._limits, self._connected = shown(uri), timeout_s, limits, connected
        self._body: Body | None = None
        self._relay: Relay | None = None
        self._container: Any = None
        try:
            self._container = self._follow(uri)
            streams = self._container.streams.video
            if not streams:
                raise SourceError(f"{self._name} sends no video")
            self._stream: Any = streams[0]
            context = self._stream.codec_context
            self._check_size(context.height, context.width)
            if context.name not in CODECS.split(","):
                raise SourceError(f"{self._name} sends {context.name}; expected H.264, H.265, MJPEG, MPEG-4, VP8, VP9 or AV1")
            context.options = {"max_pixels": str(limits.pixels), "codec_whitelist": CODECS}
            self._stream.thread_type = "SLICE"  # threads over frames would hold back as many frames as there are threads
        except BaseException:
            self.close()
            raise

    def grabs(self) -> Iterator[tuple[Grab, float]]:
        """See ``Stream``. MJPEG over HTTP has no clock: it is as late as what waits unread in the connection."""
        import av

        convert, lag, backlog = _Converter(), Lag(), Backlog()
        is_mjpeg = self._stream.codec_context.name == "mjpeg"
        try:
            for packet in self._container.demux(self._stream):
                now = time.perf_counter()
                if self._body is not None:
                    self._body.unbroken = 0
                if not packet.size:
                    continue
                if is_mjpeg:
                    self._check_size(*jpeg.size_of(bytes(memoryview(packet)[: 1 << 16])))
                    late_s = backlog.of(packet.size, self._body.waiting(), now) if self._body is not None else lag.of(_time(packet), now)
                    yield self._jpeg(bytes(packet)), late_s
                    continue
                try:
                    frames = packet.decode()
                except (av.error.InvalidDataError, av.error.ArgumentError):
                    yield _damaged, 0.0
                    continue
                for frame in frames:
                    yield _damaged if frame.is_corrupt else convert.later(frame), lag.of(frame.time, time.perf_counter())
        except (av.FFmpegError, OSError, ValueError, HTTPException, MemoryError) as error:
            raise SourceError(f"{self._name} broke off: {self._reason(error)}") from error

    def close(self) -> None:
        for part in (self._container, self._relay, self._body):
            if part is not None:
                part.close()

    def _follow(self, uri: str) -> Any:
        """FFmpeg's container, over as many redirects as are allowed."""
        for _ in range(MOST_REDIRECTS + 1):
            try:
                return self._open(uri)
            except Redirect as redirect:
                self.close()
                if urlsplit(redirect.uri).scheme.lower() not in PORTS:
                    raise SourceError(f"{self._name} cannot be opened: it redirects to what is no stream ({redirect.uri[:60]})") from None
                if not self._limits.redirects and not is_same_place(uri, redirect.uri):
                    raise SourceError(
                        f"{self._name} cannot be opened: it redirects to {shown(redirect.uri)}; give that address, or --follow-redirects"
                    ) from None
                uri = with_password_of(uri, redirect.uri) if is_same_place(uri, redirect.uri) else redirect.uri
        raise SourceError(f"{self._name} cannot be opened: it redirects more than {MOST_REDIRECTS} times")

    def _open(self, uri: str) -> Any:
        """Errors: Redirect, SourceError."""
        import av

        options = {"fflags": "nobuffer", "flags": "low_delay", "max_delay": "200000", "probesize": "65536", "analyzeduration": "500000"}
        options |= {"max_pixels": str(self._limits.pixels), "codec_whitelist": CODECS}
        try:
            if uri.lower().startswith("rtsp"):
                self._relay = Relay(uri, self._timeout_s)
                options["analyzeduration"] = "2000000"  # its frame size may come with the first key frame only
                options |= {
                    "rtsp_transport": "udp" if uri.endswith("?udp") else "tcp",
                    "protocol_whitelist": "tcp,udp,rtp",
                    "format_whitelist": "rtsp",
                }
                target: Any = self._relay.uri
                form = "rtsp"
            else:
                self._body = target = Body(uri, self._timeout_s, self._limits.pixels)
                self._connected()
                form = "mpjpeg" if self._body.kind.startswith("multipart/") else ""
                options |= {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
            container = av.open(
                target,
                format=form or None,
                options=options,
                buffer_size=BUFFER,
                timeout=(self._timeout_s, self._timeout_s),
            )
        except (av.FFmpegError, OSError, ValueError, HTTPException, MemoryError) as error:
            if self._relay is not None and isinstance(self._relay.failure, Redirect):
                raise self._relay.failure from None
            raise SourceError(f"{self._name} cannot be opened: {self._reason(error)}") from error
        self._connected()
        return container

    def _check_size(self, height: int, width: int) -> None:
        try:
            self._limits.check(height, width)
        except SourceError as error:
            raise SourceError(f"{self._name}: {error}") from None

    def _jpeg(self, data: bytes) -> Grab:
        return lambda: jpeg.decode(data, self._limits.pixels)

    def _reason(self, error: Exception) -> str:
        """The cause without the address, which may hold a password."""
        import av

        if self._relay is not None and isinstance(self._relay.failure, Refused):
            return str(self._relay.failure)
        head = self._body.head if self._body is not None else b""
        playlist = next((kind for start, kind in PLAYLISTS.items() if head.lstrip().startswith(start)), None)
        if playlist is not None:
            return f"it sends {playlist} where a stream was expected; give the address of the stream itself"
        if isinstance(error, av.error.ExitError | TimeoutError) or "Immediate exit" in str(error):
            return f"it was silent for {self._timeout_s:g} s"
        if isinstance(error, MemoryError):
            return f"it needs more than {self._limits.memory} MiB of memory to be decoded; --camera-memory allows more"
        if getattr(error, "errno", None) in (errno.EIO, errno.ECONNRESET, errno.EPIPE):
            return "the connection was closed"
        if head and isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):
            kind = self._body.kind if self._body is not None else ""
            what = "parts that are no JPEG pictures" if kind.startswith("multipart/") else f"{kind_of(head)} ({kind})"
            return f"it sends {what}; expected MJPEG, MPEG-TS, H.264, or MP4 with its index first"
        words = str(getattr(error, "strerror", None) or (error if isinstance(error, ValueError) else str(error).split(":")[0]))
        return words[0].lower() + words[1:120] if words else type(error).__name__


def is_same_place(uri: str, other: str) -> bool:
    """Whether a redirect stays where it was: the same host and port, or the same host's TLS."""
    try:
        before, after = urlsplit(uri), urlsplit(other)
        ports = [one.port or PORTS.get(one.scheme.lower()) for one in (before, after)]
    except ValueError:
        return False
    upgrade = (ports[0], ports[1]) in ((80, 443), (554, 322)) and after.scheme.lower() in ("https", "rtsps")
    family = {"http": 0, "https": 0, "rtsp": 1, "rtsps": 1}
    same_family = family.get(before.scheme.lower()) == family.get(after.scheme.lower(), -1)
    return same_family and before.hostname == after.hostname and (ports[0] == ports[1] or upgrade)


def with_password_of(uri: str, other: str) -> str:
    """other, with uri's credentials."""
    user, at, _ = urlsplit(uri).netloc.rpartition("@")
    parts = urlsplit(other)
    return urlunsplit(parts._replace(netloc=user + at + parts.netloc.rpartition("@")[2]))


def _time(packet: Any) -> float | None:
    return None if packet.pts is None or packet.time_base is None else float(packet.pts * packet.time_base)


class _Converter:
    """Decoded frames to BGR; for the one thread that takes pictures."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter: Any = VideoReformatter()

    def later(self, frame: Any) -> Grab:
        return lambda: np.asarray(self._reformatter.reformat(frame, format="bgr24").to_ndarray(), np.uint8)


def _damaged() -> Picture | None:
    return None
