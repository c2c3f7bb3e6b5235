"""Each stage of a run hangs in turn, and is named on stderr, at /healthz and in /metrics; then it goes on, and all is well."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import dkcam
from dkcam.runtime import health as health_module
from dkcam.runtime.controls import Controls
from dkcam.runtime.health import Health
from dkcam.runtime.live.camera import Camera
from dkcam.runtime.live.page import PageSink
from dkcam.runtime.live.page.app import Context
from dkcam.runtime.live.page.metrics import Metrics
from dkcam.runtime.live.pipeline import LivePipeline
from dkcam.runtime.live.recovery import Recovery
from dkcam.runtime.pipeline import Pipeline
from dkcam.runtime.result import Result
from dkcam.runtime.sinks import Sink
from dkcam.runtime.sources import open_source
from tests.runtime.live.camera_server import wait_until
from tests.runtime.live.scripted import Scripted, done
from tests.runtime.live.test_pipeline import Keep


class Gate:
    """Who passes it hangs while it is shut."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def __call__(self) -> None:
        assert self._open.wait(60)


class Gated(Scripted):
    """reader: hangs before a picture arrives. decoder: while one is decoded."""

    def __init__(self, reader: Gate, decoder: Gate) -> None:
        super().__init__(20)
        self._reader, self._decoder = reader, decoder

    def arrivals(self) -> Any:
        for number, arrival in enumerate(super().arrivals()):
            self._reader()
            yield replace(arrival, take=lambda number=number: self._decode(number))

    def _decode(self, number: int) -> Future[Any]:
        if self._decoder._open.is_set():
            return done(self.picture(number))
        future: Future[Any] = Future()
        threading.Thread(target=lambda: (self._decoder(), future.set_result(self.picture(number))), daemon=True).start()
        return future


class Held(Keep):
    """A sink that hangs."""

    def __init__(self, name: str, gate: Gate) -> None:
        super().__init__()
        self.name, self._gate = name, gate  # type: ignore[misc]

    def write(self, result: Result) -> bool:
        self._gate()
        return super().write(result)


@dataclass
class Running:
    gates: dict[str, Gate]
    health: Health
    page: PageSink
    controls: Controls
    kept: Keep

    def asked(self) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=20)
        try:
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def metrics(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=20)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()


@pytest.fixture
def running(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A whole run with one camera, two outputs and the page; what lasts for 1.5 s hangs."""
    monkeypatch.setattr(health_module, "HANG_S", 1.5)
    monkeypatch.setattr(health_module, "TICK_S", 0.05)
    logging.getLogger("dkcam").propagate = True
    gates = {name: Gate() for name in ("reader", "decoder", "engine", "writer", "a.mp4", "b.jsonl")}
    health, news, controls = Health(), threading.Condition(), Controls()
    camera = Camera(0, "camera", Gated(gates["reader"], gates["decoder"]), news, timeout_s=60.0, health=health)
    explainer = dkcam.load(model_file, device="cpu")
    explainer.warm_up()
    infer = explainer.infer_many

    def infer_many(*given: Any, **more: Any) -> Any:
        gates["engine"]()
        return infer(*given, **more)

    explainer.infer_many = infer_many  # type: ignore[method-assign]
    recovery = Recovery(explainer, lambda device: explainer)

    def states() -> list[dict[str, Any]]:
        return [{"camera": 0, "name": "camera", "live": camera.live, "reason": ""}]

    context = Context("model.onnx", controls, lambda: explainer, Metrics([camera], recovery, "model.onnx", health), states, health=health)
    page, kept = PageSink("http://127.0.0.1:0", context, token=None), Held("b.jsonl", gates["b.jsonl"])
    sinks: list[Sink] = [Held("a.mp4", gates["a.mp4"]), kept, page]
    pipeline = LivePipeline(
        [camera], news, recovery, sinks, controls=controls, on_result=lambda result: gates["writer"](), health=health
    )  # fmt: skip
    camera.start()
    thread = threading.Thread(target=pipeline.run, daemon=True)
    with health.watched():
        thread.start()
        try:
            wait_until(lambda: len(kept.results) > 3, 30)
            yield Running(gates, health, page, controls, kept)
        finally:
            for gate in gates.values():
                gate.open()
            pipeline.stop.set()
            thread.join(20)
            camera.stop()
            page.close()


@contextmanager
def hanging(gate: Gate) -> Iterator[None]:
    gate.shut()
    try:
        yield
    finally:
        gate.open()


@pytest.mark.parametrize(
    ("gate", "stage"),
    [
        ("reader", "camera 0 reader"),
        ("decoder", "camera 0 decoder"),
        ("engine", "engine"),
        ("writer", "writer"),
        ("a.mp4", "sink a.mp4"),
        ("b.jsonl", "sink b.jsonl"),
    ],
)
def test_a_stage_that_hangs_is_named_and_no_other(running: Running, caplog: pytest.LogCaptureFixture, gate: str, stage: str) -> None:
    assert running.asked()[0] == 200
    with hanging(running.gates[gate]):
        wait_until(lambda: running.asked() == (503, answer(stage)), 30)
        assert f"{stage} hangs: no answer for" in caplog.text
        hung = [line for line in running.metrics().splitlines() if line.startswith("dkcam_stage_hangs_seconds{") and line[-4:] != " 0.0"]
        assert len(hung) == 1 and f'stage="{stage}"' in hung[0]
    wait_until(lambda: running.asked()[0] == 200 and f"{stage} is back, after" in caplog.text, 30)
    before = len(running.kept.fresh())
    wait_until(lambda: len(running.kept.fresh()) > before, 30)
    assert [record.getMessage().split(" hangs")[0] for record in caplog.records if " hangs" in record.getMessage()] == [stage]


def answer(stage: str) -> dict[str, Any]:
    return {"status": "degraded", "lost": [], "engine": "stuck" if stage == "engine" else "ok", "stuck": [stage]}


@pytest.mark.parametrize("what", ["loop", "workers"])
def test_a_page_that_hangs_is_named_on_stderr(running: Running, caplog: pytest.LogCaptureFixture, what: str) -> None:
    gate, loop = Gate(), running.page._context.hub._loop
    assert loop is not None
    with hanging(gate):
        if what == "loop":
            loop.call_soon_threadsafe(gate)
        else:
            for _ in range(4):
                loop.call_soon_threadsafe(loop.run_in_executor, None, gate)
        wait_until(lambda: "page hangs: no answer for" in caplog.text, 30)
        assert set(running.health.stuck()) == {"page"}
        assert what == "loop" or running.asked() == (503, answer("page"))
    wait_until(lambda: running.asked()[0] == 200, 30)


def test_pauses_and_slow_work_are_no_hangs(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.controls.change(paused=True)
    before = running.health._now
    wait_until(lambda: running.health._now > before + 3, 30)
    assert running.asked()[0] == 200
    running.controls.change(paused=False)
    assert running.asked()[0] == 200
    for _ in range(2):
        with hanging(running.gates["engine"]):
            begun = running.health._now
            wait_until(lambda begun=begun: running.health._now > begun + 1.0, 30)  # type: ignore[misc]
            assert running.asked()[0] == 200
    assert " hangs" not in caplog.text


def test_an_engine_that_fails_on_every_frame_is_none(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    from dkcam.errors import InputError

    def fails(*given: Any, **more: Any) -> Any:
        raise InputError("cannot digest this")

    explainer = running.page._context.explainer()
    works, explainer.infer_many = explainer.infer_many, fails  # type: ignore[method-assign]
    wait_until(lambda: running.asked() == (503, answer("engine")), 30)
    running.controls.change(paused=True)  # nothing is asked of it now
    wait_until(lambda: running.asked()[0] == 200, 30)
    running.controls.change(paused=False)
    wait_until(lambda: running.asked() == (503, answer("engine")), 30)
    explainer.infer_many = works  # type: ignore[method-assign]
    wait_until(lambda: running.asked()[0] == 200, 30)


def test_pictures_shown_again_are_no_sign_of_life(model_file: Path, running: Running) -> None:
    hub = running.page._context.hub
    with hanging(running.gates["engine"]):
        last = running.kept.fresh()[-1]
        wait_until(lambda: bool(running.health.stuck()), 30)
        before = hub.published_at
        hub.publish(replace(last, repeated=True), running.controls.settings.style)
        assert hub.published_at == before
    wait_until(lambda: hub.published_at > before, 30)


@pytest.mark.parametrize("stage", ["reader", "engine", "writer", "sink out.mp4"])
def test_a_stage_of_a_run_over_files(
    model_file: Path, clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: str
) -> None:
    monkeypatch.setattr(health_module, "HANG_S", 0.5)
    monkeypatch.setattr(health_module, "TICK_S", 0.05)
    logging.getLogger("dkcam").propagate = True
    gates = {name: Gate() for name in ("reader", "engine", "writer", "sink out.mp4")}
    explainer = dkcam.load(model_file, device="cpu")
    explainer.warm_up()
    infer, source = explainer.infer, open_source(str(clip(frames=30)))

    class Source:
        name, fps, count, skipped = source.name, source.fps, source.count, ()

        def __iter__(self) -> Iterator[Any]:
            for frame in source:
                gates["reader"]()
                yield frame

        def close(self) -> None:
            source.close()

    class Watch:
        def see(self, explanation: Any) -> tuple[Any, ...]:
            gates["writer"]()
            return ()

    def gated(*given: Any, **more: Any) -> Any:
        gates["engine"]()
        return infer(*given, **more)

    explainer.infer = gated  # type: ignore[method-assign]
    health = Health()
    pipeline = Pipeline(Source(), explainer, [Held("out.mp4", gates["sink out.mp4"])], watch=Watch(), health=health)
    gates[stage].shut()
    thread = threading.Thread(target=pipeline.run, daemon=True)
    with health.watched():
        thread.start()
        wait_until(lambda: set(health.stuck()) == {stage}, 30)
        gates[stage].open()
        thread.join(20)
        wait_until(lambda: f"{stage} is back" in caplog.text)
        assert pipeline.summary.frames == 30 and health.stuck() == {} and not health.inside()
    source.close()
