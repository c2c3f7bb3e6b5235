"""A camera's decoder process: what it gives, and that its end, its silence and its lies concern its own connection alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dkcam.errors import SourceError
from dkcam.runtime.live.camera import FIRST_DELAY_S, Camera, stop_all
from dkcam.runtime.live.decoder import Decoder, process
from dkcam.runtime.live.link import Arrival, Gone
from tests.runtime.live.camera_server import CameraServer, numbered, wait_until

TIMEOUT_S = 0.6
SPEAK = """
import json, socket, sys, time
to_run = socket.socket(fileno=int(sys.argv[2]))
say = lambda *messages: to_run.sendall(b"".join((m if isinstance(m, bytes) else json.dumps(m).encode()) + b"\\n" for m in messages))
to_run.recv(1000)
"""


@pytest.fixture
def opened(server: CameraServer) -> Iterator[Decoder]:
    link = Decoder(server.uri, TIMEOUT_S)
    link.open()
    yield link
    link.close()


@pytest.fixture
def started(server: CameraServer) -> Iterator[Callable[[], tuple[Camera, Decoder]]]:
    cameras: list[Camera] = []

    def start() -> tuple[Camera, Decoder]:
        link = Decoder(server.uri, TIMEOUT_S)
        cameras.append(Camera(len(cameras), server.uri, link, threading.Condition(), timeout_s=TIMEOUT_S, seed=0))
        cameras[-1].start()
        wait_until(lambda: cameras[-1].live)
        return cameras[-1], link

    yield start
    stop_all(cameras)


def follow(link: Decoder) -> Callable[[Arrival], Any]:
    """Reads the link in a thread, as a camera does; returns what takes a picture."""
    arrivals: list[Arrival] = []

    def read() -> None:
        with suppress(SourceError):
            for arrival in link.arrivals():
                arrivals.append(arrival)

    threading.Thread(target=read, daemon=True).start()
    wait_until(lambda: arrivals)
    return lambda which: arrivals[which].take().result(5)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, and was waited for."""
    return not Path(f"/proc/{pid}").exists()


def test_pictures_come_as_they_were_sent_and_stay_what_they_were(opened: Decoder, server: CameraServer) -> None:
    take = follow(opened)
    levels = [20 + 30 * k for k in range(8)]
    pictures: list[Any] = []
    while len(pictures) < 5:
        with suppress(Gone):
            pictures.append(take(-1))
            time.sleep(0.03)
    for picture in pictures:  # also the first, after four more went through the same memory
        number = min(range(8), key=lambda k: abs(levels[k] - int(np.median(picture[1]))))
        assert picture.dtype == np.uint8 and np.abs(picture.astype(int) - numbered(number)).mean() < 3
    assert len({int(np.median(picture[1])) for picture in pictures}) > 1


def test_larger_pictures_get_more_room(opened: Decoder, server: CameraServer) -> None:
    take = follow(opened)
    assert take(-1).shape == (96, 128, 3)
    server.faults.append("resize")
    shapes: set[tuple[int, ...]] = set()

    def larger() -> bool:
        with suppress(Gone):
            picture = take(-1)
            shapes.add(picture.shape)
        return len(shapes) == 2

    wait_until(larger)
    assert max(shapes)[0] > 96


def test_an_older_picture_is_gone(opened: Decoder, server: CameraServer) -> None:
    take = follow(opened)
    wait_until(lambda: opened._count > 10)
    with pytest.raises(Gone):
        take(0)


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_decoder_that_crashes_costs_its_camera_a_reconnect_and_the_others_nothing(
    started: Callable[[], tuple[Camera, Decoder]], how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    (hit, link), (other, _) = started(), started()
    pid = link.pid
    assert pid is not None
    before, lost = other.shots, other.reopened
    os.kill(pid, how)
    wait_until(lambda: not hit.live)
    assert f"its decoder was killed by {how.name}; trying again in" in hit.reason and is_gone(pid)
    wait_until(lambda: hit.reopened == 1, FIRST_DELAY_S + 5)
    assert other.live and other.reopened == lost and other.shots > before and link.pid != pid


def test_a_decoder_that_hangs_is_killed(started: Callable[[], tuple[Camera, Decoder]]) -> None:
    (hit, link), (other, _) = started(), started()
    pid = link.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    start = time.perf_counter()

    def given_up() -> bool:
        hit.check(time.perf_counter())
        other.check(time.perf_counter())
        return not hit.live

    wait_until(given_up)
    assert TIMEOUT_S + 0.9 < time.perf_counter() - start < TIMEOUT_S + 1 + 3
    assert "its driver has not answered for" in hit.reason and is_gone(pid)
    wait_until(lambda: hit.reopened == 1)
    assert other.live and other.reopened == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_a_whole_service_are_the_run_s_alone(started: Callable[[], tuple[Camera, Decoder]], how: signal.Signals) -> None:
    camera, link = started()
    pid, before = link.pid, camera.shots
    assert pid is not None
    os.kill(pid, how)
    wait_until(lambda: camera.shots > before + 20)
    assert link.pid == pid and camera.reopened == 0


def test_a_picture_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        SPEAK
        + "say({'opened': True}, {'arrived': 0, 'at': 1.0})\nfor n in range(1, 1000): say({'arrived': n, 'at': 1.0}); time.sleep(0.02)"
    )
    monkeypatch.setattr(process, "CODE", code)
    link = Decoder("test", 30.0)
    link.open()
    taken = next(iter(link.arrivals())).take()
    now = time.perf_counter()
    assert link.overdue(now + 1.9) is None and "takes longer than 2 s to decode" in str(link.overdue(now + 2.1))
    link.end("too long")
    with pytest.raises(SourceError, match="too long"):
        list(link.arrivals())
    with pytest.raises(Gone):
        taken.result(1)
    link.close()


@pytest.mark.parametrize(
    "words",
    [
        "b'no JSON'",
        "[1]",
        "{'arrived': 'x', 'at': 1.0}",
        "{'arrived': 3, 'at': 1.0}, {'arrived': 2, 'at': 1.0}",
        "{'arrived': 0, 'at': float('nan')}",
        "{'arrived': 0}",
        "{'needs': -5}",
        "{'needs': 10**12}",
        "{'needs': 100}",  # of a picture that nobody asked for
        "{'arrived': 10**400, 'at': 1.0}",
        "{'arrived': 10**300, 'at': 1.0}",
        "{'picture': 0, 'size': [8, 8]}",
        "b'x' * 200000",
        "b'[' * 60000",
        "*({'gone': -1} if n % 2 else {'needs': 1} for n in range(5000))",
    ],
)
def test_a_decoder_that_lies_is_ended(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setattr(process, "CODE", SPEAK + f"say({{'opened': True}}, {words}); time.sleep(20)")
    link = Decoder("test", 30.0)
    link.open()
    pid = link.pid
    assert pid is not None
    with pytest.raises(SourceError, match=r"test: its decoder sent what cannot be understood"):
        list(link.arrivals())
    assert is_gone(pid)


@pytest.mark.parametrize("size", ["[8, 9]", "[0, 8]", "[-8, -8]", "[10**6, 10**6]", "['a', 8]", "[8]", "5"])
def test_a_picture_beyond_its_room_is_not_read(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    answer = f"to_run.recv(1000); say({{'needs': 192}}, {{'picture': 0, 'size': {size}}}); time.sleep(20)"
    monkeypatch.setattr(process, "CODE", SPEAK + f"say({{'opened': True}}, {{'arrived': 0, 'at': 1.0}}); {answer}")
    link = Decoder("test", 30.0)
    link.open()
    arrivals = link.arrivals()
    taken = next(arrivals).take()
    with pytest.raises(SourceError, match="cannot be understood"):
        next(arrivals)
    with pytest.raises(Gone):
        taken.result(1)


def test_the_decoder_cannot_shrink_the_memory_it_was_given() -> None:
    from dkcam.runtime.live.decoder.wire import Room

    room = Room(4096)
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(room.descriptor, size)
    room.close()


def test_stopping_leaves_no_process_no_thread_and_no_descriptor(server: CameraServer) -> None:
    def once(fault: str = "") -> None:
        link = Decoder(server.uri, TIMEOUT_S)
        camera = Camera(0, server.uri, link, threading.Condition(), timeout_s=TIMEOUT_S)
        camera.start()
        wait_until(lambda: camera.shots > 2)
        pid = link.pid
        assert pid is not None
        if fault == "stop":
            os.kill(pid, signal.SIGSTOP)
        elif fault:
            server.faults.append(fault)
            wait_until(lambda: not server.faults)
        start = time.perf_counter()
        camera.stop()
        assert time.perf_counter() - start < 1.5 and is_gone(pid)
        assert camera._thread is not None and not camera._thread.is_alive()

    once()
    before = len(list(Path("/proc/self/fd").iterdir()))
    server.kill()
    server.start()
    for fault in ("", "silent", "stop"):
        once(fault)
    server.kill()
    wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)
    server.start()


def test_closing_ends_a_connection_that_is_being_made() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = Decoder(f"http://127.0.0.1:{silent.getsockname()[1]}/", 30.0)
        ends: list[BaseException] = []

        def open_() -> None:
            try:
                link.open()
            except SourceError as error:
                ends.append(error)

        thread = threading.Thread(target=open_, daemon=True)
        thread.start()
        client, _ = silent.accept()
        start = time.perf_counter()
        link.close()
        thread.join(2)
        assert not thread.is_alive() and ends and time.perf_counter() - start < 1.5
        with pytest.raises(SourceError, match="was closed"):
            link.open()
        client.close()


def test_each_connection_has_a_process_of_its_own(server: CameraServer, opened: Decoder) -> None:
    pid = opened.pid
    assert pid is not None
    server.faults.append("end")
    with suppress(SourceError):  # "ended", or "the connection was closed": as the system says it
        list(opened.arrivals())
    assert is_gone(pid)  # what one connection did to it is gone as well
    opened.open()
    assert opened.pid != pid and next(iter(opened.arrivals()))


def test_a_camera_that_is_not_there_costs_no_process_a_try(server: CameraServer) -> None:
    server.kill()
    link = Decoder(server.uri, TIMEOUT_S)
    pids = set()
    for _ in range(3):
        with pytest.raises(SourceError, match="refused"):
            link.open()
        pids.add(link.pid)
    assert len(pids) == 1 and None not in pids
    link.close()
    server.start()


def test_a_picture_of_a_lost_connection_is_gone_and_the_next_one_comes(server: CameraServer, opened: Decoder) -> None:
    arrivals = opened.arrivals()
    old = next(arrivals)
    server.faults.append("end")
    with suppress(SourceError):
        for old in arrivals:  # noqa: B007
            pass
    with pytest.raises(Gone):
        old.take().result(1)  # between two connections
    number = opened._count
    opened.open()
    take = follow(opened)
    wait_until(lambda: opened._count > number)
    with pytest.raises(Gone):
        old.take().result(1)  # on the next one, where that number was given again
    assert take(-1) is not None
    assert opened.overdue(time.perf_counter()) is None


def test_a_decoder_ends_with_its_run(server: CameraServer) -> None:
    code = (
        "import sys, time; from dkcam.runtime.live.decoder import Decoder; link = Decoder(sys.argv[1], 60.0); link.open(); "
        "print(link.pid, flush=True); time.sleep(60)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, server.uri], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    server.faults.append("half")  # it waits for the rest of a picture
    wait_until(lambda: not server.faults)
    run.kill()
    run.communicate()
    wait_until(lambda: is_gone(pid) or Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z", 5)


def test_devices_are_read_the_same_way(tmp_path: Path) -> None:
    """A driver's hang ends with its process; here, OpenCV is one that does not answer."""
    link = Decoder("v4l2:///dev/nothing", 0.3)
    with pytest.raises(SourceError, match="/dev/nothing does not exist"):
        link.open()
    link.close()


def test_a_huge_picture_is_refused_before_it_is_decoded(opened: Decoder, server: CameraServer) -> None:
    data = cv2.imencode(".jpg", numbered(3))[1].tobytes()
    at = data.index(b"\xff\xc0") + 5
    server.raw = data[:at] + b"\x7d\x00\x7d\x00" + data[at + 4 :]
    with pytest.raises(SourceError, match=r"pictures of 32000x32000 pixels.*--camera-memory 10743"):
        list(opened.arrivals())


def test_a_decoder_without_a_filter_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dkcam")
    for filtered in (True, False):
        monkeypatch.setattr(process, "CODE", SPEAK + f"say({{'started': True, 'filter': {filtered}}}, {{'opened': True}}); time.sleep(20)")
        link = Decoder("test", 30.0)
        link.open()
        link.close()
        assert ("no filter of system calls" in caplog.text) != filtered


def test_a_decoder_that_does_not_read_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CODE", SPEAK + "say({'opened': True}, {'arrived': 0, 'at': 1.0}); time.sleep(60)")
    link = Decoder("test", 30.0)
    link.open()
    arrival = next(link.arrivals())
    assert link._channel is not None
    with pytest.raises(OSError):
        while True:  # until its end of the socket is full
            link._channel.send({"take": 0})
    start = time.perf_counter()
    arrival.take()
    link.end("enough")
    assert time.perf_counter() - start < 1 and not link._lock.locked()
    link.close()


def test_descriptors_that_a_decoder_sends_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rights = "[(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0, 0]))]"
    give = f"import array; [to_run.sendmsg([json.dumps({{'arrived': n, 'at': 1.0}}).encode() + b'\\n'], {rights}) for n in range(300)]"
    monkeypatch.setattr(process, "CODE", SPEAK + f"say({{'opened': True}}); {give}; say({{'ended': ''}})")
    link = Decoder("test", 30.0)
    link.open()
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert len(list(link.arrivals())) == 300
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    link.close()


def test_messages_without_end_while_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CODE", SPEAK + "say(*({'started': True} for n in range(5000))); time.sleep(60)")
    link = Decoder("test", 30.0)
    with pytest.raises(SourceError, match="2000 messages a second"):
        link.open()
    link.close()


@pytest.mark.parametrize("size", [(8, 64), (1, 1), (4000, 100)])
def test_strips_and_specks_are_no_cameras_pictures(server: CameraServer, size: tuple[int, int]) -> None:
    server.raw = cv2.imencode(".jpg", np.zeros((*size, 3), np.uint8))[1].tobytes()
    link = Decoder(server.uri, 2.0)
    with pytest.raises(SourceError, match=f"pictures of {size[1]}x{size[0]} pixels"):
        link.open()
        list(link.arrivals())
    link.close()
