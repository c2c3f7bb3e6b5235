"""Pictures that clients send: decoded apart, within limits, and whatever they do ends with their own answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dkcam.errors import InputError
from dkcam.runtime.live.decoder import PictureDecoder, pictures
from dkcam.runtime.live.stream import Limits
from tests.runtime.live.camera_server import numbered, wait_until
from tests.runtime.live.hostile import PICTURES, scans


@pytest.fixture(scope="module")
def decoder() -> Iterator[PictureDecoder]:
    one = PictureDecoder()
    yield one
    one.close()


def data_bytes(pid: int, name: str = "VmRSS") -> int:
    """Of a process, from its status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_pictures_come_as_they_were_sent(decoder: PictureDecoder, kind: str) -> None:
    data = cv2.imencode(kind, numbered(3))[1].tobytes()
    np.testing.assert_array_equal(decoder.decode(data), cv2.imdecode(np.frombuffer(data, np.uint8), 1))


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_hostile_pictures_are_refused_and_cost_little(decoder: PictureDecoder, name: str) -> None:
    decoder.decode(cv2.imencode(".png", numbered(1))[1].tobytes())
    pid = decoder.pid
    assert pid is not None
    with pytest.raises(InputError):
        decoder.decode(PICTURES[name]())
    assert decoder.pid is None or data_bytes(decoder.pid, "VmHWM") < 450 << 20
    assert decoder.decode(cv2.imencode(".png", numbered(2))[1].tobytes()).shape == numbered(2).shape


def test_what_takes_too_long_is_ended(decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "DECODE_S", 0.3)
    decoder.decode(cv2.imencode(".png", numbered(1))[1].tobytes())
    pid = decoder.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(InputError, match=r"takes longer than 0\.3 s"):
        decoder.decode(b"x")
    assert not Path(f"/proc/{pid}").exists()
    monkeypatch.setattr(pictures, "DECODE_S", 5.0)
    assert decoder.decode(cv2.imencode(".png", numbered(2))[1].tobytes()) is not None and decoder.pid != pid


def test_a_crash_is_one_answer(decoder: PictureDecoder) -> None:
    decoder.decode(cv2.imencode(".png", numbered(1))[1].tobytes())
    pid = decoder.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (pid, signal.SIGSEGV)).start()
    threading.Timer(0.2, os.kill, (pid, signal.SIGCONT)).start()
    with pytest.raises(InputError, match="ended over it"):
        decoder.decode(b"x")
    assert decoder.decode(cv2.imencode(".png", numbered(2))[1].tobytes()) is not None


def test_the_process_has_no_network_and_a_limit(decoder: PictureDecoder) -> None:
    decoder.decode(cv2.imencode(".png", numbered(1))[1].tobytes())
    pid = decoder.pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status
    limits = Path(f"/proc/{pid}/limits").read_text()
    sizes = next(line for line in limits.splitlines() if line.startswith("Max data size")).split()
    assert int(sizes[3]) < 1 << 30
    wanted = PictureDecoder(Limits(memory=32))  # 3 megapixels
    with pytest.raises(InputError, match="3 megapixels at most"):
        wanted.decode(cv2.imencode(".jpg", np.zeros((2000, 2000, 3), np.uint8))[1].tobytes())
    wanted.close()


def test_closing_does_not_wait_for_a_picture() -> None:
    one = PictureDecoder()
    one.decode(cv2.imencode(".png", numbered(1))[1].tobytes())
    assert one.pid is not None
    os.kill(one.pid, signal.SIGSTOP)
    errors: list[InputError] = []

    def ask() -> None:
        try:
            one.decode(b"x")
        except InputError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: one._turn.locked())
    start = time.perf_counter()
    one.close()
    thread.join(3)
    assert time.perf_counter() - start < 2 and "is ending" in str(errors[0])
    with pytest.raises(InputError, match="is ending"):
        one.decode(b"x")


def test_many_scans_are_counted_before_they_are_decoded() -> None:
    from dkcam.runtime import jpeg

    header = jpeg.read_header(scans(3000))
    assert header is not None and header.scans >= 3000 and header.whole
    start = time.process_time()
    assert jpeg.decode(scans(3000)) is None
    assert time.process_time() - start < 1
