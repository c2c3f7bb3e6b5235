"""Which part of a run hangs, named while it does.

Every stage notes when it begins something and when that has ended; a thread that is inside none of them looks on. Stages: "camera 0
reader", "camera 0 decoder", "reader" (of files), "engine", "writer", "sink NAME", "page".
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("dkcam")

HANG_S = 3.0  # in one call
USUAL = 2.0  # times as long as usual is still no hang: a model may need 4 s a frame
KEPT = 8  # calls that say what is usual
TICK_S = 0.25
LONGEST_TICK_S = 1.0  # more is no time in which anything could have answered
STOPPED_S = 3.0


class Health:
    """For any number of threads. Its clock counts the time in which this process ran: one that was stopped for a minute hangs
    nowhere afterwards.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0.0
        self._calls: dict[object, tuple[str, float]] = {}  # what was begun: the stage, and when
        self._took: dict[str, deque[float]] = {}  # of every stage so far
        self._told: dict[str, float] = {}  # stages that hang, as the last look saw it
        self._over = threading.Event()

    def begin(self, stage: str, call: object = None) -> object:
        """A call has begun; where ``call`` has already, it goes on. Returns it, for ``end``."""
        call = object() if call is None else call
        with self._lock:
            self._took.setdefault(stage, deque(maxlen=KEPT))
            self._calls.setdefault(call, (stage, self._now))
        return call

    def end(self, call: object) -> None:
        with self._lock:
            begun = self._calls.pop(call, None)
            if begun is not None:
                self._took[begun[0]].append(self._now - begun[1])

    def drop(self, call: object) -> None:
        """What was begun is waited for no longer."""
        with self._lock:
            begun = self._calls.pop(call, None)
            if begun is not None:
                self._told.pop(begun[0], None)

    @contextmanager
    def busy(self, stage: str) -> Iterator[None]:
        """While it lasts, a call is under way."""
        call = self.begin(stage)
        try:
            yield
        finally:
            self.end(call)

    def inside(self) -> dict[object, str]:
        """The calls that are under way now, and their stages."""
        with self._lock:
            return {call: stage for call, (stage, _) in self._calls.items()}

    def stages(self) -> dict[str, float]:
        """Of every stage there has been: for how many seconds it has hung, 0 where it does not."""
        with self._lock:
            limits = {stage: max(HANG_S, USUAL * statistics.median(took) if took else 0.0) for stage, took in self._took.items()}
            hangs = dict.fromkeys(self._took, 0.0)
            for stage, since in self._calls.values():
                inside = self._now - since
                if inside > limits[stage]:
                    hangs[stage] = max(hangs[stage], inside)
            return hangs

    def stuck(self) -> dict[str, float]:
        """The stages that hang, and for how many seconds."""
        return {stage: seconds for stage, seconds in self.stages().items() if seconds}

    def tick(self, seconds: float) -> None:
        """Time has passed: say what hangs by now, and what is back."""
        with self._lock:
            self._now += min(seconds, LONGEST_TICK_S)
        if seconds > STOPPED_S:
            log.warning("this process did not run for %.0f s: it was stopped, or the machine slept or had no time for it", seconds)
        stuck = self.stuck()
        with self._lock:
            before, self._told = self._told, stuck
        for stage, for_s in stuck.items():
            if stage not in before:
                log.warning("%s hangs: no answer for %.1f s", stage, for_s)
        for stage, for_s in before.items():
            if stage not in stuck:
                log.warning("%s is back, after %.1f s", stage, for_s)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While it lasts, time passes."""
        thread = threading.Thread(target=self._watch, name="health", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(TICK_S)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(TICK_S):
            now = time.monotonic()
            self.tick(now - before)
            before = now
