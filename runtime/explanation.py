"""What one frame's inference says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import InputError
from dkcam.runtime.geometry import Fit
from dkcam.runtime.gpu import GpuFrame, GpuKernels


@dataclass(frozen=True)
class Score:
    """A class with its probability, 0..1; or an output of a regressor with its value, whose probability is nan."""

    label: str
    index: int
    probability: float
    value: float | None = None

    @property
    def words(self) -> str:
        """For a picture."""
        return f"{self.label} {self.probability:.0%}" if self.value is None else f"{self.label} {self.value:.3g}"


@dataclass(frozen=True)
class Detection(Score):
    """An object that a detector found. probability: its score. box: (x1, y1, x2, y2), 0..1 of the frame. row: of its heatmap."""

    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    row: int = 0


def _row(found: Detection) -> int:
    return found.row


@dataclass(frozen=True)
class OnGpu:
    """The explained frame where it lies in GPU memory, and what draws there."""

    kernels: GpuKernels
    frame: GpuFrame


@dataclass(frozen=True)
class Explanation:
    """probabilities: float32 [classes]; of a detector, each class's best score; of a regressor, empty. explained: int64 [K],
    class numbers. heatmap: float32 [K, h, w], ≥ 0, not normalised. heatmap_std: the same shape, over masks, or None. fit: the
    way back to the frame. device: what ran it. on_gpu: where the explained frame lies in GPU memory, else None.

    task: the model's. asked: the K numbers that the graph was given. values: a regressor's outputs, float32 [outputs]. boxes,
    scores: a detector's, float32 [K, 4] as (x1, y1, x2, y2), 0..1 of the input, and [K], 0 for a rank without a box. only:
    classes of boxes that were asked for, None for all. focus: row of the box that someone chose, else None.
    """

    labels: Sequence[str]
    probabilities: NDArray[np.float32]
    explained: NDArray[np.int64]
    heatmap: NDArray[np.float32]
    heatmap_std: NDArray[np.float32] | None
    fit: Fit
    device: str
    on_gpu: OnGpu | None = None
    task: str = "classify"
    asked: tuple[int, ...] = ()
    values: NDArray[np.float32] | None = None
    boxes: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] | None = None
    only: frozenset[int] | None = None
    focus: int | None = None

    def top(self, count: int = 1) -> Sequence[Score]:
        """The ``count`` likeliest classes, likeliest first; a detector's best boxes, which may be fewer or none; a regressor's
        outputs in their order.
        """
        if self.task == "detect":
            return self.detections[:count]
        if self.values is not None:
            return [self.score(index) for index in range(min(count, len(self.values)))]
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [self.score(int(index)) for index in order]

    def score(self, index: int) -> Score:
        if self.values is not None:
            return Score(self.labels[index], index, math.nan, float(self.values[index]))
        return Score(self.labels[index], index, float(self.probabilities[index]))

    def explained_scores(self) -> list[Score]:
        """What is explained, in the heatmaps' order: K of them; of a detector, those of its boxes."""
        if self.task == "detect":
            return [*sorted(self.detections, key=_row)]
        return [self.score(int(index)) for index in self.explained]

    @cached_property
    def detections(self) -> tuple[Detection, ...]:
        """A detector's boxes, the best first: those that were asked for and are seen in the frame, each once."""
        if self.boxes is None or self.scores is None:
            return ()
        found: dict[object, Detection] = {}
        for row, (index, score, box) in enumerate(zip(self.explained.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)):
            if not (score > 0 and 0 <= index < len(self.labels)) or (self.only is not None and index not in self.only):
                continue
            seen = self.fit.box(box)
            if seen is not None:
                found.setdefault((index, *box), Detection(self.labels[index], index, score, box=seen, row=row))
        return tuple(sorted(found.values(), key=lambda each: -each.probability))

    @property
    def shown(self) -> tuple[Detection, ...]:
        """Detections whose heat is drawn: all, or the one that someone chose."""
        return tuple(found for found in self.detections if self.focus in (None, found.row))

    def rises(self, which: int) -> bool:
        """Whether a regressor's heatmap shows what raises its output, or what lowers it."""
        return which >= len(self.asked) or self.asked[which] >= 0

    @property
    def figures(self) -> NDArray[np.float32]:
        """The numbers beside the maps: probabilities [classes], a detector's scores [K], a regressor's outputs."""
        if self.scores is not None:
            return self.scores
        return self.probabilities if self.values is None else self.values

    def peak(self, which: int = 0) -> tuple[float, float] | None:
        """Centre of the hottest cell as (x, y), 0..1 of the frame; None where the heatmap is zero everywhere."""
        return self.fit.peak(self.heatmap[which])

    def stability(self, which: int = 0) -> float:
        """Map stability over DropKey masks: 1 − mean spread over mean heat, not below 0; 0 for a map without heat.

        Errors: InputError for a model without masks.
        """
        if self.heatmap_std is None:
            raise InputError("this model has no masks, so its maps have no spread; export it with --samples 32")
        middle = float(self.heatmap[which].mean())
        return max(0.0, 1 - float(self.heatmap_std[which].mean()) / middle) if middle > 0 else 0.0

    def overlay(
        self, frame: NDArray[np.uint8] | None = None, *, alpha: float = 0.6, colormap: str = "turbo", layout: str = "side"
    ) -> NDArray[np.uint8]:
        """The frame with its heatmap and labels drawn in. See ``dkcam.runtime.overlay.draw``.

        Without a frame: over the explained one where it lies in GPU memory, drawn there; only the picture comes down.
        """
        from dkcam.runtime.overlay import draw

        return draw(frame, self, alpha=alpha, colormap=colormap, layout=layout)
