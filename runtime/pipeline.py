"""Files: reading, inference and drawing at the same time, in threads with short queues between them.

    reader: read, resize  →  the engine's lanes: inference  →  writer: overlay, sinks, in the frames' order

No frame is lost: a full queue makes the reader wait. Cameras are ``dkcam.runtime.live``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from dkcam.runtime.controls import Controls
from dkcam.runtime.delivery import Explained, Speed, Watch, result_of
from dkcam.runtime.explainer import Explains
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.frame import Frame, Source
from dkcam.runtime.health import Health
from dkcam.runtime.result import Result
from dkcam.runtime.sinks import Sink

DEPTH = 4  # frames between two stages
CATCH_UP_S = 0.2  # of a paced source: lateness that is made up for; more of it, as after a pause, is not


@dataclass(frozen=True)
class Summary:
    """frames: explained. seconds: from the first frame's arrival to the last result. dropped: of live sources."""

    frames: int
    seconds: float
    dropped: int = 0

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _Ready:
    frame: Frame
    prepared: Any  # of the explainer
    read_ms: float
    preprocess_ms: float
    arrived: float


class Pipeline:
    """Runs one source through an explainer into sinks.

    pace: frames a second at most, for someone who watches; None for as fast as it goes. controls: what may change on the
    way. watch: judges every explanation; its alarms go into results and pictures. stop: set it (from a signal handler,
    another thread) to end after the frames in flight. on_result: called for every result. health: hears what each stage does.
    """

    def __init__(
        self,
        source: Source,
        explainer: Explains,
        sinks: Sequence[Sink],
        *,
        controls: Controls | None = None,
        watch: Watch | None = None,
        max_frames: int | None = None,
        pace: float | None = None,
        on_result: Callable[[Result], None] = lambda result: None,
        health: Health | None = None,
    ) -> None:
        self._source, self._explainer, self._sinks = source, explainer, sinks
        self._controls = controls or Controls()
        self._max_frames, self._on_result, self._watch = max_frames, on_result, watch
        self._health = health or Health()
        self._period = 1 / pace if pace else 0.0
        self.stop = threading.Event()
        self.ended_by_sink = False  # a closed window
        self._ready: queue.Queue[_Ready | None] = queue.Queue(DEPTH)
        self._done: queue.Queue[tuple[_Ready, Future[tuple[Explanation, float]]] | None] = queue.Queue(DEPTH)
        self._failures: list[BaseException] = []
        self._written = 0
        self._first = self._last = 0.0

    def run(self) -> Summary:
        """Until the source ends, ``max_frames`` is reached or ``stop`` is set. The sinks are called in this thread.

        Every frame that was inferred reaches the sinks, also when the source breaks off. Errors: the first one of
        any thread, after the others have finished.
        """
        threads = [threading.Thread(target=self._guard, args=(work,), daemon=True) for work in (self._read, self._infer)]
        for thread in threads:
            thread.start()
        try:
            self._write()  # here, since windows can only be drawn by the thread that opened them
        except BaseException as error:
            self._failures.insert(0, error)
            self.stop.set()
            while self._done.get() is not None:  # let the others go on to their end
                pass
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()
        if self._failures:
            raise self._failures[0]
        return self.summary

    @property
    def summary(self) -> Summary:
        """Of the frames that reached the sinks so far, also where the source broke off."""
        return Summary(self._written, self._last - self._first)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failures.append(error)

    def _read(self) -> None:
        try:
            started = due = time.perf_counter()
            for count, frame in enumerate(self._frames(), 1):
                read_ms = (time.perf_counter() - started) * 1e3
                if self._period and self.stop.wait(due - time.perf_counter()):
                    break
                arrived = time.perf_counter()
                due = max(due + self._period, arrived - CATCH_UP_S)
                with self._health.busy("reader"):
                    prepared = self._explainer.prepare(frame.image)
                done = time.perf_counter()
                ready = _Ready(frame, prepared, read_ms, (done - arrived) * 1e3, arrived)
                if not self._hand_over(ready) or count == self._max_frames:
                    break
                started = time.perf_counter()
        finally:
            self._hand_over(None)

    def _frames(self) -> Iterator[Frame]:
        frames = iter(self._source)
        while True:
            with self._health.busy("reader"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _hand_over(self, ready: _Ready | None) -> bool:
        while not self.stop.is_set():
            try:
                self._ready.put(ready, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _infer(self) -> None:
        try:
            self._feed_lanes()
        finally:
            self.stop.set()  # a source that breaks off ends the run as its end would: what was read comes this far
            self._done.put(None)

    def _feed_lanes(self) -> None:
        lanes = self._explainer.engine.lanes
        free = threading.Semaphore(lanes)
        with ThreadPoolExecutor(lanes) as pool:
            while not self.stop.is_set():
                if self._controls.settings.paused:
                    self.stop.wait(0.05)
                    continue
                if not free.acquire(timeout=0.1):
                    continue
                try:
                    ready = self._ready.get(timeout=0.1)
                except queue.Empty:
                    free.release()
                    continue
                if ready is None:
                    return
                self._first = self._first or ready.arrived
                future = pool.submit(self._explain, ready.prepared)
                future.add_done_callback(lambda done: free.release())
                self._done.put((ready, future))

    def _explain(self, prepared: Any) -> tuple[Explanation, float]:
        settings = self._controls.settings
        start = time.perf_counter()
        with self._health.busy("engine"):
            explanation = self._explainer.infer(prepared, settings.classes, masks=settings.masks)
        return explanation, (time.perf_counter() - start) * 1e3

    def _write(self) -> None:
        speed = Speed()
        while (item := self._done.get()) is not None:
            ready, future = item
            explanation, infer_ms = future.result()
            explanation = self._controls.focused(ready.frame.camera, explanation)
            done = Explained(ready.frame, explanation, ready.read_ms, ready.preprocess_ms, infer_ms, ready.arrived)
            wanted = any(sink.pictures for sink in self._sinks)
            style = self._controls.settings.style
            with self._health.busy("writer"):
                result = result_of(done, style=style, watch=self._watch, picture=wanted, fps=speed.tick(), dropped=0)
            for sink in self._sinks:
                with self._health.busy(f"sink {sink.name}"):
                    more = sink.write(result)
                if not more:
                    self.ended_by_sink = True
                    self.stop.set()
            self._written += 1
            self._last = time.perf_counter()
            self._on_result(replace(result, picture=None))
