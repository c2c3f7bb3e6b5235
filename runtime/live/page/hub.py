"""The newest picture of every camera, for any number of clients: encoded once, by whoever needs it first."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.runtime.controls import Style
from dkcam.runtime.delivery import Speed, drawn
from dkcam.runtime.result import Result

QUALITY = 80
REPEATED_S = 0.6  # a picture marked STALE is drawn anew more often than that


@dataclass(frozen=True)
class Packet:
    """One camera's newest. version: grows with every picture. header: the JSON line. jpeg: the overlay."""

    camera: int
    version: int
    header: bytes
    jpeg: bytes


@dataclass(frozen=True)
class _Published:
    version: int
    result: Result
    style: Style
    fps: float | None
    at: float  # of time.monotonic

    def is_fit(self, max_age_s: float) -> bool:
        """Whether it may be shown. What a camera sent long ago is not drawn here: the pipeline does that, with its age."""
        if self.result.live is None:
            return True
        since = time.monotonic() - self.at
        if self.result.picture is None:
            return False
        return since < REPEATED_S if self.result.stale else self.result.age_ms / 1e3 + since <= max_age_s


class Closing(Exception):
    """The page is closing; clients are let go."""


class Hub:
    """publish: from the pipeline's thread, never waits. The coroutines belong to the server's event loop."""

    def __init__(self, max_age_s: float = 1.0) -> None:
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._newest: dict[int, _Published] = {}
        self._speeds: dict[int, Speed] = {}
        self._version = 0
        self._packets: dict[int, asyncio.Future[Packet]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self.viewers = 0
        self.published_at = time.monotonic()
        self.closing = False

    def attach(self) -> None:
        """Called once, in the server's loop."""
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()

    def publish(self, result: Result, style: Style) -> None:
        speed = self._speeds.setdefault(result.frame.camera, Speed())
        fps = speed.fps if result.repeated else speed.tick()
        with self._lock:
            self._version += 1
            self._newest[result.frame.camera] = _Published(self._version, result, style, fps, time.monotonic())
        if not result.repeated:  # an old picture is no sign of life
            self.published_at = time.monotonic()
        if self.viewers and self._loop is not None:
            with suppress(RuntimeError):  # the server is closing
                self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """End what clients wait for; called from any thread."""
        self.closing = True
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = asyncio.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, pictures are drawn."""
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    async def after(self, seen: dict[int, int], camera: int | None) -> list[Packet]:
        """Packets newer than ``seen`` (camera → version), of one camera or of all; waits until there is one."""
        while not self.closing:
            news = self._news
            assert news is not None
            with self._lock:
                fit = {c: newest.version for c, newest in self._newest.items() if newest.is_fit(self._max_age_s)}
            due = [c for c, version in fit.items() if version > seen.get(c, 0) and camera in (None, c)]
            if due:
                return [await self._packet(c) for c in sorted(due)]
            await news.wait()
        raise Closing

    async def picture(self, camera: int) -> NDArray[np.uint8]:
        """A camera's newest overlay, as soon as there is one."""
        while not self.closing:
            news = self._news
            assert news is not None
            with self._lock:
                found = self._newest.get(camera)
            if found is not None and found.is_fit(self._max_age_s):
                return await asyncio.to_thread(drawn, found.result, found.style)
            await news.wait()
        raise Closing

    async def _packet(self, camera: int) -> Packet:
        with self._lock:
            newest = self._newest[camera]
        kept = self._packets.get(camera)
        if kept is not None and (not kept.done() or (kept.exception() is None and kept.result().version >= newest.version)):
            return await asyncio.shield(kept)
        task = asyncio.ensure_future(asyncio.to_thread(_encoded, newest))
        self._packets[camera] = task
        return await asyncio.shield(task)


def _encoded(newest: _Published) -> Packet:
    result = newest.result
    line = json.loads(result.to_json())
    line |= {"camera": result.frame.camera, "fps": newest.fps, "repeated": result.repeated, "version": newest.version}
    picture = encode(drawn(result, newest.style), ".jpg")
    return Packet(result.frame.camera, newest.version, json.dumps(line, ensure_ascii=False).encode(), picture)


def encode(picture: NDArray[np.uint8], kind: str) -> bytes:
    """As .jpg or .png."""
    done, data = cv2.imencode(kind, picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if kind == ".jpg" else [])
    assert done, f"a picture of {picture.shape} could not be encoded"
    return data.tobytes()
