"""One camera that is kept open, against a server that fails in every way a server can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dkcam.errors import SourceError
from dkcam.runtime.jpeg import decode as decode_jpeg
from dkcam.runtime.live import camera as camera_module
from dkcam.runtime.live.camera import Camera, Shot
from dkcam.runtime.live.decoder import Decoder
from dkcam.runtime.live.lag import Lag
from dkcam.runtime.live.link import Gone
from dkcam.runtime.live.stream import open_stream, shown
from tests.runtime.live.camera_server import CameraServer, numbered, wait_until
from tests.runtime.live.scripted import Scripted

TIMEOUT_S = 0.6


@pytest.fixture
def watch() -> Iterator[Callable[..., Camera]]:
    """Starts cameras and stops them at the end."""
    started: list[Camera] = []

    def start(link: Any, **options: Any) -> Camera:
        options = {"timeout_s": TIMEOUT_S, "seed": 0} | options
        camera = Camera(len(started), "test", link, threading.Condition(), **options)
        started.append(camera)
        camera.start()
        return camera

    yield start
    for camera in started:
        camera.stop()


def whole(shot: Shot) -> bool:
    """Whether it could be decoded."""
    try:
        return shot.take().result(5) is not None
    except Gone:
        return False


def link_to(server: CameraServer) -> Decoder:
    return Decoder(server.uri, TIMEOUT_S)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("rtsp://me:secret@10.0.0.7:554/stream?key=abc", "rtsp://me@10.0.0.7:554/stream"),
        ("http://cam/video?token=abc", "http://cam/video"),
        ("http://:secret@cam/", "http://cam/"),
        ("http://[::1/a:b@c", "http://…"),
        ("rtspsrc location=rtsp://me:secret@cam/x ! appsink", "rtspsrc location=rtsp://me@cam/x ! appsink"),
        (
            "rtspsrc location=rtsp://cam/x user-id=me user-pw=secret ! appsink",
            "rtspsrc location=rtsp://cam/x user-id=me user-pw=… ! appsink",
        ),
        ("RTSP://me:secret@cam/x", "rtsp://me@cam/x"),
        ("0", "0"),
        ("v4l2:///dev/video0", "v4l2:///dev/video0"),
    ],
)
def test_names_hold_no_password(uri: str, name: str) -> None:
    assert shown(uri) == name and "secret" not in shown(uri) and "abc" not in shown(uri)


def test_errors_hold_no_password_and_say_what_the_server_said(server: CameraServer) -> None:
    for uri, words in (
        ("http://me:secret@127.0.0.1:9/x?key=abc", "connection refused"),
        ("rtsp://me:secret@127.0.0.1:9/x", "connection refused"),
        ("http://me:secret@127.0.0.1:99999/x", "cannot be opened"),
    ):
        with pytest.raises(SourceError, match=words) as error:
            open_stream(uri, TIMEOUT_S)
        assert "secret" not in str(error.value) and "abc" not in str(error.value)


def test_pictures_arrive_as_sent_and_in_order(server: CameraServer) -> None:
    stream = open_stream(server.uri, TIMEOUT_S)
    pictures = []
    for grab, late in stream.grabs():
        assert late == 0
        pictures.append(grab())
        if len(pictures) == 6:
            break
    stream.close()
    levels = [int(np.median(picture[1])) for picture in pictures if picture is not None]
    first = min(range(8), key=lambda n: abs(20 + 30 * n - levels[0]))
    expected = [numbered(first + k) for k in range(6)]
    for picture, sent in zip(pictures, expected, strict=True):
        assert picture is not None and picture.shape == sent.shape
        assert np.abs(picture.astype(int) - sent).mean() < 3


def test_a_backlog_counts_as_age() -> None:
    lag = Lag()
    assert lag.of(None, 5.0) == 0
    assert [round(lag.of(k / 25, 100 + k / 25), 3) for k in range(50)] == [0.0] * 50  # as fast as it was filmed
    late = [lag.of(2 + k / 25, 102 + k / 10) for k in range(50)]  # decoding takes 100 ms a picture
    assert late[-1] == pytest.approx(49 * (1 / 10 - 1 / 25), abs=0.01) and late == sorted(late)
    assert lag.of(5000.0, 110.0) == 0 and lag.of(5000.04, 111.0) == pytest.approx(0.96, abs=0.01)  # its clock jumped
    slow = Lag()
    drifting = [slow.of(k * (1 - 1e-4), float(k)) for k in range(4000)]  # a camera's clock that goes slow is no backlog
    assert max(drifting) < 0.01


def test_damaged_jpegs_are_refused() -> None:
    import cv2

    data = cv2.imencode(".jpg", numbered(3))[1].tobytes()
    assert decode_jpeg(data) is not None
    at = data.index(b"\xff\xc0") + 5
    huge = data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]
    for bad in (huge, data[: len(data) // 2], b"", b"\xff\xd8\xff\xd9", data[:2] + bytes(50), b"GIF89a"):
        assert decode_jpeg(bad) is None


def test_the_newest_picture_wins(server: CameraServer, watch: Callable[..., Camera]) -> None:
    camera = watch(link_to(server))
    wait_until(lambda: camera.shots >= 20)
    with camera._news:
        newest = camera.shots - 1
        shot = camera.take()
    assert shot is not None and shot.index == newest and not camera.fresh()
    assert camera.dropped == newest
    age = time.perf_counter() - shot.at
    assert 0 <= age < 0.5


@pytest.mark.parametrize("fault", ["cut", "garbage", "bad", "silent", "end", "resize"])
def test_faults_pass(server: CameraServer, watch: Callable[..., Camera], fault: str) -> None:
    camera = watch(link_to(server))
    wait_until(lambda: camera.shots >= 3)
    server.faults.append(fault)
    wait_until(lambda: not server.faults)
    start, sent = time.perf_counter(), server.sent
    # one period of silence where the server stays mute, one back-off, two seconds
    allowed = (TIMEOUT_S if fault == "silent" else 0) + camera_module.FIRST_DELAY_S + 2
    wait_until(lambda: camera.live and camera.last_at is not None and camera.last_at > start and server.sent > sent + 3, allowed)
    wait_until(lambda: (shot := camera.take()) is not None and whole(shot))


def test_a_server_that_dies_comes_back(server: CameraServer, watch: Callable[..., Camera]) -> None:
    camera = watch(link_to(server))
    for times in range(1, 4):
        wait_until(lambda: camera.live)
        server.kill()
        wait_until(lambda: not camera.live, 3)
        time.sleep(0.1)
        server.start()
        wait_until(lambda n=times: camera.live and camera.reopened == n, 2 * camera_module.FIRST_DELAY_S + 2)


def test_back_off_grows_and_has_an_end(watch: Callable[..., Camera], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera_module, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(camera_module, "LONGEST_DELAY_S", 0.16)
    link = Scripted(fails="gone")
    camera = watch(link)
    camera._delay_s = 0.02
    wait_until(lambda: len(link.opened) >= 8)
    waits = np.diff(link.opened)
    assert waits[0] < 0.1 and all(0.11 <= wait < 0.4 for wait in waits[4:7]), waits
    assert "gone; trying again in" in camera.reason


def test_a_link_that_is_overdue_is_given_up_and_opened_again(watch: Callable[..., Camera]) -> None:
    link = Scripted(100, 3)
    camera = watch(link)
    wait_until(lambda: camera.shots == 3)
    camera.check(time.perf_counter())
    assert link.why == "" and camera.live
    link.late = "test: its driver has not answered for 2 s"
    camera.check(time.perf_counter())
    link.late = None
    wait_until(lambda: not camera.live and "has not answered for 2 s; trying again in" in camera.reason)
    wait_until(lambda: camera.reopened == 1 and camera.shots == 6)


def test_arrivals_that_were_not_told_of_count_as_dropped(watch: Callable[..., Camera]) -> None:
    class Jumpy(Scripted):
        def arrivals(self) -> Any:
            for arrival in super().arrivals():
                yield replace(arrival, skipped=4)

    camera = watch(Jumpy(100, 3))
    wait_until(lambda: camera.shots == 15)
    assert camera.dropped == 14 and (shot := camera.take()) is not None and shot.index == 14


def test_a_camera_that_sends_nothing_but_damage_is_opened_again(server: CameraServer, watch: Callable[..., Camera]) -> None:
    camera = watch(link_to(server))
    wait_until(lambda: camera.live)
    for whole in (True, False, False, True, False):
        camera.decoded(whole)
    assert camera.damaged == 3
    camera.check(time.perf_counter() + TIMEOUT_S / 2)
    assert camera.reopened == 0
    camera.check(time.perf_counter() + 1.1 * TIMEOUT_S)
    wait_until(lambda: camera.live and camera.reopened == 1)
