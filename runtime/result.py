"""One frame's result as it leaves the pipeline, and its JSON line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.printable import json_line
from dkcam.runtime.explanation import Detection, Explanation, Score
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
class Live:
    """camera: its number. cameras: how many there are. reopened: times it was lost and came back."""

    camera: int
    cameras: int
    reopened: int


@dataclass(frozen=True)
class Result:
    """picture: the overlay uint8 [H, W', 3] BGR, None when no sink shows one. age_ms: from the frame's arrival to now.

    dropped: frames of a live source that were skipped so far. alarms: rules that are broken, None where none are watched.
    live: of a camera, else None. stale: older than the run's --max-age when it was drawn. repeated: drawn once more,
    while its camera is silent. masks: whether keys were dropped, for graphs with samples.
    """

    frame: Frame
    explanation: Explanation
    latency: Latency
    age_ms: float
    dropped: int
    picture: NDArray[np.uint8] | None = None
    alarms: tuple[Alarm, ...] | None = None
    live: Live | None = None
    stale: bool = False
    repeated: bool = False
    masks: bool = True

    def to_json(self) -> str:
        """The line of a .jsonl sink; peak in 0..1 of the frame, null where the heatmap is zero everywhere."""
        said = self.explanation
        scores = scores_json(said)
        later: dict[str, Any] = {name: scores.pop(name) for name in ("peaks", "stability", "sides") if name in scores}
        line: dict[str, Any] = {
            "frame": self.frame.index,
            "source": self.frame.source,
            "time_s": round(self.frame.time_s, 4),
            **scores,
            "age_ms": round(self.age_ms, 3),
            "latency_ms": {
                "read": round(self.latency.read, 3),
                "preprocess": round(self.latency.preprocess, 3),
                "infer": round(self.latency.infer, 3),
                "overlay": round(self.latency.overlay, 3),
            },
            "dropped": self.dropped,
            "device": said.device,
            **later,
        }
        if self.alarms is not None:
            line["alarms"] = [
                {"rule": a.rule, "severity": a.severity, "value": _finite(a.value, 5), "expected": a.expected} for a in self.alarms
            ]
        if self.live is not None:
            line["reopened"] = self.live.reopened
            line["stale"] = self.stale
            if self.live.cameras > 1:
                line["camera"] = self.live.camera
        if self.frame.boxes is not None:
            height, width = self.frame.image.shape[:2]
            line["boxes"] = [
                {
                    "label": b.label,
                    "box": [round(b.left / width, 5), round(b.top / height, 5), round(b.right / width, 5), round(b.bottom / height, 5)],
                }
                for b in self.frame.boxes
            ]
        return json_line(line)


def scores_json(said: Explanation) -> dict[str, Any]:
    """What an explanation says of its picture: the keys top, explained, peak, and peaks and stability where there are.

    Of a detector also detections; peak is then the best one's. Of a regressor also sides: whether heat is what raises or lowers.
    """
    found: dict[str, Any] = {"top": [_score(s) for s in said.top(TOP)], "explained": [s.label for s in said.explained_scores()]}
    if said.task == "detect":
        found["detections"] = [_detection(each, said) for each in said.detections]
        found["peak"] = found["detections"][0]["peak"] if said.detections else None
        focused = [number for number, each in enumerate(said.detections) if each.row == said.focus]
        if focused:
            found["focus"] = focused[0]
        return found
    peaks = [_rounded(said.peak(k)) for k in range(len(said.explained))]
    found["peak"] = peaks[0]
    if len(peaks) > 1:
        found["peaks"] = peaks
    if said.task == "regress":
        found["sides"] = ["rise" if said.rises(k) else "fall" for k in range(len(said.explained))]
    if said.heatmap_std is not None:
        found["stability"] = _finite(said.stability(), 5)
    return found


def _score(score: Score) -> dict[str, Any]:
    known = {"probability": _finite(score.probability, 6)} if score.value is None else {"value": _finite(score.value, 6)}
    return {"label": score.label, "index": score.index, **known}


def _detection(found: Detection, said: Explanation) -> dict[str, Any]:
    return {
        "label": found.label,
        "index": found.index,
        "score": _finite(found.probability, 6),
        "box": [round(value, 5) for value in found.box],
        "peak": _rounded(said.peak(found.row)),
    }


def _finite(value: float, digits: int) -> float | None:
    """Rounded; null for what JSON has no number for, as a graph that overflows gives."""
    return round(value, digits) if math.isfinite(value) else None


def _rounded(peak: tuple[float, float] | None) -> list[float] | None:
    return None if peak is None else [round(peak[0], 5), round(peak[1], 5)]
