"""Everything results go to. A sink is a URI; ``open_sink`` is the only way in.

window:      a window          out.mp4   H.264 video            frames/   numbered pictures (PNG)
null:        nothing           events.jsonl   one JSON line a frame
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import SinkError
from dkcam.files import Replacement, check_target, exists, write_file
from dkcam.runtime.result import Result


class Sink(Protocol):
    """pictures: whether it shows overlays. write: one result, False asks the run to stop.

    close: finish the output and return where it is, None where there is none. A run that broke off (complete False)
    replaces no older file: what it has goes to NAME.partial.EXT beside it.
    """

    name: str
    pictures: bool

    def write(self, result: Result) -> bool: ...

    def close(self, complete: bool = True) -> Path | None: ...


def open_sink(uri: str, fps: float | None) -> Sink:
    """Open a sink; fps: of the source where known (videos play at that speed). Errors: SinkError."""
    if uri == "window:":
        return Window()
    if uri == "null:":
        return Null()
    if uri.startswith(("http://", "https://")):
        raise SinkError(f"{uri}: the live page is not part of this version; use window:, a .mp4 file, a folder/ or a .jsonl file")
    path = Path(uri)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return JsonLines(path)
    if suffix == ".mp4":
        return Video(path, fps or 25.0)
    if uri.endswith("/") or not suffix or (exists(path) and path.is_dir()):
        return Folder(path)
    raise SinkError(f"{uri}: expected window:, null:, a .mp4 or .jsonl file, or a folder/ ending in a slash")


def _finish(output: Replacement, complete: bool) -> Path:
    return output.keep() if complete else output.set_aside()


class Null:
    """Takes results and forgets them."""

    name, pictures = "null:", False

    def write(self, result: Result) -> bool:
        return True

    def close(self, complete: bool = True) -> None:
        """Nothing is open."""


class JsonLines:
    """One JSON line a frame; in place under its own name when the run ends."""

    pictures = False

    def __init__(self, path: Path) -> None:
        check_target(path, {}, SinkError)
        self.name = str(path)
        self._output = Replacement(path, SinkError)
        self._file: TextIO = self._output.temporary.open("w", encoding="utf-8")
        self._count = 0

    def write(self, result: Result) -> bool:
        try:
            self._file.write(result.to_json() + "\n")
        except OSError as error:
            raise self._output.failure(error) from error
        self._count += 1
        return True

    def close(self, complete: bool = True) -> Path | None:
        try:
            self._file.close()
        except OSError as error:
            self._output.discard()
            raise self._output.failure(error) from error
        if self._count:
            return _finish(self._output, complete)
        self._output.discard()  # no frame came: an earlier file stays
        return None


class Folder:
    """Overlays as PNG: 000000.png, or the source picture's own name; names that come twice get a number."""

    pictures = True

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self._written: Counter[str] = Counter()
        try:
            path.mkdir(parents=True, exist_ok=True)
            Replacement(path / "probe", SinkError).discard()
        except OSError as error:
            raise SinkError(f"{path} cannot be made a folder: {error.strerror}; choose another place") from error

    def write(self, result: Result) -> bool:
        import cv2

        assert result.picture is not None
        name = result.frame.name or format(result.frame.index, "06d")
        self._written[name] += 1
        target = self._path / (f"{name}.png" if self._written[name] == 1 else f"{name}_{self._written[name]}.png")
        done, data = cv2.imencode(".png", result.picture)
        if not done:
            raise SinkError(f"{target} cannot be encoded as PNG ({result.picture.shape[1]}x{result.picture.shape[0]} pixels)")
        write_file(target, data.tobytes(), SinkError)
        return True

    def close(self, complete: bool = True) -> Path | None:
        """Every picture is finished already."""
        return self._path if self._written else None


class Video:
    """H.264 in MP4, yuv420p with the index in front: browsers play it. Odd sizes are padded by one pixel."""

    pictures = True

    def __init__(self, path: Path, fps: float) -> None:
        check_target(path, {}, SinkError)
        self.name = str(path)
        self._rate = Fraction(fps).limit_denominator(1001)
        self._output = Replacement(path, SinkError, suffix=".mp4")
        self._container: Any = None
        self._stream: Any = None
        self._started = False

    def write(self, result: Result) -> bool:
        import av
        import cv2

        assert result.picture is not None
        picture = _even(result.picture)
        try:
            if self._container is None:
                self._open(picture.shape[0], picture.shape[1])
            if picture.shape[:2] != (self._stream.height, self._stream.width):
                picture = np.asarray(cv2.resize(picture, (self._stream.width, self._stream.height), interpolation=cv2.INTER_AREA), np.uint8)
            # several times faster than FFmpeg's own conversion
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420), np.uint8)
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
            self._started = True
        except (av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise self._output.failure(error) from error
            raise SinkError(
                f"{self.name} cannot be encoded as H.264 at {picture.shape[1]}x{picture.shape[0]} pixels; use a folder/ sink"
            ) from error
        return True

    def _open(self, height: int, width: int) -> None:
        import av

        self._container = av.open(str(self._output.temporary), "w", options={"movflags": "+faststart"})
        stream: Any = self._container.add_stream("libx264", rate=self._rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "23", "threads": "1"}  # the other cores have inference to do
        self._stream = stream

    def close(self, complete: bool = True) -> Path | None:
        import av

        if not self._started:  # nothing was encoded: an earlier file stays
            self._output.discard()
            return None
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        except (av.FFmpegError, OSError) as error:
            self._output.discard()
            reason = error if isinstance(error, OSError) else OSError(str(error))
            raise self._output.failure(reason) from error
        return _finish(self._output, complete)


def _even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    high, wide = picture.shape[0] % 2, picture.shape[1] % 2
    return np.pad(picture, ((0, high), (0, wide), (0, 0)), mode="edge") if high or wide else np.ascontiguousarray(picture)


class Window:
    """A window of OpenCV's; Esc, q or closing it ends the run. For the thread that opened it alone."""

    name, pictures = "window:", True

    def __init__(self) -> None:
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")  # it misses fonts that nothing here needs
        import cv2

        if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY") and os.name == "posix" and os.uname().sysname == "Linux":
            raise SinkError("window: there is no display (DISPLAY is not set); use --headless with a .mp4, folder/ or .jsonl sink")
        try:
            cv2.namedWindow("dkcam", cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise SinkError(
                "window: this OpenCV has no window support (opencv-python-headless); install opencv-python or use a .mp4 sink"
            ) from error
        self._sized = False

    def write(self, result: Result) -> bool:
        import cv2

        assert result.picture is not None
        height, width = result.picture.shape[:2]
        if not self._sized:
            shrink = min(1.0, 1600 / width, 900 / height)
            cv2.resizeWindow("dkcam", round(width * shrink), round(height * shrink))
            self._sized = True
        cv2.imshow("dkcam", result.picture)
        pressed = cv2.waitKey(1) & 0xFF in (27, ord("q"))
        return not pressed and cv2.getWindowProperty("dkcam", cv2.WND_PROP_VISIBLE) >= 1

    def close(self, complete: bool = True) -> None:
        import cv2

        cv2.destroyAllWindows()
