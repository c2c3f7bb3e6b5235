"""What counts as a video, and what does not."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from dkcam.errors import SourceError
from dkcam.runtime.sources import Animation, open_source
from tests.runtime.live import hostile

CUE = "00:00:0{0},000 --> 00:00:0{1},000\nstop\n\n"


def video(path: Path, codec: str, pixels: str = "yuv420p", frames: int = 6) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 80, pixels
        for number in range(frames):
            picture = np.full((48, 80, 3), 20 + 30 * (number % 6), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "mjpeg", "yuvj420p"),
        ("a.mkv", "libx264", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.ts", "mpeg2video", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
        ("12:30.mp4", "libx264", "yuv420p"),
    ],
)
def test_videos_are_read_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, pixels: str) -> None:
    monkeypatch.chdir(tmp_path)
    video(Path("made" + Path(name).suffix), codec, pixels).rename(name)
    source = open_source(name)
    for _ in range(2):  # as --loop does
        found = [(frame.index, round(float(frame.image.mean()) / 30)) for frame in source]
        assert found == [(k, pytest.approx((20 + 30 * k) / 30, abs=0.9)) for k in range(6)]
    source.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "\n".join(f"class {k}, some words about it" for k in range(300))),
        ("a.srt", "".join(f"{k}\n" + CUE.format(k, k + 1) for k in range(9))),
        ("a.ass", "[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,stop\n"),
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
    ],
)
def test_texts_and_playlists_are_no_videos(tmp_path: Path, name: str, text: str) -> None:
    """Nor is anything opened that they name."""
    video(tmp_path / "clip.mp4", "libx264")
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / name).write_text(text.format(address=f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"))
        with pytest.raises(SourceError, match=f"{name} cannot be opened: it is a text file, expected a video, a picture or a folder"):
            open_source(str(tmp_path / name))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has come
            server.accept()


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(SourceError, match="it holds sound or data and no picture"):
        open_source(str(tmp_path / "a.mp4"))


@pytest.mark.skipif(not Animation.can_be_read(), reason="OpenCV reads animations from 4.11 on")
@pytest.mark.parametrize("kind", ["webp", "png"])
def test_an_animation_is_played(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    made = cv2.Animation()
    made.frames = [np.full((48, 80, 4), 12 * number, np.uint8) for number in range(20)]
    made.durations = np.full(20, 50)
    path = tmp_path / f"a.{kind}"
    assert cv2.imwriteanimation(str(path), made)
    source = open_source(str(path))
    for _ in range(2):
        frames = list(source)
        assert [frame.index for frame in frames] == list(range(20)) and source.fps == pytest.approx(20)
        assert all(abs(float(frame.image.mean()) - 12 * k) < 6 and frame.image.shape == (48, 80, 3) for k, frame in enumerate(frames))
    cv2.imwrite(str(tmp_path / f"b.{kind}"), np.zeros((48, 80, 3), np.uint8))
    with caplog.at_level(logging.WARNING):  # among other pictures it is one, and that is said
        assert [frame.name for frame in open_source(str(tmp_path))] == ["a", "b"]
    assert [record.message.split(": ")[1] for record in caplog.records] == [
        "only the first of its pictures is read, here and in others like it"
    ]


def test_pictures_that_cannot_be_read_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clip: Callable[..., Path]
) -> None:
    for number in range(15):
        (tmp_path / f"{number:02}.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"none of the 15 pictures in .* can be read; the first: .*00.png cannot be read as a picture"):
        list(open_source(str(tmp_path)))
    cv2.imwrite(str(tmp_path / "07.png"), np.zeros((48, 80, 3), np.uint8))
    caplog.clear()
    source = open_source(str(tmp_path))
    for _ in range(2):
        assert [(frame.index, frame.name) for frame in source] == [(7, "07")]
        assert len(source.skipped) == 14 and len(caplog.records) == 10  # each named once, and not all of them


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.png", lambda: hostile.png(30_000, 30_000), "more pixels than"),
        ("a.jpg", lambda: hostile.sized(hostile.small_jpeg(), 30_000, 30_000), "more pixels than"),
        ("a.webp", lambda: hostile.webp(16_000, 16_000), "more pixels than"),
        ("a.gif", lambda: hostile.gif(16_000, 16_000), "more than 100 megapixels"),
        ("scans.jpg", lambda: hostile.scans(3000, 1000), "3001 scans"),
    ],
)
def test_pictures_that_ask_for_gigabytes_or_minutes_are_one_line(
    model_file: Path, tmp_path: Path, name: str, data: Any, words: str
) -> None:
    (tmp_path / name).write_bytes(data())
    code = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2 << 30,) * 2); from dkcam.tools.run_command import entry; entry()"
    given = ["--model", model_file, "--source", tmp_path / name, "--headless"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, given)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
