"""Servers that a camera's address leads to, and that mean no good. Each is a function of the connection and of another place's address."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO

import numpy as np

from tests.runtime.live.camera_server import BOUNDARY
from tests.runtime.live.hostile import PICTURES, png, small_jpeg

Answer = Callable[..., None]  # of the connection, another place's "host:port", and the request
OK = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n"
MULTIPART = OK % b"multipart/x-mixed-replace; boundary=frame"


class HostileServer:
    """Answers every connection. ``elsewhere`` is another server, which counts who comes: nobody should."""

    def __init__(self, answer: Answer, port: int = 0) -> None:
        self._answer = answer
        self._listener, self._elsewhere = socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", 0))
        self.port, self.elsewhere = self._listener.getsockname()[1], self._elsewhere.getsockname()[1]
        self.visits = self.asked = 0
        self._clients: list[socket.socket] = []
        for work in (self._serve, self._count):
            threading.Thread(target=work, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, self._elsewhere, *self._clients):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _count(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._elsewhere.accept()
                self.visits += 1
                client.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.asked += 1
                self._clients.append(client)
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            request = client.recv(4096)
            self._answer(client, f"127.0.0.1:{self.elsewhere}", request)


@contextmanager
def hostile(answer: Answer) -> Iterator[HostileServer]:
    server = HostileServer(answer)
    try:
        yield server
    finally:
        server.close()


def pictures(data: bytes, kind: bytes = b"image/jpeg") -> Answer:
    """The same picture, again and again, in an MJPEG stream."""

    def answer(client: socket.socket, elsewhere: str, request: bytes = b"") -> None:
        client.sendall(MULTIPART)
        while True:
            client.sendall((BOUNDARY % len(data)).replace(b"image/jpeg", kind) + data + b"\r\n")
            time.sleep(0.02)

    return answer


def once(head: bytes, body: bytes = b"", hold: bool = True) -> Answer:
    def answer(client: socket.socket, elsewhere: str, request: bytes = b"") -> None:
        place = elsewhere.encode()
        client.sendall(head.replace(b"ELSEWHERE", place) + body.replace(b"ELSEWHERE", place))
        while hold and client.recv(4096):
            pass

    return answer


def endless(head: bytes, block: bytes, wait_s: float = 0.0) -> Answer:
    def answer(client: socket.socket, elsewhere: str, request: bytes = b"") -> None:
        client.sendall(head)
        while True:
            client.sendall(block)
            time.sleep(wait_s)

    return answer


@lru_cache
def vp8(height: int = 16383, width: int = 16383) -> bytes:
    """An IVF file of VP8 whose key frame says that size (RFC 6386, 9.1)."""
    import av

    memory = BytesIO()
    with av.open(memory, "w", format="ivf") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(memory.getvalue())
    at = data.index(b"\x9d\x01\x2a") + 3
    data[at : at + 4] = struct.pack("<HH", width, height)
    data[12:16] = struct.pack("<HH", width, height)
    return bytes(data)


def box(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I", 8 + len(data) if length is None else length) + kind + data


def samples(count: int) -> bytes:
    """An mp4's table of samples that says how many there are, and holds none."""
    table = box(b"stbl", box(b"stsz", struct.pack(">III", 0, 0, count) + bytes(64)))
    return box(b"moov", box(b"trak", box(b"mdia", box(b"minf", table))))


MP4 = box(b"ftyp", b"isomisom")
RTSP: dict[str, Answer] = {
    "rtsp redirect": once(b"RTSP/1.0 302 Found\r\nCSeq: 1\r\nLocation: rtsp://ELSEWHERE/camera\r\n\r\n"),
    "rtsp redirect, headers folded oddly": once(b"$\0\0\4abcd\r\n\r\nRTSP/1.0  301 X\nCSeq:1\nlocation:rtsp://ELSEWHERE/camera\n\n"),
    "rtsp request to redirect": once(b"REDIRECT rtsp://127.0.0.1/ RTSP/1.0\r\nCSeq: 1\r\nLocation: rtsp://ELSEWHERE/x\r\n\r\n"),
    "rtsp endless headers": endless(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n", b"X: y\r\n" * 1000),
    "rtsp endless line": endless(b"RTSP/1.0 200 OK\r\nX: ", b"y" * 65536),
    "rtsp endless junk": endless(b"", b"no rtsp at all\r\n" * 1000),
    "rtsp endless body": endless(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 999999999999\r\n\r\n", b"v=0\r\n" * 10000),
    "rtsp trickle": endless(b"", b"R", 0.05),
}
HTTP: dict[str, Answer] = {
    **{f"mjpeg: {name}": pictures(make()) for name, make in PICTURES.items() if name.startswith(("jpeg", "noise"))},
    "mjpeg: png": pictures(png(40_000, 40_000), b"image/png"),
    "png": once(OK % b"image/png", png(40_000, 40_000)),
    "png, endless": endless(OK % b"image/png", png(40_000, 40_000)),
    "vp8 of 16383 x 16383": lambda client, *rest: once(OK % b"video/x-ivf", vp8(), hold=False)(client, *rest),
    "hls": once(
        OK % b"application/vnd.apple.mpegurl", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://ELSEWHERE/x.ts\n"),
    "hls as a video": once(OK % b"video/mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://ELSEWHERE/x.ts\n", hold=False),
    "dash": once(
        OK % b"application/dash+xml",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>http://ELSEWHERE/</BaseURL></MPD>',
        hold=False,
    ),
    "sdp": once(OK % b"application/sdp", b"v=0\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n", hold=False),
    "ffconcat": once(OK % b"text/plain", b"ffconcat version 1.0\nfile http://ELSEWHERE/x\nfile /etc/passwd\n", hold=False),
    "redirect": once(b"HTTP/1.1 302 Found\r\nLocation: http://ELSEWHERE/x\r\nContent-Length: 0\r\n\r\n"),
    "redirect to a file": once(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
    "redirect to itself": once(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"),
    "endless headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "endless header line": endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
    "trickled headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.1),
    "trickled picture": endless(MULTIPART + BOUNDARY % 100_000, b"x", 0.05),
    "endless picture": endless(MULTIPART + BOUNDARY % 10**12 + b"\xff\xd8", b"x" * 65536),
    "endless picture without a length": endless(MULTIPART + b"--frame\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8", b"x" * 65536),
    "endless part headers": endless(MULTIPART + b"--frame\r\n", b"X: y\r\n" * 1000),
    "endless chunk": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"F" * 60_000 + b"\r\n", b"x" * 65536),
    "mp4 of a billion samples": once(OK % b"video/mp4", MP4 + samples(10**9), hold=False),
    "mp4 with an endless box": endless(OK % b"video/mp4" + MP4 + box(b"moov", b"", 2**31 - 1), box(b"udta", bytes(65536))),
    "noise, endless": endless(OK % b"video/mp2t", np.random.default_rng(0).bytes(65536)),
    "ts without a picture": endless(OK % b"video/mp2t", (b"\x47\x1f\xff\x10" + bytes(184)) * 100),
    "many small pictures": endless(MULTIPART, BOUNDARY % len(small_jpeg(8)) + small_jpeg(8) + b"\r\n"),
}  # fmt: skip
