"""What hostile servers send in a camera's place: refused with a reason, without a visit elsewhere, without much memory or time."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import threading
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from dkcam.errors import SourceError
from dkcam.runtime.live.camera import Camera
from dkcam.runtime.live.decoder import Decoder
from dkcam.runtime.live.lag import Backlog
from dkcam.runtime.live.link import Gone
from dkcam.runtime.live.network import is_same_place, with_password_of
from dkcam.runtime.live.rtsp import Reader, Refused, checked
from dkcam.runtime.live.stream import Limits, open_stream
from tests.runtime.live.camera_server import CameraServer, wait_until
from tests.runtime.live.hostile import small_jpeg
from tests.runtime.live.hostile_servers import HTTP, OK, RTSP, hostile, once, pictures

TIMEOUT_S = 0.5
REASONS = {
    "png": "it sends a PNG picture",
    "png, endless": "it sends a PNG picture",
    "vp8 of 16383 x 16383": "16383x16383 pixels, more than 256 MiB can hold; --camera-memory 2816",
    "hls": r"a playlist \(HLS\)",
    "hls as a video": r"a playlist \(HLS\)",
    "dash": "a page or a manifest",
    "sdp": "a session description",
    "ffconcat": "a list of files",
    "redirect": "it redirects to http://127.0.0.1:.*--follow-redirects",
    "redirect to a file": "it redirects to what is no stream",
    "redirect to itself": "more than 5 times",
    "endless headers": "more than 100 headers",
    "endless header line": "more than 65536 bytes",
    "endless picture": "24 MB without a picture",
    "endless picture without a length": "24 MB without a picture",
    "endless part headers": "24 MB without a picture",
    "mp4 with an endless box": "24 MB without a picture",
    "ts without a picture": "24 MB without a picture",
    "noise, endless": "expected MJPEG",
    "rtsp redirect": "it redirects to rtsp://127.0.0.1:.*--follow-redirects",
    "rtsp redirect, headers folded oddly": "it redirects to rtsp://127.0.0.1:",
    "rtsp request to redirect": "it redirects to rtsp://127.0.0.1:",
    "rtsp endless headers": "more than 100 headers",
    "rtsp endless line": "a line of more than 8 KiB",
    "rtsp endless junk": "no RTSP",
    "rtsp endless body": "1 MiB is the most",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_camera_is_refused_with_its_reason(name: str) -> None:
    scheme = "rtsp" if name in RTSP else "http"
    with hostile((HTTP | RTSP)[name]) as server:
        start = time.perf_counter()
        with pytest.raises(SourceError, match=REASONS[name]):
            open_stream(f"{scheme}://127.0.0.1:{server.port}/camera", TIMEOUT_S)
        assert time.perf_counter() - start < 10
        assert server.visits == 0 and server.asked >= 1


@pytest.mark.parametrize("name", sorted({*HTTP, *RTSP} - {*REASONS} - {"many small pictures"}))
def test_what_never_shows_a_picture_is_given_up_and_costs_little(name: str) -> None:
    """As a run sees it: a camera that is opened again and again, and whose process stays small."""
    scheme, most = "rtsp" if name in RTSP else "http", 0
    with hostile((HTTP | RTSP)[name]) as server:
        uri = f"{scheme}://127.0.0.1:{server.port}/camera"
        link = Decoder(uri, TIMEOUT_S)
        camera = Camera(0, uri, link, threading.Condition(), timeout_s=TIMEOUT_S, seed=0)
        camera.start()
        try:

            def given_up() -> bool:
                nonlocal most
                camera.check(time.perf_counter())
                shot = camera.take()
                if shot is not None:
                    with suppress(Gone):
                        assert shot.take().result(5) is None, "a picture was made of it"
                    camera.decoded(False)
                with suppress(OSError, StopIteration):
                    status = Path(f"/proc/{link.pid}/status").read_text().splitlines()
                    most = max(most, next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM")))
                return "trying again" in camera.reason

            wait_until(given_up, 20)
        finally:
            camera.stop()
        assert server.visits == 0 and most < 400


def test_a_redirect_is_followed_where_it_is_asked_for(server: CameraServer) -> None:
    place = once(b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % server.uri.encode(), hold=False)
    with hostile(place) as first:
        uri = f"http://127.0.0.1:{first.port}/camera"
        with pytest.raises(SourceError, match="--follow-redirects"):
            open_stream(uri, TIMEOUT_S)
        stream = open_stream(uri, TIMEOUT_S, Limits(redirects=True))
        grab, _ = next(iter(stream.grabs()))
        assert grab() is not None
        stream.close()


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("http://cam/a", "http://cam/b", True),
        ("http://cam/a", "http://CAM:80/b", True),
        ("http://cam/a", "https://cam/a", True),
        ("http://cam:8080/a", "http://cam:8081/a", False),
        ("http://cam/a", "https://cam:8443/a", False),
        ("http://cam/a", "http://other/a", False),
        ("http://cam/a", "rtsp://cam:80/a", False),
        ("http://cam/a", "ftp://cam/a", False),
        ("http://cam/a", "http://cam@other/a", False),
        ("http://cam/a", "http://[::1/", False),
        ("http://cam/a", "http://cam:99999/", False),
        ("rtsp://cam/a", "rtsp://cam:554/b", True),
        ("rtsp://cam/a", "rtsps://cam/b", True),
    ],
)
def test_what_counts_as_the_same_place(before: str, after: str, same: bool) -> None:
    assert is_same_place(before, after) == same


@pytest.mark.parametrize("kind", ["Basic", "Digest"])
def test_passwords_of_the_address_are_sent(kind: str) -> None:
    """RFC 7617, RFC 7616: the second request holds what the first was refused for, and only then comes a picture."""
    challenge = 'Digest realm="cam", qop="auth", nonce="abc", algorithm=MD5' if kind == "Digest" else 'Basic realm="cam"'
    heads: list[str] = []

    def answer(client: socket.socket, elsewhere: str, request: bytes) -> None:
        heads.append(request.decode())
        expected = {
            "Basic": base64.b64encode(b"me:s@cret").decode(),
            "Digest": digest("me", "s@cret", request),
        }[kind]
        if expected in heads[-1]:
            pictures(small_jpeg())(client, elsewhere)
        client.sendall(f"HTTP/1.1 401 No\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode())

    with hostile(answer) as server:
        stream = open_stream(f"http://me:s%40cret@127.0.0.1:{server.port}/camera", TIMEOUT_S)
        assert next(iter(stream.grabs()))[0]() is not None
        stream.close()
        with pytest.raises(SourceError, match="401") as error:
            open_stream(f"http://me:wrong@127.0.0.1:{server.port}/camera", TIMEOUT_S)
    assert "s@cret" not in str(error.value) and "wrong" not in str(error.value)
    assert "uthorization" not in heads[0]


def digest(user: str, password: str, request: bytes) -> str:
    """The response that RFC 7616, 3.4.1 asks for; "" where the request has none."""
    fields = dict(re.findall(r'(\w+)="?([^",\r]*)"?', request.decode().partition("Authorization: Digest ")[2].split("\r\n")[0]))
    if "cnonce" not in fields:
        return "no digest"
    md5 = lambda text: hashlib.md5(text.encode()).hexdigest()  # noqa: E731
    secret, asked = md5(f"{user}:cam:{password}"), md5(f"GET:{fields['uri']}")
    return md5(f"{secret}:abc:{fields['nc']}:{fields['cnonce']}:auth:{asked}")


def test_a_backlog_of_mjpeg_counts_as_age() -> None:
    backlog = Backlog()
    for k in range(100):  # 25 a second, nothing waits
        assert backlog.of(1000, 200, k / 25) == 0
    assert backlog.of(1000, 25_000, 6.0) == pytest.approx(1.0, rel=0.02)  # 25 pictures wait behind it
    assert backlog.of(1000, 24_000, 6.001) == pytest.approx(0.96, rel=0.02)  # read at once: that is not their pace
    assert Backlog().of(1000, 50_000, 0.0) == 0  # no pace is known yet


def test_a_backlog_in_the_connection_is_seen(server: CameraServer) -> None:
    """Nobody reads for a while; the pictures that wait are as late as they are."""
    stream = open_stream(server.uri, 5.0)
    grabs = stream.grabs()
    assert np.median([next(grabs)[1] for _ in range(30)]) < 0.1
    time.sleep(1.5)
    assert max(next(grabs)[1] for _ in range(10)) > 0.3
    server.faults.append("cut")
    with suppress(SourceError):  # "the connection was closed", where the system says so
        for _, late in grabs:
            assert late >= 0
    stream.close()


@pytest.mark.parametrize("codec", ["rawvideo", "ffv1"])
def test_codecs_that_no_camera_sends_are_refused(codec: str) -> None:
    memory = BytesIO()
    with av.open(memory, "w", format="matroska") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with hostile(once(OK % b"video/x-matroska", memory.getvalue(), hold=False)) as server, pytest.raises(SourceError, match="expected"):
        list(open_stream(f"http://127.0.0.1:{server.port}/camera", TIMEOUT_S).grabs())


def through(sent: bytes) -> bytes:
    """What FFmpeg gets of it."""
    camera, ours = socket.socketpair()
    with camera, ours:
        camera.sendall(sent)
        camera.shutdown(socket.SHUT_WR)
        return b"".join(m if m[:1] == b"$" else checked(m, b"10.0.0.7", "rtsp://10.0.0.7/") for m in Reader(ours).messages())


def test_what_some_rtsp_servers_send_passes() -> None:
    head = b"RTSP/1.0 200 Alles in Ordnung \xfc\r\nCSeq: 1\r\nPublic: OPTIONS,\r\n DESCRIBE\r\nno header\r\nLast Modified: now\r\n\r\n"
    assert through(b"\r\n" + head) == (
        b"RTSP/1.0 200 Alles in Ordnung \xfc\r\nCSeq: 1\r\nPublic: OPTIONS, DESCRIBE\r\nContent-Length: 0\r\n\r\n"
    )
    transport = b'Transport: RTP/AVP;unicast;client_port=1-2;source=10.9.9.9;server_port=3-4;mode="PLAY"'
    assert b';server_port=3-4;mode="PLAY";source=10.0.0.7\r\n' in through(b"RTSP/1.0 200 OK\r\n" + transport + b"\r\n\r\n")


def test_what_ffmpeg_would_read_as_more_than_one_message_is_not_passed() -> None:
    media = b"$\0\0\x08" + b"12345678"
    assert through(media + b"$\0\0\1X" + media + b"$\0\0\0") == media * 2  # short ones are read as what follows them
    with pytest.raises(Refused):
        through(b"RTSP/1.0 200 OK\r\n$\0\0\4\r\nContent-Length: 5\r\n\r\n")


def test_a_redirect_on_the_same_host_keeps_the_password_and_another_does_not() -> None:
    assert with_password_of("http://me:p%40w@cam/a", "http://cam/b?c=d") == "http://me:p%40w@cam/b?c=d"
    assert with_password_of("http://cam/a", "http://cam/b") == "http://cam/b"
    heads: list[bytes] = []

    def answer(client: socket.socket, elsewhere: str, request: bytes) -> None:
        heads.append(request)
        if b"GET /b" in request and b"Authorization: Basic" in request:
            pictures(small_jpeg())(client, elsewhere)
        elif b"GET /b" in request:
            client.sendall(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="cam"\r\nContent-Length: 0\r\n\r\n')
        else:
            client.sendall(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n")

    with hostile(answer) as server:
        stream = open_stream(f"http://me:pw@127.0.0.1:{server.port}/a", TIMEOUT_S)
        assert next(iter(stream.grabs()))[0]() is not None
        stream.close()


def test_an_address_with_what_does_not_belong_there(server: CameraServer) -> None:
    stream = open_stream(server.uri + "/a b/ü?c=d e&pwd=geheim", TIMEOUT_S)
    assert next(iter(stream.grabs()))[0]() is not None
    stream.close()
    for uri in (f"http://127.0.0.1:{server.port}\x01/?pwd=geheim", "http://cam\x7f:80/?pwd=geheim"):
        with pytest.raises(SourceError) as error:
            open_stream(uri, TIMEOUT_S)
        assert "geheim" not in str(error.value)
