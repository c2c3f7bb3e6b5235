"""dk-run over cameras: all of them at once, until it is stopped."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from dkcam.tools.run.shared import (
    Interrupt,
    Left,
    RunOptions,
    close_all,
    interrupts,
    is_page,
    live_rules,
    open_explainer,
    settle_process,
)
from dkcam.tools.terminal import echo

if TYPE_CHECKING:
    from dkcam.runtime.controls import Controls
    from dkcam.runtime.explainer import Explains
    from dkcam.runtime.health import Health
    from dkcam.runtime.live.camera import Camera
    from dkcam.runtime.live.flight import FlightRecorder
    from dkcam.runtime.live.recovery import Recovery
    from dkcam.runtime.sinks import Sink


def run_live(options: RunOptions) -> bool:
    """Whether every rule of severity fail held. Errors: DkcamError."""
    from dkcam.runtime.health import Health

    held = True
    health = Health()
    with interrupts() as interrupt, health.watched():
        held = _run(options, interrupt, health)
    return held


def _run(options: RunOptions, interrupt: Interrupt, health: Health) -> bool:
    from dkcam.runtime.live.camera import Camera, stop_all
    from dkcam.runtime.live.decoder import Decoder
    from dkcam.runtime.live.pipeline import LivePipeline
    from dkcam.tools.summary import RunSummary

    settle_process()
    news = threading.Condition()
    cameras = [
        Camera(number, uri, Decoder(uri, options.frame_timeout, options.limits), news, timeout_s=options.frame_timeout, health=health)
        for number, uri in enumerate(options.sources)
    ]
    outputs: list[Sink] = []
    finished = False
    try:
        _start(cameras, options.wait)
        recovery = _recovery(options)
        controls = options.controls()
        watches = {c.number: live_rules(options.rules, recovery.explainer, quiet=c.number > 0) for c in cameras} if options.rules else {}
        flight = _flight(options, recovery)
        _open_outputs(options, outputs, cameras, recovery, controls, flight, health)
        recovery.explainer.warm_up()
        summaries = {camera.number: RunSummary() for camera in cameras}

        def on_result(result: Any) -> None:
            summaries[result.frame.camera].add(result)
            if flight is not None:
                flight.add(result)

        pipeline = LivePipeline(
            cameras,
            news,
            recovery,
            outputs,
            batch=_batch(recovery.explainer, options),
            controls=controls,
            watches=watches,
            max_age_s=options.max_age,
            max_frames=options.max_frames,
            on_result=on_result,
            health=health,
        )
        _listen(outputs, controls, flight)
        interrupt.on_usr1 = partial(flight.dump_soon, "SIGUSR1") if flight else None
        interrupt.left = Left(health, lambda names: close_all([sink for sink in pipeline.sinks if sink.name not in names], True))
        interrupt.running = pipeline.stop
        done = pipeline.run()
        outputs[:] = pipeline.sinks  # without those that failed on the way
        if flight is not None:
            flight.finish(1.0)
        finished = True
    finally:
        interrupt.ending()
        stop_all(cameras)
        close_all(outputs, finished)
    for camera in cameras:
        summary = summaries[camera.number]
        frames = summary.labels.total()
        if frames:
            fps = frames / done.seconds if done.seconds else 0.0
            back = f", lost and back {camera.reopened} times" if camera.reopened else ""
            first, *rest = summary.lines(frames, fps, camera.dropped)
            echo(f"{camera.name}: {first}", *(f"  {line}" for line in [*rest[:-1], *(last + back for last in rest[-1:])]))
    interrupt.say()
    for number, watch in watches.items():
        for line in watch.lines():
            echo(f"{line} (camera {number})" if len(cameras) > 1 else line)
    return not any(watch.failed for watch in watches.values())


def _start(cameras: list[Camera], wait: bool) -> None:
    """Connect to all at once. Errors: SourceError where one is not there, unless the run is to wait for it."""
    from dkcam.errors import SourceError

    if not wait:
        with ThreadPoolExecutor(len(cameras)) as pool:
            openings = [pool.submit(camera.open) for camera in cameras]
        for opening in openings:
            try:
                opening.result()
            except SourceError as error:
                raise SourceError(f"{error}; check the camera, or start with --wait") from error
    for camera in cameras:
        camera.start()


def _recovery(options: RunOptions) -> Recovery:
    from dkcam.engines.cache import cache_folder
    from dkcam.engines.registry import BACKENDS
    from dkcam.runtime.live.recovery import Recovery

    explainer = open_explainer(options, lanes=1)
    order = [name for name, backend in BACKENDS.items() if not backend.on_request]
    kind = explainer.device.split(":")[0]
    kind = "tensorrt" if kind.startswith("tensorrt") else kind  # of either flavour
    further = order[order.index(kind) + 1 :] if options.device == "auto" and kind in order else []
    folder = cache_folder()
    failed = folder / "failed" if folder else None
    return Recovery(explainer, lambda device: open_explainer(options, lanes=1, device=device), device=kind, further=further, folder=failed)


def _batch(explainer: Explains, options: RunOptions) -> int:
    """Frames at once; a grid's windows fill the batch already."""
    spec = explainer.spec
    return spec.input.batch[1] if "batch" in spec.input.dynamic and options.grid is None else 1


def _flight(options: RunOptions, recovery: Recovery) -> FlightRecorder | None:
    from dkcam.runtime.live.flight import FlightRecorder

    if options.flight_folder is None:
        return None
    about = {
        "model": str(options.model.resolve()),
        "resize": options.resize,
        "grid": options.grid,
        "background": options.background,
    }
    return FlightRecorder(options.flight_folder, options.flight_seconds, lambda: recovery.explainer, about)


def _open_outputs(
    options: RunOptions,
    outputs: list[Sink],
    cameras: list[Camera],
    recovery: Recovery,
    controls: Controls,
    flight: FlightRecorder | None,
    health: Health,
) -> None:
    from dkcam.runtime.sinks import OfCamera, open_sink
    from dkcam.tools.run.page import open_page

    for uri in options.sinks:
        if is_page(uri):
            dump, states = flight.dump if flight else None, partial(_states, cameras)
            outputs.append(
                open_page(
                    uri,
                    options,
                    controls,
                    lambda: recovery.explainer,
                    states,
                    health=health,
                    cameras=cameras,
                    recovery=recovery,
                    dump=dump,
                )
            )
        elif "{camera}" in uri:
            for camera in cameras:
                sink = open_sink(uri.replace("{camera}", str(camera.number)), live=True, rotation=options.rotation)
                outputs.append(OfCamera(sink, camera.number))
        else:
            outputs.append(open_sink(uri, live=True, rotation=options.rotation))


def _states(cameras: list[Camera]) -> list[dict[str, Any]]:
    now = time.perf_counter()
    return [
        {
            "camera": camera.number,
            "name": camera.name,
            "live": camera.live,
            "reason": camera.reason,
            "age_s": camera.age_s(now),
            "shots": camera.shots,
            "dropped": camera.dropped,
            "damaged": camera.damaged,
            "reopened": camera.reopened,
        }
        for camera in cameras
    ]


def _listen(outputs: list[Sink], controls: Controls, flight: FlightRecorder | None) -> None:
    """The keys of windows."""
    from dkcam.runtime.sinks import Window

    def on_key(key: str) -> None:
        if key in ("p", " "):
            controls.change(paused=not controls.settings.paused)
        elif key == "d" and flight is not None:
            flight.dump_soon("key d")

    for sink in outputs:
        if isinstance(sink, Window):
            sink.on_key = on_key
