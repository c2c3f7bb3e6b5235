"""Detectors: does every confident box stay, with its class, its score, its heatmap?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dkcam.export.precision.judges.classify import Classify
from dkcam.export.precision.judges.judge import HEAT, HEAT_SHOWN, Answer, Array, Figure, Values, cold, heat

CONFIDENT = 0.25  # a score that detectors are shown with
OVERLAP = 0.5  # intersection over union of boxes that are the same
BOXES = 10


class Detect:
    """Boxes by class and overlap, whatever their rank; each with its score and its heatmap."""

    figures: Mapping[str, Figure] = {
        "agreement": Figure(True, "{ends} of {count} confident boxes stay (same class, overlap 0.5), expected {limit:g} at the near end"),
        "pearson": HEAT["pearson"],
        "change": Figure(False, "the boxes' scores change by {ends} on average, expected {limit:g} at most"),
        "peak_shift": HEAT["peak_shift"],
    }
    shares = frozenset({"agreement"})
    extremes: Mapping[str, tuple[str, str]] = {"worst": ("pearson", "least"), "change_rms": ("change", "rms")}
    harm: tuple[str, ...] = ("pearson", "agreement", "change", "change_rms")
    limits = Classify.limits
    shown: Mapping[str, str] = {
        "agreement": "confident boxes that stay",
        "box_iou": "boxes: overlap with the model's, mean",
        "change": "boxes' scores: mean change",
        **HEAT_SHOWN,
    }

    def asked(self, count: int | None) -> list[int]:
        return [-1 - rank for rank in range(count or BOXES)]

    def truths(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        names = ("boxes", "scores", "explained", "heatmap")
        return [{name: answer[name] for name in names if name in answer} for answer in answers]

    def asked_again(self, truth: Answer, count: int | None) -> list[int]:
        return self.asked(count)

    def compare(self, truth: Answer, answer: Answer) -> Values:
        """A box of either file that the other has not, be it with half the confidence, is one that did not stay."""
        values: Values = {"agreement": []}
        taken: set[int] = set()
        for index in np.flatnonzero(truth["scores"] >= CONFIDENT):
            partner = _partner(truth, int(index), answer, taken)
            values["agreement"].append(float(partner is not None))
            if partner is None:
                continue
            taken.add(partner)
            values.setdefault("change", []).append(float(answer["scores"][partner]) - float(truth["scores"][index]))
            values.setdefault("box_iou", []).append(iou(truth["boxes"][index], answer["boxes"][partner]))
            if "heatmap" in truth:
                for name, found in heat(truth["heatmap"][index], answer["heatmap"][partner]).items():
                    values.setdefault(name, []).extend(found)
        for index in np.flatnonzero(answer["scores"] >= CONFIDENT):
            if int(index) not in taken and _partner(answer, int(index), truth, set()) is None:
                values["agreement"].append(0.0)
        return values

    def doubt(self, truths: Sequence[Answer], limits: Mapping[str, float]) -> str:
        boxes = sum(int((truth["scores"] >= CONFIDENT).sum()) for truth in truths)
        if not boxes:
            return f"none of {len(truths)} pictures has a box with a score of {CONFIDENT:g} or more"
        sure = [dict(truth, heatmap=truth["heatmap"][truth["scores"] >= CONFIDENT]) for truth in truths if "heatmap" in truth]
        return cold(sure, {name: limit for name, limit in limits.items() if name == "pearson"})


def _partner(one: Answer, index: int, other: Answer, taken: set[int]) -> int | None:
    """The number of the other file's box of the same class that overlaps the most."""
    best, found = OVERLAP, None
    for number in range(len(other["scores"])):
        same = number not in taken and other["scores"][number] >= CONFIDENT / 2 and other["explained"][number] == one["explained"][index]
        overlap = iou(one["boxes"][index], other["boxes"][number]) if same else 0.0
        if overlap >= best:
            best, found = overlap, number
    return found


def iou(a: Array, b: Array) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width, height = (float(min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    inside = max(width, 0.0) * max(height, 0.0)
    whole = sum(float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)) - inside
    return inside / whole if whole > 0 else 0.0
