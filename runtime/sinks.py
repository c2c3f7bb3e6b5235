"""Everything results go to. A sink is a URI; ``open_sink`` is the only way in.

window:      a window          out.mp4   H.264 video            frames/   numbered pictures (PNG)
null:        nothing           events.jsonl   one JSON line a frame
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dkcam.errors import SinkError
from dkcam.files import Claim, Replacement, exists, make_folder, sweep, write_file
from dkcam.runtime.recording import JsonLines, Rotation, Video
from dkcam.runtime.result import Result


class Sink(Protocol):
    """pictures: whether it shows overlays now. repeats: whether it wants a camera's last picture again, marked STALE, while
    the camera is silent. per_camera: of several cameras, each picture for itself; else all of them as one mosaic.

    write: one result, False asks the run to stop. close: finish the output and return where it is, None where there is
    none. What is not whole (complete False: the run broke off, or frames are missing) takes no final name and replaces no
    older file: it goes to NAME.partial.EXT.
    """

    name: str

    @property
    def pictures(self) -> bool: ...
    @property
    def repeats(self) -> bool: ...
    @property
    def per_camera(self) -> bool: ...

    def write(self, result: Result) -> bool: ...

    def close(self, complete: bool = True) -> Path | None: ...


def open_sink(uri: str, fps: float | None = None, *, live: bool = False, rotation: Rotation | None = None) -> Sink:
    """Open a sink. fps: of the source where known (videos play at that speed). live: for cameras; see ``recording``.
    The live page is ``dkcam.runtime.live.page``. Errors: SinkError.
    """
    if uri == "window:":
        return Window()
    if uri == "null:":
        return Null()
    path = Path(uri)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return JsonLines(path, live=live, rotation=rotation)
    if suffix == ".mp4":
        return Video(path, fps or 25.0, live=live, rotation=rotation)
    if uri.endswith("/") or not suffix or (exists(path) and path.is_dir()):
        return Folder(path, private=live)
    raise SinkError(f"{uri}: expected window:, null:, a .mp4 or .jsonl file, or a folder/ ending in a slash")


class Null:
    """Takes results and forgets them."""

    name = "null:"
    pictures = repeats = False
    per_camera = True

    def write(self, result: Result) -> bool:
        return True

    def close(self, complete: bool = True) -> None:
        """Nothing is open."""


class Folder:
    """Overlays as PNG: 000000.png, or the source picture's own name; names that come twice get a number.

    Of several cameras: 0-000000.png, the camera's number first. private: folder and pictures for this user alone.
    """

    pictures = per_camera = True
    repeats = False

    def __init__(self, path: Path, *, private: bool = False) -> None:
        self.name, self._path, self._private = str(path), path, private
        self._written: Counter[str] = Counter()
        try:
            if private:
                make_folder(path)
            path.mkdir(parents=True, exist_ok=True)
            Replacement(path / "probe", SinkError).discard()
            sweep(path, "*.png", pattern=True)
        except OSError as error:
            raise SinkError(f"{path} cannot be made a folder: {error.strerror}; choose another place") from error
        self._claim = Claim(path, SinkError, lock=path / ".dkcam.lock")

    def write(self, result: Result) -> bool:
        import cv2

        assert result.picture is not None
        name = result.frame.name or format(result.frame.index, "06d")
        if result.live and result.live.cameras > 1:
            name = f"{result.live.camera}-{name}"
        self._written[name] += 1
        target = self._path / (f"{name}.png" if self._written[name] == 1 else f"{name}_{self._written[name]}.png")
        done, data = cv2.imencode(".png", result.picture)
        if not done:
            raise SinkError(f"{target} cannot be encoded as PNG ({result.picture.shape[1]}x{result.picture.shape[0]} pixels)")
        write_file(target, data.tobytes(), SinkError, private=self._private, quick=True)
        return True

    def close(self, complete: bool = True) -> Path | None:
        """Every picture is finished already."""
        self._claim.release()
        return self._path if self._written else None


class OfCamera:
    """One camera's results of a run with several."""

    per_camera = True

    def __init__(self, sink: Sink, camera: int) -> None:
        self.name, self._sink, self._camera = sink.name, sink, camera

    @property
    def pictures(self) -> bool:
        return self._sink.pictures

    @property
    def repeats(self) -> bool:
        return self._sink.repeats

    def write(self, result: Result) -> bool:
        return result.frame.camera != self._camera or self._sink.write(result)

    def close(self, complete: bool = True) -> Path | None:
        return self._sink.close(complete)


class Window:
    """A window of OpenCV's; Esc, q or closing it ends the run, other keys go to ``on_key``. For the thread that opened it alone."""

    name = "window:"
    pictures = repeats = True
    per_camera = False

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
        self.on_key: Callable[[str], None] = lambda key: None

    def write(self, result: Result) -> bool:
        import cv2

        assert result.picture is not None
        height, width = result.picture.shape[:2]
        if not self._sized:
            shrink = min(1.0, 1600 / width, 900 / height)
            cv2.resizeWindow("dkcam", round(width * shrink), round(height * shrink))
            self._sized = True
        cv2.imshow("dkcam", result.picture)
        key = cv2.waitKey(1) & 0xFF
        if key not in (0xFF, 27, ord("q")):
            self.on_key(chr(key))
        return key not in (27, ord("q")) and cv2.getWindowProperty("dkcam", cv2.WND_PROP_VISIBLE) >= 1

    def close(self, complete: bool = True) -> None:
        import cv2

        cv2.destroyAllWindows()
