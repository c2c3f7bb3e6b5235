"""Reading, inference and drawing at the same time, in threads with short queues between them.

    reader: read, resize  →  the engine's lanes: inference  →  writer: overlay, sinks, in the frames' order

Files lose no frame: a full queue makes the reader wait. Live sources keep only the newest frame, older ones count as
dropped.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dkcam.runtime.explainer import Explains
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.frame import Frame, Source
from dkcam.runtime.overlay import check_style, draw, mark
from dkcam.runtime.result import Alarm, Latency, Result
from dkcam.runtime.sinks import Sink

DEPTH = 4  # frames between two stages of a file's run


@dataclass(frozen=True)
class Style:
    """How overlays look; fps: write the running speed into the picture."""

    alpha: float = 0.6
    colormap: str = "turbo"
    layout: str = "side"
    fps: bool = True


class Watch(Protocol):
    """Judges explanations as they come."""

    def see(self, explanation: Explanation) -> tuple[Alarm, ...]:
        """The rules that are broken now."""
        ...


@dataclass(frozen=True)
class Summary:
    """frames: explained. seconds: from the first frame's arrival to the last result. dropped: of live sources."""

    frames: int
    seconds: float
    dropped: int

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

    watch: judges every explanation; its alarms go into results and pictures. stop: set it (from a signal handler,
    another thread) to end after the frames in flight. on_result: called for every result.
    """

    def __init__(
        self,
        source: Source,
        explainer: Explains,
        sinks: Sequence[Sink],
        *,
        style: Style | None = None,
        watch: Watch | None = None,
        max_frames: int | None = None,
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> None:
        self._source, self._explainer, self._sinks = source, explainer, sinks
        self._style = style or Style()
        check_style(self._style.alpha, self._style.colormap, self._style.layout)
        self._max_frames, self._on_result, self._watch = max_frames, on_result, watch
        self.stop = threading.Event()
        self.interrupted = ""  # what a signal handler was called for, set together with stop
        self._ready: queue.Queue[_Ready | None] = queue.Queue(1 if source.live else DEPTH)
        self._done: queue.Queue[tuple[_Ready, Future[tuple[Explanation, float]]] | None] = queue.Queue(DEPTH)
        self._failures: list[BaseException] = []
        self._dropped = self._written = 0
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
        return Summary(self._written, self._last - self._first, self._dropped)

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failures.append(error)

    def _read(self) -> None:
        try:
            started = time.perf_counter()
            for count, frame in enumerate(self._source, 1):
                arrived = time.perf_counter()
                prepared = self._explainer.prepare(frame.image)
                done = time.perf_counter()
                ready = _Ready(frame, prepared, (arrived - started) * 1e3, (done - arrived) * 1e3, arrived)
                if not self._hand_over(ready) or count == self._max_frames:
                    break
                started = time.perf_counter()
        finally:
            self._finish_reading()

    def _hand_over(self, ready: _Ready) -> bool:
        while not self.stop.is_set():
            try:
                self._ready.put(ready, timeout=0 if self._source.live else 0.1)
                return True
            except queue.Full:
                if self._source.live:
                    try:
                        self._ready.get_nowait()
                        self._dropped += 1
                    except queue.Empty:
                        continue
        return False

    def _finish_reading(self) -> None:
        while not self.stop.is_set():
            try:
                self._ready.put(None, timeout=0.1)
                return
            except queue.Full:
                continue

    def _infer(self) -> None:
        try:
            self._feed_lanes()
        finally:
            self.stop.set()  # a source that breaks off ends the run as its end would: what was read comes this far
            self._done.put(None)

    def _feed_lanes(self) -> None:
        lanes = self._explainer.engine.lanes
        free = threading.Semaphore(lanes)  # a frame is taken when a lane is free: of a live source the newest
        with ThreadPoolExecutor(lanes) as pool:
            while not self.stop.is_set():
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
        start = time.perf_counter()
        explanation = self._explainer.infer(prepared)
        return explanation, (time.perf_counter() - start) * 1e3

    def _write(self) -> None:
        wanted = any(sink.pictures for sink in self._sinks)
        speed, before = 0.0, 0.0
        while (item := self._done.get()) is not None:
            ready, future = item
            explanation, infer_ms = future.result()
            now = time.perf_counter()
            if before:
                speed = 1 / (now - before) if not speed else 0.95 * speed + 0.05 / max(now - before, 1e-6)
            before = now
            alarms = self._watch.see(explanation) if self._watch else None
            picture = None
            if wanted:
                style = self._style
                shown = speed if style.fps and speed else None
                over = None if explanation.on_gpu else ready.frame.image
                picture = draw(over, explanation, alpha=style.alpha, colormap=style.colormap, layout=style.layout, fps=shown)
                if alarms:
                    mark(picture, alarms)
            end = time.perf_counter()
            latency = Latency(ready.read_ms, ready.preprocess_ms, infer_ms, (end - now) * 1e3)
            result = Result(ready.frame, explanation, latency, (end - ready.arrived) * 1e3, self._dropped, picture, alarms)
            for sink in self._sinks:
                if not sink.write(result):
                    self.stop.set()
            self._written += 1
            self._last = time.perf_counter()
            self._on_result(replace(result, picture=None))
