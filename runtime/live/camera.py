"""A camera that is kept open: one thread reads it, the newest picture wins, and what breaks is opened again.

opening ──► live ──► (end, error, silence) ──► waiting, with back-off ──► opening …
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dkcam.errors import DkcamError
from dkcam.runtime.live.stream import Grab, Stream, shown

log = logging.getLogger("dkcam")

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
MOST_HUNG = 3  # threads that a driver never gave back; more are not started


@dataclass(frozen=True)
class Shot:
    """A picture as it arrived. index: of this camera, from 0. at: of time.perf_counter, when it arrived, or should have."""

    camera: int
    index: int
    at: float
    grab: Grab


class Camera:
    """open: connects, may take as long as it likes. news: notified at every picture.

    timeout_s: without a picture for so long the connection is given up. Counters only grow: shots (arrived), dropped
    (never taken), damaged (could not be decoded), reopened (connections after the first).
    """

    def __init__(
        self, number: int, uri: str, open_: Callable[[], Stream], news: threading.Condition, *, timeout_s: float, seed: int | None = None
    ) -> None:
        self.number, self.uri, self.name = number, uri, shown(uri)
        self._open, self._news, self._timeout_s = open_, news, timeout_s
        self._jitter = random.Random(seed)
        self._stopping = threading.Event()
        self._generation = 0
        self._threads: list[threading.Thread] = []
        self._newest: Shot | None = None
        self._progress = time.perf_counter()  # of the thread's last sign of life
        self._delay_s = FIRST_DELAY_S
        self._waiting = False
        self._damaged_since: float | None = None
        self.began = time.perf_counter()
        self.live = False
        self.reason = "not connected yet"
        self.last_at: float | None = None  # of the newest picture
        self.shots = self.dropped = self.damaged = self.reopened = 0
        self._connections = 0

    def start(self, stream: Stream | None = None) -> None:
        """Read in a thread of its own. stream: a connection that is open already."""
        self._progress = time.perf_counter()
        thread = threading.Thread(target=self._run, args=(self._generation, stream), name=f"camera {self.number}", daemon=True)
        self._threads = [old for old in self._threads if old.is_alive()] + [thread]
        thread.start()

    def stop(self, wait_s: float = 0.5) -> None:
        """End the thread; one that a driver holds is left behind (it is a daemon)."""
        stop_all([self], wait_s)

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
        """Give up a thread that shows no sign of life, and start another. For the run's own loop."""
        if self._stopping.is_set():
            return
        if self._damaged_since is not None and now - self._damaged_since > self._timeout_s:
            self._damaged_since = None
            self._restart(f"{self.name} sends damaged pictures only; opening it again")
            return
        # what reads with a timeout has ended by then: one for connecting, one for the first frames
        if self._waiting or now - self._progress <= 2 * self._timeout_s + 2.0:
            return
        alive = sum(thread.is_alive() for thread in self._threads)
        self._progress = now
        if alive > MOST_HUNG:
            return
        self._restart(f"{self.name}: its driver has not answered for {2 * self._timeout_s + 2:.0f} s; opening it again")

    def decoded(self, whole: bool) -> None:
        """Whether a picture that was taken could be decoded."""
        if whole:
            self._damaged_since = None
            return
        self.damaged += 1
        if self._damaged_since is None:
            self._damaged_since = time.perf_counter()

    def _restart(self, why: str) -> None:
        with self._news:
            self._generation += 1
        self._lost(why)
        self.start()

    def _run(self, generation: int, stream: Stream | None) -> None:
        while not self._stopping.is_set() and generation == self._generation:
            why = self._connection(generation, stream)
            stream = None
            if self._stopping.is_set() or generation != self._generation:
                return
            delay = self._delay_s * self._jitter.uniform(0.75, 1.0)
            self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
            self._lost(f"{why}; trying again in {delay:.1f} s")
            self._waiting = True
            self._stopping.wait(delay)
            self._waiting, self._progress = False, time.perf_counter()

    def _connection(self, generation: int, stream: Stream | None) -> str:
        """Read until it ends; returns why."""
        try:
            stream = stream or self._open()
            try:
                for grab, late_s in stream.grabs():
                    if self._stopping.is_set() or not self._arrived(generation, grab, late_s):
                        return ""
            finally:
                stream.close()
        except DkcamError as error:
            return str(error)
        except Exception as error:  # a driver's own kinds: the other cameras go on
            log.debug("camera %s", self.number, exc_info=True)
            return f"{self.name}: {type(error).__name__}: {error}"
        return f"{self.name} ended the stream"

    def _arrived(self, generation: int, grab: Grab, late_s: float) -> bool:
        now = time.perf_counter()
        with self._news:
            if generation != self._generation:
                return False
            self.dropped += self._newest is not None
            self._newest = Shot(self.number, self.shots, now - late_s, grab)
            self.shots += 1
            self._progress = self.last_at = now
            self._news.notify_all()
        if not self.live:
            self.live, self.reason, self._delay_s = True, "", FIRST_DELAY_S
            self._connections += 1
            if self._connections > 1:
                self.reopened += 1
                log.warning("camera %d (%s) is back", self.number, self.name)
            else:
                log.info("camera %d (%s) is live", self.number, self.name)
        return True

    def _lost(self, why: str) -> None:
        if self.live or why != self.reason:
            log.log(logging.WARNING if self.live or not self._connections else logging.INFO, "camera %d: %s", self.number, why)
        self.live, self.reason = False, why


def stop_all(cameras: Sequence[Camera], wait_s: float = 0.5) -> None:
    """As ``Camera.stop``, for all of them in the time of one."""
    end = time.perf_counter() + wait_s
    for camera in cameras:
        camera._stopping.set()
    for thread in [thread for camera in cameras for thread in camera._threads]:
        thread.join(max(0.0, end - time.perf_counter()))
