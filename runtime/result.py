"""One frame's result as it leaves the pipeline, and its JSON line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.runtime.explanation import Explanation
from dkcam.runtime.frame import Frame

TOP = 3


@dataclass(frozen=True)
class Latency:
    """Milliseconds a frame spent in each stage."""

    read: float
    preprocess: float
    infer: float
    overlay: float = 0.0


@dataclass(frozen=True)
class Alarm:
    """A rule that is broken. severity: "fail" or "warn". value: the mean that is out of bounds. expected: the bounds, in words."""

    rule: str
    severity: str
    value: float
    expected: str


@dataclass(frozen=True)
class Result:
    """picture: the overlay uint8 [H, W', 3] BGR, None when no sink shows one. age_ms: from the frame's arrival to now.

    dropped: frames of a live source that were skipped so far. alarms: rules that are broken, None where none are watched.
    """

    frame: Frame
    explanation: Explanation
    latency: Latency
    age_ms: float
    dropped: int
    picture: NDArray[np.uint8] | None = None
    alarms: tuple[Alarm, ...] | None = None

    def to_json(self) -> str:
        """The line of a .jsonl sink; peak in 0..1 of the frame, null where the heatmap is zero everywhere."""
        said = self.explanation
        peaks = [_rounded(said.peak(k)) for k in range(len(said.explained))]
        line: dict[str, Any] = {
            "frame": self.frame.index,
            "source": self.frame.source,
            "time_s": round(self.frame.time_s, 4),
            "top": [{"label": s.label, "index": s.index, "probability": round(s.probability, 6)} for s in said.top(TOP)],
            "explained": [s.label for s in said.explained_scores()],
            "peak": peaks[0],
            "age_ms": round(self.age_ms, 3),
            "latency_ms": {
                "read": round(self.latency.read, 3),
                "preprocess": round(self.latency.preprocess, 3),
                "infer": round(self.latency.infer, 3),
                "overlay": round(self.latency.overlay, 3),
            },
            "dropped": self.dropped,
            "device": said.device,
        }
        if len(peaks) > 1:
            line["peaks"] = peaks
        if said.heatmap_std is not None:
            line["stability"] = round(said.stability(), 5)
        if self.alarms is not None:
            line["alarms"] = [
                {"rule": a.rule, "severity": a.severity, "value": round(a.value, 5), "expected": a.expected} for a in self.alarms
            ]
        if self.frame.boxes is not None:
            height, width = self.frame.image.shape[:2]
            line["boxes"] = [
                {
                    "label": b.label,
                    "box": [round(b.left / width, 5), round(b.top / height, 5), round(b.right / width, 5), round(b.bottom / height, 5)],
                }
                for b in self.frame.boxes
            ]
        return json.dumps(line, ensure_ascii=False)


def _rounded(peak: tuple[float, float] | None) -> list[float] | None:
    return None if peak is None else [round(peak[0], 5), round(peak[1], 5)]
