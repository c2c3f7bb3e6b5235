"""A camera's link without a process, which does what a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np

from dkcam.errors import SourceError
from dkcam.runtime.live.link import Arrival


def done(picture: Any) -> Future[Any]:
    """A picture that is decoded already, or fails with an exception."""
    future: Future[Any] = Future()
    if isinstance(picture, BaseException):
        future.set_exception(picture)
    else:
        future.set_result(picture)
    return future


class Scripted:
    """Sends pictures at a rate; after ``count`` it is silent, or ends. Each connection begins anew. fails: why it cannot be opened."""

    def __init__(
        self, fps: float = 50.0, count: int = 10**6, *, ends: bool = False, size: tuple[int, int] = (48, 80), fails: str = ""
    ) -> None:
        self._fps, self._count, self._ends, self._size, self._fails = fps, count, ends, size, fails
        self._over = threading.Event()
        self.closed = False
        self.opened: list[float] = []
        self.why = ""
        self.late: str | None = None  # what ``overdue`` says

    def open(self) -> None:
        self.opened.append(time.perf_counter())
        self._over.clear()
        if self._fails or self.closed:
            raise SourceError(self._fails)

    def picture(self, number: int) -> Any:
        return np.full((*self._size, 3), number % 250, np.uint8)

    def arrivals(self) -> Iterator[Arrival]:
        for number in range(self._count):
            if self._over.wait(1 / self._fps):
                break
            yield Arrival(time.perf_counter(), lambda number=number: done(self.picture(number)))  # type: ignore[misc]
        if not self._ends:
            self._over.wait(20)
        if self._over.is_set():
            raise SourceError(self.why)

    def overdue(self, now: float) -> str | None:
        return self.late

    def end(self, why: str = "it was closed") -> None:
        self.why = why
        self._over.set()

    def close(self) -> None:
        self.closed = True
        self.end()
