"""From an explanation to a result: rules judged, the overlay drawn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dkcam.runtime.controls import Style
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.frame import Frame
from dkcam.runtime.overlay import draw, mark
from dkcam.runtime.result import Alarm, Latency, Result


class Watch(Protocol):
    """Judges explanations as they come."""

    def see(self, explanation: Explanation) -> tuple[Alarm, ...]:
        """The rules that are broken now."""
        ...


@dataclass(frozen=True)
class Explained:
    """A frame with its explanation. The times are milliseconds; arrived: of time.perf_counter. masks: whether keys were dropped."""

    frame: Frame
    explanation: Explanation
    read_ms: float
    preprocess_ms: float
    infer_ms: float
    arrived: float
    masks: bool = True


class Speed:
    """Frames a second: over a smoothed time between two, since the mean of unsteady speeds is too high."""

    def __init__(self) -> None:
        self.fps: float | None = None
        self._before = 0.0

    def tick(self) -> float | None:
        now = time.perf_counter()
        if self._before:
            latest = max(now - self._before, 1e-6)
            self.fps = 1 / (latest if self.fps is None else 0.95 / self.fps + 0.05 * latest)
        self._before = now
        return self.fps


def drawn(result: Result, style: Style) -> NDArray[np.uint8]:
    """The result's picture, drawn now where nobody wanted it before."""
    if result.picture is not None:
        return result.picture
    return draw(result.frame.image, result.explanation, alpha=style.alpha, colormap=style.colormap, layout=style.layout)


def result_of(
    done: Explained, *, style: Style, watch: Watch | None, picture: bool, fps: float | None, dropped: int, show_age: bool = False
) -> Result:
    """Judge the explanation and, with ``picture``, draw the overlay. show_age: write the picture's age into it."""
    start = time.perf_counter()
    alarms = watch.see(done.explanation) if watch else None
    drawn = None
    if picture:
        drawn = draw(
            None if done.explanation.on_gpu else done.frame.image,
            done.explanation,
            alpha=style.alpha,
            colormap=style.colormap,
            layout=style.layout,
            fps=fps if style.speed else None,
            age_s=time.perf_counter() - done.arrived if style.speed and show_age else None,
        )
        if alarms:
            mark(drawn, alarms)
    end = time.perf_counter()
    latency = Latency(done.read_ms, done.preprocess_ms, done.infer_ms, (end - start) * 1e3)
    return Result(done.frame, done.explanation, latency, (end - done.arrived) * 1e3, dropped, drawn, alarms, masks=done.masks)
