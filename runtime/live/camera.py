"""A camera that is kept open: one thread listens to its decoder, the newest picture wins, and what breaks is opened again.

opening ──► live ──► (end, error, silence) ──► waiting, with back-off ──► opening …
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from dkcam.errors import DkcamError
from dkcam.runtime.health import Health
from dkcam.runtime.live.link import Arrival, Link, Picture
from dkcam.runtime.live.stream import shown

log = logging.getLogger("dkcam")

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
STOP_S = 0.5


@dataclass(frozen=True)
class Shot:
    """A picture as it arrived. index: of this camera, from 0. at: of time.perf_counter, when it arrived, or should have.

    take: decodes it; see ``link.Arrival``.
    """

    camera: int
    index: int
    at: float
    take: Callable[[], Future[Picture | None]]


class Camera:
    """link: to its decoder. news: notified at every picture. health: hears of every picture, as "camera N reader".

    timeout_s: when nothing but damaged pictures came for so long, the connection is given up; silence is the link's to
    notice. Counters only grow: shots (arrived), dropped (never taken), damaged (could not be decoded), reopened
    (connections after the first).
    """

    def __init__(
        self,
        number: int,
        uri: str,
        link: Link,
        news: threading.Condition,
        *,
        timeout_s: float,
        seed: int | None = None,
        health: Health | None = None,
    ) -> None:
        self.number, self.uri, self.name = number, uri, shown(uri)
        self._health, self._reading = health or Health(), f"camera {number} reader"
        self._link, self._news, self._timeout_s = link, news, timeout_s
        self._jitter = random.Random(seed)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._connected = False
        self._newest: Shot | None = None
        self._delay_s = FIRST_DELAY_S
        self._damaged_since: float | None = None
        self.began = time.perf_counter()
        self.live = False
        self.reason = "not connected yet"
        self.last_at: float | None = None  # of the newest picture
        self.shots = self.dropped = self.damaged = self.reopened = 0
        self._connections = 0

    def open(self) -> None:
        """Connect, before ``start``, which connects by itself otherwise. Errors: SourceError."""
        self._link.open()
        self._connected = True

    def start(self) -> None:
        """Read in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"camera {self.number}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the connection and the thread."""
        stop_all([self])

    def fresh(self) -> bool:
        """Whether a picture waits that nobody has taken."""
        return self._newest is not None

    def take(self) -> Shot | None:
        """The newest picture, once."""
        with self._news:
            shot, self._newest = self._newest, None
            return shot

    def age_s(self, now: float) -> float | None:
        """Since the newest picture arrived; None before the first."""
        return None if self.last_at is None else now - self.last_at

    def check(self, now: float) -> None:
        """Give up a connection that shows no sign of life, or sends nothing but damage. For the run's own loop."""
        why = self._link.overdue(now)
        if why is None and self._damaged_since is not None and now - self._damaged_since > self._timeout_s:
            why = f"{self.name} sends damaged pictures only"
        if why is not None and not self._stopping.is_set():
            self._damaged_since = None
            self._link.end(why)

    def decoded(self, whole: bool) -> None:
        """Whether a picture that was taken could be decoded."""
        if whole:
            self._damaged_since = None
            return
        self.damaged += 1
        if self._damaged_since is None:
            self._damaged_since = time.perf_counter()

    def _run(self) -> None:
        while not self._stopping.is_set():
            why = self._connection()
            if self._stopping.is_set():
                return
            delay = self._delay_s * self._jitter.uniform(0.75, 1.0)
            self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
            self._lost(f"{why}; trying again in {delay:.1f} s")
            self._stopping.wait(delay)

    def _connection(self) -> str:
        """Read until it ends; returns why."""
        try:
            if not self._connected:
                self._link.open()
            self._connected, self._damaged_since = False, None
            for arrival in self._link.arrivals():
                self._arrived(arrival)
        except DkcamError as error:
            return str(error)
        except Exception as error:  # the other cameras go on
            self._link.end()
            log.exception("camera %s", self.number)
            return f"{self.name}: {type(error).__name__}: {error}"
        return f"{self.name} ended the stream"

    def _arrived(self, arrival: Arrival) -> None:
        with self._news:
            self.dropped += (self._newest is not None) + arrival.skipped
            self.shots += arrival.skipped
            self._newest = Shot(self.number, self.shots, arrival.at, arrival.take)
            self.shots += 1
            self.last_at = time.perf_counter()
            self._news.notify_all()
        self._health.end(self._reading)
        self._health.begin(self._reading, self._reading)
        if not self.live:
            self.live, self.reason, self._delay_s = True, "", FIRST_DELAY_S
            self._connections += 1
            if self._connections > 1:
                self.reopened += 1
                log.warning("camera %d (%s) is back", self.number, self.name)
            else:
                log.info("camera %d (%s) is live", self.number, self.name)

    def _lost(self, why: str) -> None:
        self._health.drop(self._reading)
        level = logging.WARNING if self.live or not self._connections else logging.INFO
        said, self.live, self.reason = self.live or why != self.reason, False, why
        if said:
            log.log(level, "camera %d: %s", self.number, why)


def stop_all(cameras: Sequence[Camera]) -> None:
    """As ``Camera.stop``, for all of them in the time of one."""
    for camera in cameras:
        camera._stopping.set()
        camera._health.drop(camera._reading)
        camera._link.end()
    for camera in cameras:
        camera._link.close()
    end = time.perf_counter() + STOP_S
    for camera in cameras:
        if camera._thread is not None:
            camera._thread.join(max(0.0, end - time.perf_counter()))
