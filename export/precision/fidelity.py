"""Does a faster file still say the same? Scores and heatmaps against the float32 file, on pictures it was not fitted to.

Every figure is judged by the near end of its 95 % interval: what the pictures show for certain, not what they happen to give.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dkcam.agreement import overlap_of_hottest, peak_shift, pearson, spearman
from dkcam.engines import Engine
from dkcam.engines.engine import draw_masks, graph_input
from dkcam.errors import ExportError
from dkcam.export.pictures import Pictures
from dkcam.interval import Mean, mean, share
from dkcam.spec import ModelSpec


class FidelityError(ExportError):
    """A low-precision graph says something else than the float32 model."""


@dataclass(frozen=True)
class Thresholds:
    """agreement: least share of pictures with the same top class. correlation: least mean Pearson correlation of heatmaps.
    change: largest mean change of the top class's probability. shift: largest mean shift of the peak, in cells.
    """

    agreement: float
    correlation: float
    change: float
    shift: float

    def nearer(self, part: float) -> Thresholds:
        """With this part of the distance from perfect."""
        agreement, correlation = (1 - part * (1 - each) for each in (self.agreement, self.correlation))
        return Thresholds(agreement, correlation, part * self.change, part * self.shift)


THRESHOLDS = {"fp16": Thresholds(0.98, 0.999, 0.005, 0.1), "int8": Thresholds(0.98, 0.97, 0.02, 0.5)}


@dataclass(frozen=True)
class Fidelity:
    """Means with their intervals over sources of pictures; without any value where nothing could be compared.

    agreement: share of all pictures with the same top class. change: of the top class's probability. probability: largest
    difference of any probability. pearson, spearman: correlation of heatmaps of the model's top class. worst: the lowest
    Pearson. iou: overlap of the hottest fifth of the cells. peak_shift: distance of the hottest cells, in cells. probability_rms:
    root mean square of ``change``.
    """

    pictures: int
    agreement: Mean
    change: Mean
    probability: float
    pearson: Mean
    worst: float
    spearman: Mean
    iou: Mean
    peak_shift: Mean
    probability_rms: float

    def figures(self) -> dict[str, float]:
        """What the file's metadata keeps: four digits, no nan; of a mean also ``_low`` and ``_high``."""
        values: dict[str, float] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            values |= (
                {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high} if isinstance(value, Mean) else {name: value}
            )
        return {name: float(f"{value:.4g}") for name, value in values.items() if not math.isnan(value)}

    def misses(self, wanted: Thresholds) -> str:
        """What falls short, "" if nothing does. A figure that could not be taken does not fall short."""
        same, alike, change, shift = self.agreement, self.pearson, self.change, self.peak_shift
        if same.count and same.low < wanted.agreement:
            return f"{_ends(same)} of {same.count} pictures keep their class, expected {wanted.agreement:g} at the interval's near end"
        if alike.count and alike.low < wanted.correlation:
            return f"heatmaps correlate by {_ends(alike)}, expected {wanted.correlation:g} at the interval's near end"
        if change.count and max(-change.low, change.high) > wanted.change:
            return f"the top class's probability changes by {_ends(change)} on average, expected {wanted.change:g} at most"
        if shift.count and shift.high > wanted.shift:
            return f"the heatmaps' peaks move by {_ends(shift)} cells on average, expected {wanted.shift:g} at most"
        return ""

    def without_intervals(self) -> Fidelity:
        """The means alone: to choose by, where many attempts are compared and none is believed."""
        names = ("agreement", "change", "pearson", "spearman", "iou", "peak_shift")
        means: dict[str, Mean] = {name: getattr(self, name) for name in names}
        return replace(self, **{name: replace(value, low=value.value, high=value.value) for name, value in means.items()})  # type: ignore[arg-type]

    def harm(self) -> float:
        """How far from the model, as one number for ordering: 0 is the same."""
        parts = (1 - self.pearson.value, 1 - self.agreement.value, abs(self.change.value), self.probability_rms)
        return sum(part for part in parts if not math.isnan(part))


def _ends(found: Mean) -> str:
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"


@dataclass(frozen=True)
class Truth:
    """The float32 model's answers: probabilities [n], the top class, its heatmap [h, w] (None without one). source: of the picture."""

    picture: NDArray[np.uint8]
    source: Hashable
    probabilities: NDArray[np.floating]
    top: int
    heatmap: NDArray[np.floating] | None


def truths(engine: Engine, pictures: Pictures) -> list[Truth]:
    """Run the float32 file; graphs with masks get one set of masks, here and in ``compare``."""
    spec, found = engine.spec, []
    for picture, source in zip(pictures.images, pictures.sources, strict=True):
        said = engine.run(graph_input(_batch(picture, spec), spec.input), _classes(spec, -1), draw_masks(spec, np.random.default_rng(0)))
        scores = next(said[name][0] for name in ("probabilities", "logits") if name in said)
        probabilities = scores if "probabilities" in said else np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        heatmap = said["heatmap"][0, 0] if "heatmap" in said else None
        found.append(Truth(picture, source, probabilities, int(probabilities.argmax()), heatmap))
    return found


def compare(engine: Engine, expected: Sequence[Truth]) -> Fidelity:
    """Run the file on the same pictures."""
    spec, mask = engine.spec, draw_masks(engine.spec, np.random.default_rng(0))
    kept: list[bool] = []
    names = ("change", "pearson", "spearman", "iou", "peak_shift")
    values: dict[str, list[float]] = {name: [] for name in names}
    largest, squares = 0.0, []
    for truth in expected:
        said = engine.run(graph_input(_batch(truth.picture, spec), spec.input), _classes(spec, truth.top), mask)
        now = dict.fromkeys(names, math.nan)
        scores = next((said[name][0] for name in ("probabilities", "logits") if name in said), None)
        if scores is not None:
            kept.append(int(scores.argmax()) == truth.top)
        if "probabilities" in said:
            apart = said["probabilities"][0].astype(np.float64) - truth.probabilities
            largest = max(largest, float(np.abs(apart).max()))
            squares.append(float(apart[truth.top] ** 2))
            now["change"] = float(apart[truth.top])
        if truth.heatmap is not None and truth.heatmap.std() > 0:
            heat = said["heatmap"][0, 0]
            now["pearson"], now["spearman"] = pearson(heat, truth.heatmap), spearman(heat, truth.heatmap)
            now["iou"], now["peak_shift"] = overlap_of_hottest(heat, truth.heatmap), peak_shift(heat, truth.heatmap)
        for name in names:
            values[name].append(now[name])
    sources = [truth.source for truth in expected]
    means = {name: mean(values[name], sources) for name in names}
    return Fidelity(
        pictures=len(expected),
        agreement=share(kept, sources) if kept else mean([]),
        probability=largest,
        worst=min((value for value in values["pearson"] if not math.isnan(value)), default=math.nan),
        probability_rms=math.sqrt(float(np.mean(squares))) if squares else math.nan,
        **means,
    )


def _batch(picture: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.uint8]:
    return np.repeat(picture[None], spec.input.batch[0], axis=0)


def _classes(spec: ModelSpec, number: int) -> NDArray[np.int64]:
    return np.full(spec.explanation.count or 1, number, np.int64)
