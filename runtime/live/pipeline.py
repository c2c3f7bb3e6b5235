"""Cameras: the newest frame of each, in one batch through the engine, to the sinks.

    decoder processes ─► engine thread: newest frames, resize, inference ─► writer: rules, overlay, sinks

A frame is decoded only when it can be drawn next: what waits is a newer one. The writer is the thread that calls ``run``.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace

from dkcam.errors import SinkError
from dkcam.runtime.controls import Controls
from dkcam.runtime.delivery import Explained, Speed, Watch, drawn, result_of
from dkcam.runtime.frame import Frame
from dkcam.runtime.health import Health
from dkcam.runtime.live.camera import Camera, Shot
from dkcam.runtime.live.link import Gone, Picture
from dkcam.runtime.live.mosaic import Mosaic
from dkcam.runtime.live.recovery import Recovery
from dkcam.runtime.overlay import stale
from dkcam.runtime.pipeline import Summary
from dkcam.runtime.result import Live, Result
from dkcam.runtime.sinks import Sink

log = logging.getLogger("dkcam")

REPEAT_S = 0.25  # how often a silent camera's last picture is drawn again with its age
PATIENCE_S = 0.05  # that the others wait for a camera's picture to be decoded
AWAY_S = 1.0  # since the last look at the connections: this process did not run
AGAIN_S = 0.5  # and what has come meanwhile is heard first


@dataclass(frozen=True)
class Asked:
    """A picture that is being decoded. since: of time.perf_counter."""

    shot: Shot
    picture: Future[Picture | None]
    since: float


@dataclass
class Lane:
    """What the run knows of one camera."""

    camera: Camera
    watch: Watch | None
    speed: Speed
    taken: int = 0
    asked: Asked | None = None
    last: Result | None = None  # the newest, and how it looked
    last_at: float = 0.0  # when its frame arrived
    repeated_at: float = 0.0


class LivePipeline:
    """Runs cameras through one engine into sinks until ``stop`` is set.

    batch: frames the engine takes at once. watches: rules per camera number. max_age_s: older pictures are marked STALE.
    max_frames: of each camera. on_result: called for every new result, with its picture where one was drawn. health: hears what each
    stage does.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        news: threading.Condition,
        recovery: Recovery,
        sinks: Sequence[Sink],
        *,
        batch: int = 1,
        controls: Controls | None = None,
        watches: Mapping[int, Watch] | None = None,
        max_age_s: float = 1.0,
        max_frames: int | None = None,
        on_result: Callable[[Result], None] = lambda result: None,
        health: Health | None = None,
    ) -> None:
        self.lanes = [Lane(camera, (watches or {}).get(camera.number), Speed()) for camera in cameras]
        self.recovery, self.sinks = recovery, list(sinks)
        self._news, self._batch, self._controls = news, batch, controls or Controls()
        self._max_age_s, self._max_frames, self._on_result = max_age_s, max_frames, on_result
        self._health = health or Health()
        self._mosaic = Mosaic([camera.name for camera in cameras]) if len(cameras) > 1 else None
        self.stop = threading.Event()
        self._done: queue.Queue[list[Explained] | None] = queue.Queue()
        self._room = threading.Semaphore(1)  # one batch may wait for the writer
        self._next = 0  # the camera that is asked first
        self._failure: BaseException | None = None
        self._warned = False
        self._looked = self._look_from = 0.0
        self._began = min((camera.began for camera in cameras), default=0.0)
        self._first = self._last = 0.0
        self._written = 0

    def run(self) -> Summary:
        """Errors: EngineError when no engine is left that works. A sink that fails is given up; the run goes on."""
        thread = threading.Thread(target=self._explain, name="engine", daemon=True)
        thread.start()
        try:
            self._write()
        finally:
            self.stop.set()
            with self._news:
                self._news.notify_all()
            thread.join(1.0)
        if self._failure is not None:
            raise self._failure
        return Summary(self._written, self._last - self._first, sum(lane.camera.dropped for lane in self.lanes))

    def _explain(self) -> None:
        try:
            while not self.stop.is_set() and not self._enough():
                if self._controls.settings.paused:
                    self._health.drop("engine")
                    self.stop.wait(0.05)
                elif self._room.acquire(timeout=0.1):
                    done = self._explained(self._newest())
                    if done:
                        self._done.put(done)
                    else:
                        self._room.release()
        except BaseException as error:
            self._failure = error
        finally:
            self._done.put(None)

    def _enough(self) -> bool:
        return self._max_frames is not None and all(lane.taken >= self._max_frames for lane in self.lanes)

    def _newest(self) -> list[tuple[Asked, Picture]]:
        """New frames of as many cameras as the engine takes at once; who was left out is first next time."""
        with self._news:
            if not any(lane.asked or (lane.camera.fresh() and lane.taken != self._max_frames) for lane in self.lanes):
                self._news.wait(0.1)
        count = len(self.lanes)
        order = [self.lanes[(self._next + step) % count] for step in range(count)]
        waiting: list[Asked] = []
        for lane in order:
            if lane.asked is None and lane.taken != self._max_frames:
                self._ask(lane)
            if lane.asked is not None and time.perf_counter() - lane.asked.since < PATIENCE_S:
                waiting.append(lane.asked)
            if len(waiting) == self._batch:
                break
        wait([asked.picture for asked in waiting], PATIENCE_S)
        if not waiting and not any(lane.asked and lane.asked.picture.done() for lane in order):
            self.stop.wait(0.01)
        frames: list[tuple[Asked, Picture]] = []
        for lane in order:
            asked = lane.asked
            if asked is None or not asked.picture.done():
                continue
            lane.asked = None
            picture = _decoded(asked, lane.camera)
            if picture is None:
                continue
            frames.append((asked, picture))
            lane.taken += 1
            if len(frames) == self._batch:
                self._next = (lane.camera.number + 1) % count
                break
        return frames

    def _ask(self, lane: Lane) -> None:
        shot = lane.camera.take()
        if shot is not None:
            call = self._health.begin(f"camera {lane.camera.number} decoder")
            lane.asked = Asked(shot, shot.take(), time.perf_counter())
            lane.asked.picture.add_done_callback(lambda picture: self._health.end(call))

    def _explained(self, frames: Sequence[tuple[Asked, Picture]]) -> list[Explained]:
        if not frames:
            return []
        start = time.perf_counter()
        settings = self._controls.settings
        self._health.begin("engine", "engine")  # goes on where nothing comes out: an engine that fails on every frame is none
        said, prepare_ms = self.recovery.explain([picture for _, picture in frames], settings.classes, settings.masks)
        infer_ms = (time.perf_counter() - start) * 1e3 - prepare_ms
        self._first = self._first or frames[0][0].shot.at
        done = []
        for (asked, picture), explanation in zip(frames, said, strict=True):
            shot = asked.shot
            if explanation is not None:
                frame = Frame(picture, shot.index, self.lanes[shot.camera].camera.name, shot.at - self._began, camera=shot.camera)
                read_ms = (start - asked.since) * 1e3
                done.append(Explained(frame, explanation, read_ms, prepare_ms, infer_ms, shot.at, settings.masks))
        if done:
            self._health.end("engine")
        return done

    def _write(self) -> None:
        while True:
            with self._health.busy("writer"):
                self._look()
            try:
                batch = self._done.get(timeout=REPEAT_S / 2)
            except queue.Empty:
                batch = []
            if batch is None:
                return
            if batch:
                self._room.release()
            with self._health.busy("writer"):
                results = [self._result(done) for done in batch]
                now = time.perf_counter()
                repeats = [self._repeat(lane, now) for lane in self.lanes]
            self._to_sinks(results, [result for result in repeats if result is not None])
            with self._health.busy("writer"):
                for result in results:
                    self._written += 1
                    self._last = time.perf_counter()
                    self._told(result)
            if self.stop.is_set() and not batch:
                return

    def _look(self) -> None:
        """Give up connections that show no sign of life; after a time in which this process did not run they get a moment first."""
        now = time.perf_counter()
        if now - self._looked > AWAY_S:
            self._look_from = now + AGAIN_S
        self._looked = now
        if now >= self._look_from:
            for lane in self.lanes:
                lane.camera.check(now)

    def _told(self, result: Result) -> None:
        try:
            self._on_result(result)
        except Exception:  # statistics and the flight recorder are worth less than the run
            if not self._warned:
                log.exception("a result could not be counted or kept")
            self._warned = True

    def _result(self, done: Explained) -> Result:
        lane = self.lanes[done.frame.camera]
        wanted = any(sink.pictures for sink in self.sinks)
        style = self._controls.settings.style
        result = result_of(
            replace(done, explanation=self._controls.focused(done.frame.camera, done.explanation)),
            style=style,
            watch=lane.watch,
            picture=wanted,
            fps=lane.speed.tick(),
            dropped=lane.camera.dropped,
            show_age=True,
        )
        live = Live(lane.camera.number, len(self.lanes), lane.camera.reopened)
        old = time.perf_counter() - done.arrived > self._max_age_s
        result = replace(result, live=live, stale=old)
        lane.last, lane.last_at, lane.repeated_at = result, done.arrived, time.perf_counter() if old else 0.0
        if old and result.picture is not None:
            result = replace(result, picture=stale(result.picture, f"{result.age_ms / 1e3:.1f} s old"))
        return result

    def _repeat(self, lane: Lane, now: float) -> Result | None:
        """The last picture again, as what it is: old."""
        last = lane.last
        if last is None or now - lane.last_at <= self._max_age_s or now - lane.repeated_at < REPEAT_S:
            return None
        if not any(sink.pictures and sink.repeats for sink in self.sinks):
            return None
        lane.repeated_at = now
        age = now - lane.last_at
        words = "paused" if self._controls.settings.paused else "" if lane.camera.live else "camera lost"
        lane.last = last = replace(last, picture=drawn(last, self._controls.settings.style))
        assert last.picture is not None
        picture = stale(last.picture, f"{age:.1f} s old" + (f", {words}" if words else ""))
        return replace(last, picture=picture, age_ms=age * 1e3, stale=True, repeated=True)

    def _to_sinks(self, results: Sequence[Result], repeats: Sequence[Result]) -> None:
        shown = [*results, *repeats]
        if not shown:
            return
        mosaic: Result | None = None
        if self._mosaic is not None:
            for result in shown:
                if result.picture is not None:
                    self._mosaic.put(result.frame.camera, result.picture)
            if shown[-1].picture is not None:
                mosaic = replace(shown[-1], picture=self._mosaic.picture(), repeated=not results)
        for sink in list(self.sinks):
            if mosaic is not None and sink.pictures and not sink.per_camera:
                wanted = [mosaic] if results or sink.repeats else []
            else:
                wanted = shown if sink.repeats else list(results)
                wanted = [result for result in wanted if result.picture is not None or not sink.pictures]
            try:
                for result in wanted:
                    with self._health.busy(f"sink {sink.name}"):
                        more = sink.write(result)
                    if not more:
                        self.stop.set()
            except Exception as error:
                self._give_up(sink, error)

    def _give_up(self, sink: Sink, error: Exception) -> None:
        """One warning; the run is worth more than one of its outputs."""
        words = str(error) if isinstance(error, SinkError) else f"{sink.name} failed: {type(error).__name__}: {error}"
        self.sinks.remove(sink)
        log.warning("%s; this output ends here, the run goes on", words)
        with suppress(Exception), self._health.busy(f"sink {sink.name}"):
            sink.close(complete=False)


def _decoded(asked: Asked, camera: Camera) -> Picture | None:
    """What became of a picture that was asked for, which the camera counts."""
    try:
        picture = asked.picture.result()
    except Gone:
        camera.dropped += 1
        return None
    except Exception:
        log.debug("camera %d: a picture could not be decoded", camera.number, exc_info=True)
        picture = None
    camera.decoded(picture is not None)
    return picture
