"""Everything frames come from that lies on this machine. A source is a URI; ``open_source`` is the only way in.

0, 3                camera by number                     csi://0              camera on a Jetson
v4l2:///dev/video0  camera by device file                clip.mp4             video file
frames/             folder of pictures, by name          a.jpg                one picture
"v4l2src ! … ! appsink"   GStreamer pipeline             demo:                rendered drive, boxes known

rtsp://… and http://… are network cameras: ``dkcam.runtime.live.stream``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import SourceError
from dkcam.files import exists
from dkcam.rendered import Drive
from dkcam.runtime.frame import Frame, Source
from dkcam.runtime.process import quiet_opencv

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
NETWORK = ("rtsp://", "rtsps://", "http://", "https://")


def is_live(uri: str) -> bool:
    """Whether a source is a camera, which sends frames whether or not they are taken."""
    return (uri.isascii() and uri.isdigit()) or uri.lower().startswith((*NETWORK, "v4l2://", "csi://")) or " ! " in uri


def open_source(uri: str) -> Source:
    """Open a source. Errors: SourceError saying what was expected where nothing can be read."""
    if not uri:
        raise SourceError("the source is empty; expected a camera number, a file, a folder or an address")
    if uri.isascii() and uri.isdigit():
        return _camera(int(uri), uri)
    if uri.startswith("demo:"):
        return DemoSource(uri)
    if uri.startswith("v4l2://"):
        device = Path(uri[len("v4l2://") :])
        if not device.exists():
            raise SourceError(f"{device} does not exist; connected cameras: {_cameras()}")
        return Capture(uri, str(device), live=True, backend="V4L2")
    if uri.startswith("csi://"):
        sensor = uri[len("csi://") :] or "0"
        return _gstreamer(
            uri,
            f"nvarguscamerasrc sensor-id={sensor} ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
            " ! appsink drop=true max-buffers=1 sync=false",
        )
    if " ! " in uri:
        return _gstreamer(uri, uri)
    scheme = re.match(r"([A-Za-z0-9+]+)://", uri)
    if scheme:
        raise SourceError(f"{scheme.group(1)}:// is not a known source; expected rtsp, http, v4l2 or csi, a file or a folder")
    path = Path(uri)
    if exists(path) and path.is_dir():
        return Pictures(uri, sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES))
    if not exists(path):
        raise SourceError(f"{uri} does not exist; expected a camera number, a video, a picture, a folder or an address")
    if not path.stat().st_size:
        raise SourceError(f"{uri} is empty; expected a video or a picture")
    if path.suffix.lower() in PICTURES:
        return Pictures(uri, [path])
    return Capture(uri, str(path), live=False, backend="FFMPEG")


def _cameras() -> str:
    found = sorted(str(p) for p in Path("/dev").glob("video*"))
    return ", ".join(found) if found else "none"


def _camera(number: int, uri: str) -> Capture:
    if os.name == "posix" and Path("/dev").is_dir() and Path("/sys").is_dir() and not Path(f"/dev/video{number}").exists():
        raise SourceError(f"camera {number} is not there (/dev/video{number}); connected cameras: {_cameras()}")
    return Capture(uri, number, live=True, backend="ANY")


def _gstreamer(uri: str, pipeline: str) -> Capture:
    import cv2

    line = next((line for line in cv2.getBuildInformation().splitlines() if "GStreamer" in line), "")
    if "YES" not in line:
        raise SourceError(
            f"{uri}: this OpenCV was built without GStreamer; use v4l2:// or rtsp://, or install an OpenCV that has it (JetPack's does)"
        )
    return Capture(uri, pipeline, live=True, backend="GSTREAMER")


class Capture:
    """Whatever OpenCV's VideoCapture reads: cameras of this machine, GStreamer pipelines, videos."""

    def __init__(self, uri: str, target: str | int, *, live: bool, backend: str) -> None:
        quiet_opencv()
        import cv2

        self.name, self.live = uri, live
        self._capture = cv2.VideoCapture(target, getattr(cv2, f"CAP_{backend}"))
        if not self._capture.isOpened():
            what = "nothing that sends frames" if live else "not a whole video that FFmpeg can read; copy it again, or check its format"
            raise SourceError(f"{uri} cannot be opened: {what}")
        if live:
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # drivers that know no such thing ignore it
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if 1 <= fps <= 1000 else None
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if not live and count > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        start, index = time.perf_counter(), 0
        while True:
            more, image = self._capture.read()
            if not more:
                break
            at = time.perf_counter() - start if self.live else index / (self.fps or 25.0)
            yield Frame(_colour(image), index, self.name, at)
            index += 1
        if self.live:
            raise SourceError(f"{self.name} stopped after {index} frames; check the camera and its cable")
        # containers round their frame counts: a few missing at the end are no fault
        if self.count and index < self.count - max(2, self.count // 50):
            raise SourceError(
                f"{self.name} ended after {index} of {self.count} frames: the file is truncated or damaged; results so far are kept"
            )
        if not index:
            raise SourceError(f"{self.name} holds no frame that can be decoded")

    def close(self) -> None:
        self._capture.release()


def _colour(image: Any) -> NDArray[np.uint8]:
    if image.ndim == 2 or image.shape[2] == 1:
        import cv2

        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.asarray(image, np.uint8)


class Pictures:
    """Picture files in name order; grey, transparent and 16-bit ones become 8-bit BGR, EXIF rotation is applied."""

    live = False
    fps: float | None = None

    def __init__(self, uri: str, files: list[Path]) -> None:
        if not files:
            raise SourceError(f"{uri} holds no picture; expected {', '.join(sorted(PICTURES))}")
        self.name, self._files = uri, files
        self.count: int | None = len(files)

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self._files):
            yield Frame(read_picture(path), index, self.name if self.count == 1 else str(path), float(index), name=path.stem)

    def close(self) -> None:
        """Nothing stays open."""


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture file as uint8 [H, W, 3] BGR. Errors: SourceError when it cannot be decoded."""
    import cv2

    quiet_opencv()
    _refuse_truncated_jpeg(path)
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"{path} cannot be read as a picture: {str(error).strip().splitlines()[-1][:120]}") from error
    if image is None:
        raise SourceError(f"{path} cannot be read as a picture: damaged, or not {', '.join(sorted(PICTURES))}")
    return np.asarray(image, np.uint8)


def is_cut_jpeg(data: bytes) -> bool:
    """Whether data begins as a JPEG and lacks its end: no end of image after the last scan."""
    return data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def _refuse_truncated_jpeg(path: Path) -> None:
    """libjpeg fills the missing part with grey and goes on; a heatmap over that would mislead."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    if is_cut_jpeg(data):
        raise SourceError(f"{path} is a truncated JPEG (its end marker is missing); copy it again")


class DemoSource:
    """``demo:`` or ``demo:frames=100&seed=2``: the rendered drive, 720p at 25 frames a second."""

    live = False

    def __init__(self, uri: str) -> None:
        words = uri[len("demo:") :].lstrip("?/")
        try:
            pairs = parse_qsl(words, strict_parsing=True) if words else []
            numbers = {name: int(value) for name, value in pairs}
            if len(numbers) < len(pairs) or not set(numbers) <= {"frames", "seed"} or min([1, *numbers.values()]) < 0:
                raise ValueError
            self._drive = Drive(**{"frames": 300, **numbers})
            if self._drive.frames < 1:
                raise ValueError
        except ValueError:
            raise SourceError(f"{uri} is not understood; expected demo: or demo:frames=100&seed=2") from None
        self.name = uri
        self.count: int | None = self._drive.frames
        self.fps: float | None = self._drive.fps

    def __iter__(self) -> Iterator[Frame]:
        for index, (image, boxes) in enumerate(self._drive):
            yield Frame(image, index, self.name, index / self._drive.fps, tuple(boxes))

    def close(self) -> None:
        """Nothing stays open."""
