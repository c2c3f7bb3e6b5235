"""Files that grow with a run: H.264 video and JSON lines.

Of files, the output takes its name when the run ends and everything is in it; else it is called NAME.partial.EXT. A
camera's recording cannot be made again, so it has its name from the start and is whole at every moment: MP4 fragments of a
second, lines written one by one. An older recording of that name is kept as NAME.1.EXT, NAME.2.EXT, …
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import SinkError
from dkcam.files import Claim, Replacement, check_target, exists
from dkcam.runtime.result import Result

FRAGMENT_S = 1.0
CLOCK = 90_000  # ticks a second of a camera's video, whose frames come when they come


@dataclass(frozen=True)
class Rotation:
    """When to begin a new file: after so many seconds or bytes. The files are called NAME-<UTC time>.EXT."""

    seconds: float | None = None
    size: int | None = None

    def due(self, path: Path, began: float) -> bool:
        if self.seconds is not None and time.monotonic() - began >= self.seconds:
            return True
        if self.size is None:
            return False
        try:
            return path.stat().st_size >= self.size
        except OSError:
            return False


class Place:
    """Where one file is written, and what becomes of it. live: under its own name from the start."""

    def __init__(self, path: Path, *, live: bool, rotation: Rotation | None = None, suffix: str = "") -> None:
        check_target(path, {}, SinkError)
        self._replacement: Replacement | None = None
        if not live:
            self._replacement = Replacement(path, SinkError, suffix=suffix)
            self.path = self._replacement.temporary
            return
        if rotation is not None:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            path = path.with_name(f"{path.stem}-{stamp}{path.suffix}")
        _make_way(path)
        self.path = path
        try:  # whether it can be written is known now; the file comes with its first bytes
            path.touch()
            path.unlink()
        except OSError as error:
            raise self.failure(error) from error

    def failure(self, error: OSError) -> SinkError:
        path = self._replacement.path if self._replacement else self.path
        return SinkError(f"{path} cannot be written: {error.strerror or error}; free or choose another place")

    def finish(self, complete: bool) -> Path:
        """The file's last name."""
        if self._replacement is None:
            return self.path
        return self._replacement.keep() if complete else self._replacement.set_aside()

    def discard(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def _make_way(path: Path) -> None:
    """An older recording gets the next free number."""
    if not exists(path):
        return
    number = 1
    while exists(older := path.with_name(f"{path.stem}.{number}{path.suffix}")):
        number += 1
    try:
        path.rename(older)
    except OSError as error:
        raise SinkError(f"{path} is there already and cannot be renamed: {error.strerror}; choose another place") from error


class _Growing:
    """A file that grows piece by piece, made with its first one. synced: sent to the disk itself every second, in a thread, so that a
    slow card does not hold the run up. Not buffered: a piece that does not fit leaves nothing of itself. private: for this user
    alone (0600), whatever the umask.
    """

    def __init__(self, path: Path, *, synced: bool, buffered: bool = False, private: bool = False) -> None:
        self._path, self._buffered, self._private = path, buffered, private
        self._file: BinaryIO | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sync, name="sync", daemon=True) if synced else None
        self.size = 0

    def write(self, data: bytes) -> None:
        """Errors: OSError."""
        try:
            if self._file is None:
                self._file = self._opened()
                if self._thread is not None:
                    self._thread.start()
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if not self._buffered:
                with suppress(OSError):
                    os.truncate(self._path, self.size)
            raise
        self.size += len(data)

    def _opened(self) -> BinaryIO:
        buffering = -1 if self._buffered else 0
        if not self._private:
            return self._path.open("wb", buffering)
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        if hasattr(os, "fchmod"):
            os.fchmod(handle, 0o600)
        return os.fdopen(handle, "wb", buffering)

    def _sync(self) -> None:
        while not self._done.wait(FRAGMENT_S):
            with suppress(OSError, ValueError):  # what fails here fails where it is written, too
                if self._file is not None:
                    os.fsync(self._file.fileno())

    def close(self) -> None:
        """Errors: OSError."""
        if self._file is None:
            return
        if self._thread is not None:
            self._done.set()
            self._thread.join(1.0)
        self._file.close()


class JsonLines:
    """One JSON line a frame."""

    pictures = repeats = False
    per_camera = True

    def __init__(self, path: Path, *, live: bool = False, rotation: Rotation | None = None) -> None:
        self.name, self._path, self._live, self._rotation = str(path), path, live, rotation
        self._claim = Claim(path, SinkError)
        try:
            self._open()
        except SinkError:
            self._claim.release()
            raise

    def _open(self) -> None:
        self._place = Place(self._path, live=self._live, rotation=self._rotation)
        self._began = time.monotonic()
        self._file = _Growing(self._place.path, synced=self._live, buffered=not self._live, private=self._live)

    def write(self, result: Result) -> bool:
        if self._rotation and self._file.size and self._rotation.due(self._place.path, self._began):
            self._finish(True)
            self._open()
        try:
            self._file.write((result.to_json() + "\n").encode())
        except OSError as error:
            raise self._place.failure(error) from error
        return True

    def close(self, complete: bool = True) -> Path | None:
        try:
            return self._finish(complete)
        finally:
            self._claim.release()

    def _finish(self, complete: bool) -> Path | None:
        try:
            self._file.close()
        except OSError as error:
            self._place.discard()
            raise self._place.failure(error) from error
        if self._file.size:
            return self._place.finish(complete)
        self._place.discard()  # no frame came: an earlier file stays
        return None


class _Bytes:
    """The file as FFmpeg writes it. What fails is remembered and not told to FFmpeg, whose muxer may crash after an error."""

    def __init__(self, path: Path, *, live: bool) -> None:
        self._file = _Growing(path, synced=live, private=live)
        self.name = str(path)
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


class Video:
    """H.264 in MP4, yuv420p, that browsers play. Odd sizes are padded by one pixel; a picture of another size than the
    first is fitted to it. Of files each frame lasts 1/fps, of cameras as long as it was the newest.
    """

    pictures = repeats = True
    per_camera = False

    def __init__(self, path: Path, fps: float, *, live: bool = False, rotation: Rotation | None = None) -> None:
        self.name, self._path, self._live, self._rotation = str(path), path, live, rotation
        self._rate = Fraction(fps).limit_denominator(1001)
        self._claim = Claim(path, SinkError)
        try:
            self._begin()
        except SinkError:
            self._claim.release()
            raise

    def _begin(self) -> None:
        self._place = Place(self._path, live=self._live, rotation=self._rotation, suffix=".mp4")
        self._container: Any = None
        self._stream: Any = None
        self._file: _Bytes | None = None
        self._started = False
        self._began, self._key_at, self._ticks, self._frames = time.monotonic(), 0.0, -1, 0

    def write(self, result: Result) -> bool:
        import av
        import cv2

        assert result.picture is not None
        picture = _even(result.picture)
        now = time.monotonic()
        try:
            if self._started and self._rotation and now - self._key_at >= FRAGMENT_S and self._rotation.due(self._place.path, self._began):
                self._finish(True)
                self._begin()
            if self._container is None:
                self._open(picture.shape[0], picture.shape[1])
            if picture.shape[:2] != (self._stream.height, self._stream.width):
                picture = fitted(picture, self._stream.height, self._stream.width)
            # several times faster than FFmpeg's own conversion
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            if self._live:
                self._ticks = max(self._ticks + 1, round((now - self._began) * CLOCK))
                frame.pts, frame.time_base = self._ticks, Fraction(1, CLOCK)
                if self._frames < 2 or now - self._key_at >= FRAGMENT_S:  # the second ends the first fragment: something is there at once
                    frame.pict_type, self._key_at = av.video.frame.PictureType.I, now
                self._frames += 1
            self._container.mux(self._stream.encode(frame))
            self._started = True
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SinkError(
                f"{self.name} cannot be encoded as H.264 at {picture.shape[1]}x{picture.shape[0]} pixels; use a folder/ sink"
            ) from error
        self._check()
        return True

    def _check(self) -> None:
        if self._file is not None and self._file.error is not None:
            raise self._place.failure(self._file.error) from self._file.error

    def _open(self, height: int, width: int) -> None:
        import av

        flags = {"movflags": "+frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
        self._file = _Bytes(self._place.path, live=self._live)
        self._container = av.open(self._file, "w", format="mp4", options=flags)
        stream: Any = self._container.add_stream("libx264", rate=self._rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        # one thread: the other cores have inference to do. A key frame begins a fragment.
        stream.options = {"preset": "ultrafast", "crf": "23", "threads": "1", "forced-idr": "1"}
        if self._live:
            stream.codec_context.time_base = stream.time_base = Fraction(1, CLOCK)
            stream.options |= {"g": "1000"}
        else:
            stream.options |= {"g": str(max(1, round(FRAGMENT_S * float(self._rate))))}
        self._stream = stream

    def close(self, complete: bool = True) -> Path | None:
        try:
            return self._finish(complete)
        finally:
            self._claim.release()

    def _finish(self, complete: bool) -> Path | None:
        import av

        if not self._started:  # nothing was encoded: an earlier file stays
            self._place.discard()
            return None
        assert self._file is not None
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._file.close()
            self._check()
            if not self._live:
                _index_in_front(self._place.path)
        except (SinkError, av.FFmpegError, OSError) as error:
            if not self._live:
                self._place.discard()
            if isinstance(error, SinkError):
                raise
            raise self._place.failure(error if isinstance(error, OSError) else OSError(str(error))) from error
        return self._place.finish(complete)


def _index_in_front(path: Path) -> None:
    """Fragments to one piece with the index before it: every player can seek. Copies packets, encodes nothing."""
    import av

    size = path.stat().st_size
    if shutil.disk_usage(path.parent).free < 2 * size + (1 << 20):
        return  # it stays in pieces, which play as well
    whole = path.with_name(f"{path.stem}.whole.mp4")
    try:
        with av.open(str(path)) as source, av.open(str(whole), "w", options={"movflags": "+faststart"}) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        whole.replace(path)
    finally:
        whole.unlink(missing_ok=True)


def _even(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    high, wide = picture.shape[0] % 2, picture.shape[1] % 2
    return np.pad(picture, ((0, high), (0, wide), (0, 0)), mode="edge") if high or wide else np.ascontiguousarray(picture)


def fitted(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture within height x width pixels, its proportions kept, black around it."""
    import cv2

    scale = min(height / picture.shape[0], width / picture.shape[1])
    high, wide = max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))
    small = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - high) // 2, (width - wide) // 2
    out[top : top + high, left : left + wide] = small
    return out
