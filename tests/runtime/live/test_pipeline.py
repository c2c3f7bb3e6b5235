"""Cameras through one engine: newest frames, fairness, age, failures."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import dkcam
from dkcam.errors import EngineError, SinkError
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from dkcam.runtime.controls import Controls, Style
from dkcam.runtime.explainer import Explainer
from dkcam.runtime.live import pipeline as pipeline_module
from dkcam.runtime.live import recovery as recovery_module
from dkcam.runtime.live.camera import Camera
from dkcam.runtime.live.link import Gone
from dkcam.runtime.live.mosaic import Mosaic
from dkcam.runtime.live.pipeline import LivePipeline
from dkcam.runtime.live.recovery import Recovery
from dkcam.runtime.result import Result
from tests.conftest import tiny_checkpoint
from tests.runtime.live.scripted import Scripted


class Keep:
    """A sink that remembers."""

    name, per_camera, repeats = "keep", True, True

    def __init__(self, *, pictures: bool = True, per_camera: bool = True, fails: bool = False) -> None:
        self.results: list[Result] = []
        self.pictures, self.per_camera, self._fails = pictures, per_camera, fails

    def write(self, result: Result) -> bool:
        if self._fails:
            raise SinkError("full cannot be written: no space left")
        self.results.append(result)
        return True

    def close(self, complete: bool = True) -> Path | None:
        return None

    def fresh(self) -> list[Result]:
        return [result for result in self.results if not result.repeated]


class Watch(Keep):
    """A sink that ends a run once something is so."""

    stop: threading.Event

    def __init__(self, until: Callable[[], bool]) -> None:
        super().__init__(pictures=False)
        self._until = until

    def write(self, result: Result) -> bool:
        if self._until():
            self.stop.set()
        return True


class Slow(Explainer):
    """Takes a fixed time for a batch."""

    delay = 0.05
    batches: list[int] = []  # noqa: RUF012

    def infer_many(self, prepared: Any, classes: Any = None, *, masks: bool = True) -> Any:
        Slow.batches.append(len(prepared))
        time.sleep(self.delay)
        return super().infer_many(prepared, classes, masks=masks)


@pytest.fixture(scope="module")
def batch_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "batch.onnx"
    options = ExportOptions(size=(64, 96), dynamic=("batch",), batch=(1, 4))
    path.write_bytes(export(tiny_checkpoint(), options, check=False).data)
    return path


def run(
    streams: list[Scripted],
    recovery: Recovery,
    sinks: list[Keep],
    seconds: float = 1.2,
    until: Callable[[], bool] | None = None,
    **options: Any,
) -> LivePipeline:
    """A pipeline that runs for so long, or until something is so, looked at after each result."""
    news = threading.Condition()
    cameras = [Camera(k, f"camera{k}", stream, news, timeout_s=30.0) for k, stream in enumerate(streams)]
    for camera in cameras:
        camera.start()
    watching = [] if until is None else [Watch(until)]
    pipeline = LivePipeline(cameras, news, recovery, [*sinks, *watching], **options)  # type: ignore[arg-type]
    for watch in watching:
        watch.stop = pipeline.stop
    timer = threading.Timer(seconds, pipeline.stop.set)
    timer.daemon = True
    timer.start()
    try:
        pipeline.run()
    finally:
        timer.cancel()
        for camera in cameras:
            camera.stop()
    return pipeline


def plain(path: Path, **options: Any) -> Recovery:
    return Recovery(dkcam.load(path, device="cpu", **options), lambda device: dkcam.load(path, device=device))


def test_frames_are_taken_when_they_can_be_drawn_next(model_file: Path) -> None:
    engine = dkcam.load(model_file, device="cpu").engine
    sink = Keep()
    run([Scripted(60)], Recovery(Slow(engine), lambda device: Slow(engine)), [sink], 2.0)
    ages = [result.age_ms for result in sink.fresh()]
    period = 1e3 * float(np.median(np.diff([result.frame.time_s for result in sink.fresh()])))
    assert 5 < len(ages) < 41 and period > 49  # the engine takes 50 ms, more on a busy machine
    assert np.median(ages) < 1.5 * period + 20
    assert sink.results[-1].dropped > len(ages)
    indices = [result.frame.index for result in sink.fresh()]
    assert indices == sorted(set(indices))


def test_a_slow_sink_does_not_make_old_pictures(model_file: Path) -> None:
    class Slowly(Keep):
        def write(self, result: Result) -> bool:
            time.sleep(0.1)
            return super().write(result)

    sink = Slowly()
    run([Scripted(60)], plain(model_file), [sink], 2.0)
    assert np.median([result.age_ms for result in sink.fresh()[3:]]) < 2.5 * 100


def test_several_cameras_share_one_batch_and_say_what_each_would_alone(batch_file: Path) -> None:
    engine = dkcam.load(batch_file, device="cpu").engine
    Slow.batches = []
    sink = Keep(pictures=False)
    run([Scripted(50, 30), Scripted(50, 30)], Recovery(Slow(engine), lambda device: Slow(engine)), [sink], 1.0, batch=4)
    assert Counter(Slow.batches).most_common(1)[0][0] == 2
    alone = Explainer(engine)
    for result in sink.results[:6]:
        expected = alone(result.frame.image)
        np.testing.assert_allclose(result.explanation.heatmap, expected.heatmap, rtol=1e-4, atol=1e-5)
        assert f'"camera": {result.frame.camera}' in result.to_json()


def test_cameras_take_turns_where_the_engine_takes_one_frame(model_file: Path) -> None:
    engine = dkcam.load(model_file, device="cpu").engine
    sink = Keep(pictures=False)
    run([Scripted(60), Scripted(60), Scripted(60), Scripted(2)], Recovery(Slow(engine), lambda device: Slow(engine)), [sink], 2.5)
    counts = Counter(result.frame.camera for result in sink.results)
    fast = [counts[k] for k in range(3)]
    assert max(fast) - min(fast) <= 3, counts
    assert counts[3] >= 4, counts  # the slow one loses nothing


def test_a_silent_camera_shows_its_last_picture_as_stale(model_file: Path) -> None:
    sink, quiet = Keep(), Keep(pictures=False)
    quiet.repeats = False  # type: ignore[misc]
    run([Scripted(50, 5), Scripted(50)], plain(model_file), [sink, quiet], 1.6, max_age_s=0.3)
    first = [result for result in sink.results if result.frame.camera == 0]
    repeats = [result for result in first if result.repeated]
    assert 2 <= len(repeats) <= 7 and all(result.stale and result.age_ms > 300 for result in repeats)
    before, after = next(result for result in reversed(first) if not result.repeated).picture, repeats[-1].picture
    assert before is not None and after is not None and after.shape == before.shape
    middle = after[after.shape[0] // 2]
    assert (middle[:, 2] > 100).mean() > 0.5  # the red bar
    top = after[1].astype(int)
    assert (top.max(-1) == top.min(-1)).all()  # the rest is grey
    assert not any(result.repeated for result in quiet.results)
    assert np.mean([result.stale for result in sink.results if result.frame.camera == 1]) < 0.5


def test_a_picture_that_took_too_long_is_marked(model_file: Path) -> None:
    sink = Keep()
    run([Scripted(50)], plain(model_file), [sink], 0.8, max_age_s=1e-4)
    assert all(result.stale and '"stale": true' in result.to_json() for result in sink.results)


def test_controls_reach_the_next_frame(model_file: Path) -> None:
    sink, controls = Keep(), Controls(Style(alpha=0.0, speed=False))

    def reached() -> bool:
        """After the first result another class, after its first heat a pause, after that pause shows the end."""
        fresh, last = sink.fresh(), sink.results[-1:]
        if fresh and controls.settings.classes is None:
            controls.change(classes=(2,))
        elif fresh and int(fresh[-1].explanation.explained[0]) == 2:
            controls.change(paused=True)
        return controls.settings.paused and bool(last) and last[0].repeated and last[0].age_ms > 400

    run([Scripted(50)], plain(model_file), [sink], 30, reached, controls=controls, max_age_s=0.4)
    explained = [int(result.explanation.explained[0]) for result in sink.fresh()]
    assert explained[-1] == 2 and 2 not in explained[:1]
    assert sink.results[-1].repeated and sink.results[-1].age_ms > 400  # paused: nothing new, and it shows


def test_a_frame_that_breaks_the_engine_is_kept_and_skipped(batch_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recovery = plain(batch_file)
    recovery._folder = tmp_path / "failed"
    engine = recovery.explainer.engine
    before = engine.run

    def fussy(image: Any, *words: Any) -> Any:
        if (np.asarray(image) == 7).all((1, 2, 3)).any():
            raise EngineError("cannot digest this")
        return before(image, *words)

    engine.run = fussy  # type: ignore[method-assign]
    logging.getLogger("dkcam").propagate = True
    said, _ = recovery.explain([np.full((48, 80, 3), grey, np.uint8) for grey in (5, 7, 9)], None, True)
    assert said[1] is None and said[0] is not None and said[2] is not None
    (kept,) = (tmp_path / "failed").iterdir()
    assert (cv2.imread(str(kept)) == 7).all() and str(kept) in caplog.text and "cannot digest this" in caplog.text
    assert recovery.failures == 1 and recovery.rebuilt == 0


def test_an_engine_that_keeps_failing_is_opened_again_then_left(model_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Which engines work: the first and its second life do not, "next" cannot be opened, "last" works."""
    opened: list[str] = []

    def broken() -> Any:
        explainer = dkcam.load(model_file, device="cpu")

        def fail(*words: Any) -> Any:
            raise EngineError("illegal memory access")

        explainer.engine.run = fail  # type: ignore[method-assign]
        return explainer

    def open_(device: str) -> Any:
        opened.append(device)
        if device == "next":
            raise EngineError("no such device here")
        return broken() if device == "cpu" else dkcam.load(model_file, device="cpu")

    recovery = Recovery(broken(), open_, further=["next", "last"])
    logging.getLogger("dkcam").propagate = True
    image = np.zeros((48, 80, 3), np.uint8)
    for _ in range(2 * recovery_module.PATIENCE):
        assert recovery.explain([image], None, True)[0] == [None]
    assert opened == ["cpu", "next", "last"]
    assert recovery.explain([image], None, True)[0][0] is not None
    assert "now running on a new engine on cpu" in caplog.text and "next cannot be opened again" in caplog.text


def test_without_another_device_the_run_ends(model_file: Path) -> None:
    explainer = dkcam.load(model_file, device="cpu")

    def fail(*words: Any) -> Any:
        raise EngineError("out of memory")

    explainer.engine.run = fail  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="keeps failing and no other device is left: out of memory"):
        run([Scripted(50)], Recovery(explainer, lambda device: explainer), [Keep()], 5.0)


def test_a_sink_that_fails_is_given_up_with_one_warning(model_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = Keep()
    logging.getLogger("dkcam").propagate = True
    run([Scripted(50)], plain(model_file), [Keep(fails=True), sink], 0.8)
    assert len(sink.results) > 5
    assert caplog.text.count("no space left") == 1


def test_nothing_but_the_engine_ends_a_run(model_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A picture that a decoder trips over, a sink with a fault of its own, statistics that fail."""

    class Odd(Scripted):
        def picture(self, number: int) -> Any:
            return ZeroDivisionError() if number % 3 == 1 else super().picture(number)

    class Faulty(Keep):
        def write(self, result: Result) -> bool:
            raise cv2.error("no window any more")

    def count(result: Result) -> None:
        raise KeyError("statistics")

    sink = Keep()
    logging.getLogger("dkcam").propagate = True
    pipeline = run([Odd(50)], plain(model_file), [Faulty(), sink], 1.0, on_result=count)
    assert len(sink.fresh()) > 3 and pipeline.lanes[0].camera.damaged > 0
    assert "no window any more; this output ends here" in caplog.text and caplog.text.count("could not be counted") == 1


def test_max_frames_ends_the_run_at_that_many_of_each(model_file: Path) -> None:
    sink = Keep(pictures=False)
    run([Scripted(50), Scripted(25)], plain(model_file), [sink], 20.0, max_frames=4)
    assert Counter(result.frame.camera for result in sink.results) == {0: 4, 1: 4}


def test_a_mosaic_holds_every_camera(model_file: Path) -> None:
    sink = Keep(per_camera=False)
    run([Scripted(50), Scripted(50, size=(90, 40)), Scripted(1, 0)], plain(model_file), [sink], 0.8)
    pictures = [result.picture for result in sink.results]
    assert {picture.shape for picture in pictures if picture is not None} == {pictures[-1].shape}  # type: ignore[union-attr]
    mosaic = Mosaic(["a", "b", "c", "d", "e"])
    for k in range(5):
        mosaic.put(k, np.full((48, 80, 3), 50 * k + 5, np.uint8))
    whole = mosaic.picture()
    assert whole.shape == (96, 240, 3)
    assert [int(whole[24 + 48 * (k // 3), 40 + 80 * (k % 3), 0]) for k in range(5)] == [5, 55, 105, 155, 205]
    assert not whole[60:, 170:].any()


class Slowly(Scripted):
    """Its pictures are decoded when the test says so."""

    def __init__(self) -> None:
        super().__init__(50)
        self.asked = self.decoded = 0
        self._pending: Future[Any] | None = None

    def arrivals(self) -> Any:
        for arrival in super().arrivals():
            yield replace(arrival, take=self._take)

    def _take(self) -> Any:
        self.asked += 1
        self._pending = Future()
        return self._pending

    def decode(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self.decoded += 1
            pending.set_result(self.picture(self.asked))


@pytest.mark.parametrize("comes", [False, True])
def test_a_picture_that_takes_for_ever_to_decode_holds_nobody_up(model_file: Path, comes: bool) -> None:
    """Fifteen pictures of another camera are shown meanwhile; where the slow one comes, it does so after five and after ten of them."""
    sink, slow = Keep(pictures=False), Slowly()

    def shown(camera: int) -> int:
        return sum(result.frame.camera == camera for result in sink.results)

    def reached() -> bool:
        if comes and shown(1) >= 5 * (slow.decoded + 1):
            slow.decode()
        return shown(1) >= 15

    run([slow, Scripted(25)], plain(model_file), [sink], 30, reached)
    assert shown(1) >= 15
    assert slow.decoded in ((2, 3) if comes else (0,)) and slow.asked - slow.decoded in (0, 1)
    assert shown(0) in (slow.decoded, slow.decoded - 1)


def test_connections_get_a_moment_after_a_time_in_which_this_process_did_not_run(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(pipeline_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    link, news = Scripted(), threading.Condition()
    pipeline = LivePipeline([Camera(0, "camera", link, news, timeout_s=30.0)], news, plain(model_file), [])
    for _ in range(10):
        now[0] += 0.2
        pipeline._look()
    now[0] += 60  # stopped, and what came meanwhile has not been heard yet
    link.late = "its driver has not answered for 6 s"
    for _ in range(3):
        pipeline._look()
        now[0] += 0.2
    assert link.why == ""
    pipeline._look()
    assert link.why == link.late


def test_a_picture_that_is_gone_counts_as_dropped_and_not_as_damaged(model_file: Path) -> None:
    class Late(Scripted):
        def picture(self, number: int) -> Any:
            return Gone() if number % 2 else super().picture(number)

    sink = Keep(pictures=False)
    pipeline = run([Late(20)], plain(model_file), [sink], 1.0)
    camera = pipeline.lanes[0].camera
    assert camera.damaged == 0 and camera.dropped > 3 and {int(r.frame.image[0, 0, 0]) % 2 for r in sink.results} == {0}
