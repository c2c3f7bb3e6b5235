"""What one frame's inference says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import InputError
from dkcam.runtime.geometry import Fit
from dkcam.runtime.gpu import GpuFrame, GpuKernels


@dataclass(frozen=True)
class Score:
    """A class with its probability, 0..1."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class OnGpu:
    """The explained frame where it lies in GPU memory, and what draws there."""

    kernels: GpuKernels
    frame: GpuFrame


@dataclass(frozen=True)
class Explanation:
    """probabilities: float32 [classes]. explained: int64 [K], class numbers. heatmap: float32 [K, h, w], ≥ 0, not
    normalised. heatmap_std: the same shape, over masks, or None. fit: the way back to the frame. device: what ran it.
    on_gpu: where the explained frame lies in GPU memory, else None.
    """

    labels: Sequence[str]
    probabilities: NDArray[np.float32]
    explained: NDArray[np.int64]
    heatmap: NDArray[np.float32]
    heatmap_std: NDArray[np.float32] | None
    fit: Fit
    device: str
    on_gpu: OnGpu | None = None

    def top(self, count: int = 1) -> list[Score]:
        """The ``count`` likeliest classes, likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [self.score(int(index)) for index in order]

    def score(self, index: int) -> Score:
        return Score(self.labels[index], index, float(self.probabilities[index]))

    def explained_scores(self) -> list[Score]:
        """The K explained classes, in the heatmaps' order."""
        return [self.score(int(index)) for index in self.explained]

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
