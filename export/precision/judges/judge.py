"""What a judge is: what must stay the same for one task, and how two answers are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dkcam.agreement import overlap_of_hottest, peak_shift, pearson, spearman

Array = NDArray[Any]
Answer = Mapping[str, Array]
"""A graph's outputs for one picture, without the batch."""
Values = dict[str, list[float]]
"""Figure → its values on one picture: none where it cannot be taken, one, or one for each box."""

CELLS = 7  # along the longer side, those of a ResNet at 224 pixels: shifts on larger maps are counted in as many
ALIKE = 32  # pictures whose heatmaps are compared with each other


@dataclass(frozen=True)
class Figure:
    """least: it must reach its limit (a share, a correlation), else stay below. words: {ends} is the figure, {count} its values,
    {limit} what was expected.
    """

    least: bool
    words: str


HEAT = {
    "pearson": Figure(True, "heatmaps correlate by {ends}, expected {limit:g} at the interval's near end"),
    "peak_shift": Figure(False, "the heatmaps' peaks move by {ends} cells on average, expected {limit:g} at most"),
}


HEAT_SHOWN = {
    "pearson": "heatmaps: Pearson correlation, mean",
    "worst": "heatmaps: Pearson correlation, lowest",
    "spearman": "heatmaps: Spearman correlation, mean",
    "iou": "heatmaps: overlap of the hottest fifth",
    "peak_shift": "heatmaps: shift of the peak, cells",
}


class Judge(Protocol):
    """figures: what is judged, by name, in the order it is looked at. shares: those whose values are yes or no. extremes: further
    numbers, (figure, "most" | "least" | "rms") by name. harm: which figures and numbers tell how much a layer hurts. limits: of the
    figures, by precision. shown: what people are told, name → words.
    """

    figures: Mapping[str, Figure]
    shares: frozenset[str]
    extremes: Mapping[str, tuple[str, str]]
    harm: tuple[str, ...]
    limits: Mapping[str, Mapping[str, float]]
    shown: Mapping[str, str]

    def asked(self, count: int | None) -> list[int]:
        """``classes`` for the float32 file, as many as ``count`` where that is fixed."""
        ...

    def truths(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        """What of the float32 file's answers is compared, for each picture."""
        ...

    def asked_again(self, truth: Answer, count: int | None) -> list[int]:
        """``classes`` for the faster file."""
        ...

    def compare(self, truth: Answer, answer: Answer) -> Values:
        """The figures of one picture, and whatever else is worth a mean."""
        ...

    def doubt(self, truths: Sequence[Answer], limits: Mapping[str, float]) -> str:
        """Why these pictures cannot tell a faithful file from a bad one, "" if they can."""
        ...


def heat(truth: Array | None, now: Array | None) -> Values:
    """Two heatmaps [h, w]; nothing where there is no heat to compare."""
    if truth is None or now is None or not truth.std() > 0:
        return {}
    values = {"pearson": pearson(now, truth), "spearman": spearman(now, truth), "iou": overlap_of_hottest(now, truth)}
    values["peak_shift"] = peak_shift(now, truth) * min(1.0, CELLS / max(truth.shape))
    return {name: [value] for name, value in values.items()}


def first_map(answer: Answer) -> Array | None:
    return answer["heatmap"][0] if "heatmap" in answer else None


def cold(truths: Sequence[Answer], limits: Mapping[str, float]) -> str:
    """Whether heatmaps are there and differ between pictures."""
    maps = [one for truth in truths for one in truth.get("heatmap", ())]
    warm = [one for one in maps if one.std() > 0]
    if not maps or "pearson" not in limits:
        return ""
    if not warm:
        return "no heatmap has any heat"
    chosen = [one for one in warm[:: max(1, len(warm) // ALIKE)] if one.shape == warm[0].shape]
    others = [pearson(a, b) for a, b in pairwise(chosen)]
    if len(others) > 1 and float(np.mean(others)) >= limits["pearson"]:
        return f"heatmaps of different pictures are as alike as those of one should be (they correlate by {np.mean(others):.3f})"
    return ""
