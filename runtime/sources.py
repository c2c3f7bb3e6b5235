"""Everything frames come from that lies on this machine. A source is a URI; ``open_source`` is the only way in.

0, 3                camera by number                     csi://0              camera on a Jetson
v4l2:///dev/video0  camera by device file                clip.mp4             video file
frames/             folder of pictures, by name          a.jpg                one picture
"v4l2src ! … ! appsink"   GStreamer pipeline             demo:                rendered drive, boxes known

rtsp://… and http://… are network cameras: ``dkcam.runtime.live.stream``.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import InputError, SourceError
from dkcam.files import MOST_PIXELS, exists, kind_of
from dkcam.image_file import opencv_takes, read_image
from dkcam.rendered import Drive
from dkcam.runtime import jpeg
from dkcam.runtime.frame import Frame, Source
from dkcam.runtime.process import quiet_opencv

log = logging.getLogger("dkcam")

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
# FFmpeg's demuxers of videos and single pictures. Not among them: text and subtitles, which it draws as videos, and playlists, which
# make it open other files and addresses (hls, dash, concat, sdp, image2's patterns).
VIDEOS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,vvc,av1,obu,ivf,m4v,h263,mjpeg,mpjpeg,flv,asf,ogg,mxf,gxf,"
    "nut,rm,dv,wtv,vc1,dhav,yuv4mpegpipe,gif,apng,jpeg_pipe,png_pipe,bmp_pipe,tiff_pipe,ppm_pipe,pgm_pipe,pam_pipe,j2k_pipe"
)
NAMED = 10  # damaged pictures that are named one by one; further ones are counted
LONGEST_DRIVE = 1_000_000  # frames of demo:, 11 hours
AT_ONCE = 16  # frames of an animation decoded at a time
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
        if not (sensor.isascii() and sensor.isdigit() and len(sensor) < 4):  # it becomes part of a pipeline
            raise SourceError(f"{uri} is no camera of a Jetson; expected csi:// and its number, such as csi://0")
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
        if animation(path) == "PNG":
            return Capture(uri, str(path.absolute()), live=False, backend="FFMPEG")
        if animation(path) == "WebP" and Animation.can_be_read():
            return Animation(uri, path)
        return Pictures(uri, [path])
    _refuse_other_formats(uri, path)
    return Capture(uri, str(path.absolute()), live=False, backend="FFMPEG")


def _refuse_other_formats(uri: str, path: Path) -> None:
    """Errors: SourceError for what is no video, before anything in it is followed."""
    import av

    try:
        with av.open(
            str(path.absolute()), options={"format_whitelist": VIDEOS, "protocol_whitelist": "file", "max_pixels": str(MOST_PIXELS)}
        ) as container:
            if not container.streams.video:
                raise SourceError(f"{uri} cannot be opened: it holds sound or data and no picture; expected a video")
            size = container.streams.video[0].codec_context
            if not 0 < size.height * size.width <= MOST_PIXELS:  # FFmpeg does not say a size beyond its limit
                raise SourceError(f"{uri} cannot be opened: its pictures have more than {MOST_PIXELS // 10**6} megapixels, or no size")
    except (av.FFmpegError, OSError, ValueError) as error:
        with path.open("rb") as file:
            kind = kind_of(file.read(4096))
        whole = "not a whole video that FFmpeg can read; copy it again, or check its format"
        raise SourceError(
            f"{uri} cannot be opened: it is {kind}, "
            + (whole if "video" in kind else "expected a video, a picture or a folder of pictures")
        ) from error


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

    skipped: Sequence[str] = ()

    def __init__(self, uri: str, target: str | int, *, live: bool, backend: str) -> None:
        quiet_opencv()
        import cv2

        if isinstance(target, str) and not opencv_takes(target):
            raise SourceError(f"{uri} has a name that is no UTF-8, which OpenCV cannot open; rename it")
        self.name, self.live = uri, live
        self._target, self._backend, self._begun = target, getattr(cv2, f"CAP_{backend}"), False
        self._capture = cv2.VideoCapture(target, self._backend)
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
        if self._begun and not self.live:
            self._capture.open(self._target, self._backend)
        self._begun = True
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
            raise SourceError(f"{self.name} ended after {index} of {self.count} frames: the file is truncated or damaged")
        if not index:
            raise SourceError(f"{self.name} holds no frame that can be decoded")

    def close(self) -> None:
        self._capture.release()


def _colour(image: Any) -> NDArray[np.uint8]:
    if image.ndim == 3 and image.shape[2] == 4:
        image = np.ascontiguousarray(image[:, :, :3])
    if image.ndim == 2 or image.shape[2] == 1:
        import cv2

        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.asarray(image, np.uint8)


class Pictures:
    """Picture files in name order; grey, transparent and 16-bit ones become 8-bit BGR, EXIF rotation is applied. What cannot be read is
    left out and stands in ``skipped``.
    """

    live = False
    fps: float | None = None

    def __init__(self, uri: str, files: list[Path]) -> None:
        if not files:
            raise SourceError(f"{uri} holds no picture; expected {', '.join(sorted(PICTURES))}")
        self.name, self._files = uri, files
        self.count: int | None = len(files)
        self._skipped: dict[Path, str] = {}  # a picture that is read again is no second one

    @property
    def skipped(self) -> Sequence[str]:
        return list(self._skipped.values())

    def __iter__(self) -> Iterator[Frame]:
        told = read = 0
        for index, path in enumerate(self._files):
            try:
                image = read_picture(path)
            except SourceError as error:
                if self.count == 1:
                    raise
                if path not in self._skipped and len(self._skipped) < NAMED:
                    log.warning("skipped: %s", error)
                self._skipped[path] = str(error)
                continue
            if not told and (kind := animation(path)):
                told += 1
                log.warning("%s is an animated %s: only the first of its pictures is read, here and in others like it", path, kind)
            read += 1
            yield Frame(image, index, self.name if self.count == 1 else str(path), float(index), name=path.stem)
        if not read:
            raise SourceError(f"none of the {self.count} pictures in {self.name} can be read; the first: {self.skipped[0]}")

    def close(self) -> None:
        """Nothing stays open."""


class Animation:
    """An animated WebP, at the pace it was made with."""

    live = False
    skipped: Sequence[str] = ()

    def __init__(self, uri: str, path: Path) -> None:
        import cv2

        self.name, self._path = uri, path
        if not opencv_takes(str(path)):
            raise SourceError(f"{uri} has a name that is no UTF-8, which OpenCV cannot open; rename it")
        done, first = cv2.imreadanimation(str(path), start=0, count=AT_ONCE)
        count = cv2.imcount(str(path)) if done else 0
        if not count:
            raise SourceError(f"{uri} cannot be read as a picture: a damaged animation")
        self.count: int | None = count
        self.fps: float | None = min(1000.0, 1000 / max(1.0, float(np.mean(first.durations))))

    @staticmethod
    def can_be_read() -> bool:
        """OpenCV does from 4.11 on."""
        import cv2

        return hasattr(cv2, "imreadanimation")

    def __iter__(self) -> Iterator[Frame]:
        import cv2

        assert self.count is not None and self.fps is not None
        for start in range(0, self.count, AT_ONCE):
            done, part = cv2.imreadanimation(str(self._path), start=start, count=AT_ONCE)
            if not done:
                raise SourceError(f"{self.name} ended after {start} of {self.count} frames: the animation is damaged")
            for index, image in enumerate(part.frames, start):
                yield Frame(_colour(image), index, self.name, index / self.fps)

    def close(self) -> None:
        """Nothing stays open."""


def animation(path: Path) -> str:
    """ "WebP" or "PNG" where a file holds several pictures in a row, else ""."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return ""
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20:21] and head[20] & 2:
        return "WebP"
    before, found, _ = head.partition(b"IDAT")
    return "PNG" if head[:4] == b"\x89PNG" and found and b"acTL" in before else ""


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture file as uint8 [H, W, 3] BGR. Errors: SourceError when it cannot be decoded."""
    quiet_opencv()
    _refuse_odd_jpeg(path)
    try:
        image = read_image(path)
    except InputError as error:
        raise SourceError(str(error)) from error
    if image is None:
        raise SourceError(f"{path} cannot be read as a picture: damaged, or not {', '.join(sorted(PICTURES))}")
    return image


def _refuse_odd_jpeg(path: Path) -> None:
    """Where a part is missing, libjpeg fills it with grey and goes on; a heatmap over that would mislead. Thousands of scans take
    minutes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    if jpeg.is_cut(data):
        raise SourceError(f"{path} is a truncated JPEG (its end marker is missing); copy it again")
    header = jpeg.read_header(data)
    if header is not None and header.scans > jpeg.MOST_SCANS:
        raise SourceError(f"{path} is a JPEG of {header.scans} scans; expected {jpeg.MOST_SCANS} at most")


class DemoSource:
    """``demo:`` or ``demo:frames=100&seed=2``: the rendered drive, 720p at 25 frames a second."""

    live = False
    skipped: Sequence[str] = ()

    def __init__(self, uri: str) -> None:
        words = uri[len("demo:") :].lstrip("?/")
        try:
            pairs = parse_qsl(words, strict_parsing=True) if words else []
            numbers = {name: int(value) for name, value in pairs}
            if len(numbers) < len(pairs) or not set(numbers) <= {"frames", "seed"} or min([1, *numbers.values()]) < 0:
                raise ValueError
            if numbers.get("frames", 0) > LONGEST_DRIVE or numbers.get("seed", 0) >= 1 << 63:
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
