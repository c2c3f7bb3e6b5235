"""The flight recorder: the last seconds of a run in memory, written as one .zip when something happens.

    flight.json            model (name and sha256), device, resize, what caused it, and per frame: file numbers, size, classes
    results.jsonl          the JSON lines of those frames
    000000.jpg, …          the frames
    000000.input.npy, …    what the engine got, bit for bit
    000000.heatmap.npy, …  float32 [K, h, w], with 000000.scores.npy, float32 [classes]

``Replay`` runs the inputs again and compares.
"""

from __future__ import annotations

import json
import logging
import math
import reprlib
import shutil
import threading
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.bounded_json import parse_json
from dkcam.errors import DkcamError, SinkError, SourceError
from dkcam.fields import MOST_CLASSES
from dkcam.files import Claim, make_folder, replacing, sweep
from dkcam.runtime import jpeg
from dkcam.runtime.explainer import Explains
from dkcam.runtime.frame import Frame
from dkcam.runtime.live.dump_parts import read_array, read_part
from dkcam.runtime.result import Result

log = logging.getLogger("dkcam")

FORMAT = 1
MOST_MEMORY = 1 << 30  # bytes of frames, inputs and maps
SPARE = 1 << 30  # bytes that a dump leaves free on the disk
DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, OSError, EOFError, RuntimeError, NotImplementedError)
QUALITY = 90
# of a dump that is read: bytes of flight.json, and what they may become; of one picture, of one frame's maps; classes, windows
MOST_ABOUT, MOST_PARSED, MOST_JPEG, MOST_MAPS = 64 << 20, 1 << 30, 64 << 20, 1 << 30
MOST_EXPLAINED, MOST_WINDOWS = 1024, 64
# largest difference of a heatmap, as a share of its maximum, between two runs of one input
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 5e-2}


@dataclass(frozen=True)
class _Kept:
    at: float
    jpeg: bytes
    size: tuple[int, int]
    inputs: NDArray[Any]
    heatmap: NDArray[np.float32]
    scores: NDArray[np.float32]
    explained: tuple[int, ...]
    camera: int
    masks: bool
    line: str

    @property
    def bytes(self) -> int:
        return len(self.jpeg) + self.inputs.nbytes + self.heatmap.nbytes + self.scores.nbytes


class FlightRecorder:
    """Keeps the last ``seconds`` of results in memory. folder: where dumps go.

    about: what the dump says of the run. A rule's alarm writes a dump by itself, at most one in ``seconds``.
    """

    def __init__(self, folder: Path, seconds: float, explainer: Callable[[], Explains], about: dict[str, Any]) -> None:
        try:
            make_folder(folder)
        except OSError as error:
            raise SinkError(f"{folder} cannot be made a folder: {error.strerror}; choose another place for the flight recorder") from error
        sweep(folder, "flight-*.zip", pattern=True)  # of runs that were killed while they wrote
        self._folder, self._seconds, self._explainer, self._about = folder, seconds, explainer, about
        self._ring: deque[_Kept] = deque()
        self._held = 0  # bytes
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._alarmed_at = -float("inf")
        self._broken: dict[int, frozenset[str]] = {}  # by camera

    def add(self, result: Result) -> None:
        """Keep a result; called for every one."""
        import cv2

        if result.repeated:
            return
        now = time.monotonic()
        said, image = result.explanation, result.frame.image
        done, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if not done:
            return
        kept = _Kept(
            now,
            jpeg.tobytes(),
            (image.shape[0], image.shape[1]),
            self._explainer().inputs(image),
            np.array(said.heatmap, np.float32),
            np.array(said.figures, np.float32),
            tuple(int(number) for number in (said.explained if said.task in ("classify", "dense") else said.asked)),
            result.frame.camera,
            result.masks,
            result.to_json(),
        )
        with self._lock:
            self._ring.append(kept)
            self._held += kept.bytes
            while self._ring and (self._ring[0].at < now - self._seconds or self._held > MOST_MEMORY):
                self._held -= self._ring.popleft().bytes
        broken = frozenset(alarm.rule for alarm in result.alarms or ())
        new = broken - self._broken.get(result.frame.camera, frozenset())
        if new and now - self._alarmed_at >= self._seconds:
            self._alarmed_at = now
            self.dump_soon(f"rule {min(new)}")
        self._broken[result.frame.camera] = broken

    def dump_soon(self, cause: str) -> None:
        """As ``dump``, in a thread of its own."""
        thread = threading.Thread(target=self.dump, args=(cause,), name="flight recorder", daemon=True)
        self._threads = [old for old in self._threads if old.is_alive()] + [thread]
        thread.start()

    def finish(self, wait_s: float = 1.5) -> None:
        """Wait for dumps that are being written; those that take longer are given up."""
        end = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._stopping.set()
        if any(thread.is_alive() for thread in self._threads):
            log.warning("the flight recorder's dump was not finished")
            for thread in self._threads:
                thread.join(0.3)

    def dump(self, cause: str) -> Path | None:
        """Write what is in memory; the file, or None where there is nothing or it cannot be written (a warning says so)."""
        with self._lock:
            kept = list(self._ring)
        if not kept:
            return None
        size = sum(each.bytes for each in kept)
        if shutil.disk_usage(self._folder if self._folder.is_dir() else self._folder.parent).free < size + SPARE:
            log.warning("the flight recorder (%s) was not written: less than 1 GiB would stay free beside its %d MB", cause, size >> 20)
            return None
        with self._writing:
            path, claim = self._free_name()
            try:
                with replacing(path, SinkError, private=True) as temporary:
                    self._write(temporary, kept, cause)
            except DkcamError as error:
                log.warning("the flight recorder could not be written: %s", error)
                return None
            finally:
                claim.release()
        log.warning("flight recorder (%s): %d frames in %s", cause, len(kept), path)
        return path

    def _free_name(self) -> tuple[Path, Claim]:
        """A name that no dump has and no other run is about to take: clocks go back, and several runs may share the folder."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for number in count():
            path = self._folder / f"flight-{stamp}{f'-{number}' if number else ''}.zip"
            if path.exists():
                continue
            try:
                claim = Claim(path, SinkError)
            except SinkError:
                continue
            if not path.exists():
                return path, claim
            claim.release()
        raise AssertionError("count() ends")

    def _write(self, path: Path, kept: list[_Kept], cause: str) -> None:
        about = self._about | {
            "format": FORMAT,
            "cause": cause,
            "device": self._explainer().device,
            "sha256": self._explainer().engine.sha256,
            "frames": [
                {"size": list(each.size), "explained": list(each.explained), "camera": each.camera, "masks": each.masks} for each in kept
            ],
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("flight.json", json.dumps(about, indent=1))
            archive.writestr("results.jsonl", "".join(each.line + "\n" for each in kept))
            for number, each in enumerate(kept):
                if self._stopping.is_set():
                    raise SinkError("the run ended before it was whole")
                archive.writestr(f"{number:06d}.jpg", each.jpeg, zipfile.ZIP_STORED)
                for name, array in (("input", each.inputs), ("heatmap", each.heatmap), ("scores", each.scores)):
                    buffer = BytesIO()
                    np.save(buffer, array)
                    archive.writestr(f"{number:06d}.{name}.npy", buffer.getvalue())


@dataclass(frozen=True)
class Replayed:
    """One frame of a dump: what the engine got, for which classes, with or without masks, and what it said then."""

    frame: Frame
    prepared: Any
    classes: tuple[int, ...]
    masks: bool
    heatmap: NDArray[np.float32]
    scores: NDArray[np.float32]


class Replay:
    """Reads a dump. Errors: SourceError for a file that is none, or is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise SourceError(f"{path} does not exist; expected a flight-….zip that dk-run --flight-recorder wrote")
        try:
            with zipfile.ZipFile(path) as archive:
                about = parse_json(read_part(archive, "flight.json", MOST_ABOUT), MOST_PARSED)
            if about["format"] != FORMAT:
                raise SourceError(
                    f"{path} has format {about['format']!r:.20}, this dkcam reads {FORMAT}; replay it with the dkcam that wrote it"
                )
            self.model, self.sha256, self.cause = str(about["model"]), str(about["sha256"]), str(about["cause"])
            self.resize, self.grid, self.background = about["resize"], about["grid"], about["background"]
            if self.grid is not None and not (_whole(self.grid, 1, MOST_WINDOWS, 2) and math.prod(self.grid) <= MOST_WINDOWS):
                raise ValueError(f"its grid is {reprlib.repr(self.grid)}")
            if not all(word is None or isinstance(word, str) for word in (self.background, self.resize)):
                raise ValueError("its background or resize mode is no text")
            self._frames = [_described(one) for one in about["frames"]]
        except (*DAMAGE, TypeError) as error:
            raise SourceError(f"{path} is not a whole dump of the flight recorder ({str(error)[:200]})") from error
        self.count = len(self._frames)

    def frames(self, explainer: Explains) -> Iterator[Replayed]:
        """In order, prepared for an explainer of the same model. Errors: SourceError, InputError."""
        spec, way = explainer.spec, explainer.spec.input
        kind = np.dtype(np.uint8 if way.kind == "rgb8" else np.float32)
        pixels = 3 * way.height * way.width * (math.prod(self.grid) if self.grid else 1)
        with zipfile.ZipFile(self.path) as archive:
            for number, (size, explained, camera, masks) in enumerate(self._frames):
                name, shown = f"{number:06d}", len(explained)
                scores = shown if spec.task == "detect" else len(spec.labels)
                try:
                    image = jpeg.decode(read_part(archive, f"{name}.jpg", MOST_JPEG))
                    arrays = [
                        read_array(archive, f"{name}.input.npy", kind, (None,) * 4, pixels * kind.itemsize),
                        read_array(archive, f"{name}.heatmap.npy", np.float32, (shown, None, None), min(4 * pixels * shown, MOST_MAPS)),
                        read_array(archive, f"{name}.scores.npy", np.float32, (scores,), 4 * scores),
                    ]
                except DAMAGE as error:
                    raise SourceError(f"{self.path} is damaged at frame {number} ({str(error)[:200]})") from error
                if image is None or image.shape[:2] != size:
                    raise SourceError(f"{self.path} is damaged: frame {number} is no picture of {size[1]}x{size[0]} pixels")
                frame = Frame(image, number, str(self.path), float(number), camera=camera)
                yield Replayed(frame, explainer.prepared_from(arrays[0], *size), explained, masks, arrays[1], arrays[2])


def _whole(value: Any, least: int, most: int, count: int | None = None) -> bool:
    """A list of ``count`` whole numbers."""
    good = isinstance(value, list) and (count is None or len(value) == count)
    return good and all(type(number) is int and least <= number <= most for number in value)


def _described(frame: Any) -> tuple[tuple[int, ...], tuple[int, ...], int, bool]:
    """size, explained, camera, masks of a frame of flight.json. ValueError, TypeError and KeyError for anything else."""
    size, explained, camera, masks = (frame[name] for name in ("size", "explained", "camera", "masks"))
    if not _whole(size, 1, 1 << 16, 2):
        raise ValueError(f"a frame's size is {reprlib.repr(size)}")
    if not _whole(explained, -MOST_CLASSES, MOST_CLASSES) or not 1 <= len(explained) <= MOST_EXPLAINED:
        raise ValueError(f"a frame's classes are {reprlib.repr(explained)}")
    if not _whole([camera], 0, 1 << 16) or not isinstance(masks, bool):
        raise ValueError(f"a frame's camera or masks are {reprlib.repr([camera, masks])}")
    return tuple(size), tuple(explained), camera, masks


def difference(heatmap: NDArray[np.float32], before: NDArray[np.float32]) -> float:
    """The largest of two maps [K, h, w], as a share of the larger maximum of each class; 0 where both are cold."""
    if heatmap.shape != before.shape:
        return float("inf")
    top = np.maximum(np.abs(heatmap).max((1, 2)), np.abs(before).max((1, 2)))
    apart = np.abs(heatmap - before).max((1, 2))
    return float(np.where(top > 0, apart / np.where(top > 0, top, 1), 0).max())
