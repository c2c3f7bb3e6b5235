"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dkcam.runtime.health import Health
from dkcam.runtime.live.camera import Camera
from dkcam.runtime.live.recovery import Recovery
from dkcam.runtime.result import Result

BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """One registry a run."""

    def __init__(self, cameras: Sequence[Camera], recovery: Recovery | None, model: str, health: Health | None = None) -> None:
        self._registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self._registry}
        self._frames = Counter("dkcam_frames", "Frames explained.", ["camera"], **options)
        self._age = Histogram(
            "dkcam_age_seconds", "From a frame's capture to its finished overlay.", ["camera"], buckets=BUCKETS, **options
        )
        self._stage = Histogram("dkcam_stage_seconds", "Time in a stage.", ["stage"], buckets=BUCKETS, **options)
        self._alarms = Counter("dkcam_alarms", "Frames in which a rule was broken.", ["rule", "severity"], **options)
        self._stale = Counter("dkcam_stale_frames", "Frames that were older than --max-age when they were drawn.", ["camera"], **options)
        self._registry.register(_State(cameras, recovery, model, health or Health()))

    def count(self, result: Result) -> None:
        if result.repeated:
            return
        camera = str(result.frame.camera)
        self._frames.labels(camera).inc()
        self._age.labels(camera).observe(result.age_ms / 1e3)
        if result.stale:
            self._stale.labels(camera).inc()
        for stage in ("read", "preprocess", "infer", "overlay"):
            self._stage.labels(stage).observe(getattr(result.latency, stage) / 1e3)
        for alarm in result.alarms or ():
            self._alarms.labels(alarm.rule, alarm.severity).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _State(Collector):
    """What is counted elsewhere, read when asked."""

    def __init__(self, cameras: Sequence[Camera], recovery: Recovery | None, model: str, health: Health) -> None:
        self._cameras, self._recovery, self._model, self._health = cameras, recovery, model, health

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("dkcam_camera_up", "Whether the camera sends frames.", labels=["camera", "source"])
        kinds = {
            "shots": "Frames that arrived.",
            "dropped": "Frames that a newer one replaced before they were taken.",
            "damaged": "Frames that could not be decoded.",
            "reopened": "Times the camera was lost and came back.",
        }
        counters = {name: CounterMetricFamily(f"dkcam_camera_{name}", told, labels=["camera"]) for name, told in kinds.items()}
        for camera in self._cameras:
            up.add_metric([str(camera.number), camera.name], float(camera.live))
            for name, family in counters.items():
                family.add_metric([str(camera.number)], getattr(camera, name))
        yield up
        yield from counters.values()
        hangs = GaugeMetricFamily("dkcam_stage_hangs_seconds", "For how long a stage has hung; 0 while it answers.", labels=["stage"])
        for stage, seconds in self._health.stages().items():
            hangs.add_metric([stage], seconds)
        yield hangs
        if self._recovery is not None:
            yield CounterMetricFamily("dkcam_engine_failures", "Frames the engine failed on.", value=self._recovery.failures)
            yield CounterMetricFamily("dkcam_engine_rebuilt", "Engines opened again.", value=self._recovery.rebuilt)
            info = GaugeMetricFamily("dkcam_info", "Model and device.", labels=["model", "device"])
            info.add_metric([self._model, self._recovery.explainer.device], 1.0)
            yield info
