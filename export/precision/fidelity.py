"""Does a faster file still say the same? Scores and heatmaps against the float32 torch model, on pictures it was not fitted to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dkcam.agreement import overlap_of_hottest, peak_shift, pearson, spearman
from dkcam.engines import Engine
from dkcam.engines.engine import draw_masks, graph_input
from dkcam.errors import ExportError
from dkcam.export.reference import Reference
from dkcam.spec import ModelSpec

CONFIDENT = 0.5

Pictures = Sequence[NDArray[np.uint8]]


class FidelityError(ExportError):
    """A low-precision graph says something else than the float32 model."""


@dataclass(frozen=True)
class Thresholds:
    """correlation: least mean Pearson correlation of heatmaps. top1: least share of confident frames with the same class."""

    correlation: float
    top1: float


THRESHOLDS = {"fp16": Thresholds(0.999, 0.98), "int8": Thresholds(0.97, 0.98)}


@dataclass(frozen=True)
class Fidelity:
    """Means over frames, nan where nothing could be compared.

    top1: share of frames the model classifies with p ≥ 0.5 that keep their class. probability: largest difference of
    any probability. pearson, spearman: correlation of heatmaps of the model's top class. worst: the lowest Pearson.
    iou: overlap of the hottest fifth of the cells. peak_shift: distance of the hottest cells, in cells.
    """

    frames: int
    confident: int
    top1: float
    probability: float
    pearson: float
    worst: float
    spearman: float
    iou: float
    peak_shift: float

    def figures(self) -> dict[str, float]:
        """What the file's metadata keeps: four digits, no nan."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: float(f"{value:.4g}") for name, value in values.items() if not math.isnan(value)}

    def misses(self, wanted: Thresholds) -> str:
        """What falls short, "" if nothing does. A figure that could not be taken does not fall short."""
        if self.top1 < wanted.top1:
            return f"{self.top1:.3f} of {self.confident} confident frames keep their class, expected {wanted.top1}"
        if self.pearson < wanted.correlation:
            return f"heatmaps correlate by {self.pearson:.4f} on average, expected {wanted.correlation}"
        return ""


@dataclass(frozen=True)
class Truth:
    """The float32 model's answers: probabilities [n], the top class, its heatmap [h, w] (None without one)."""

    picture: NDArray[np.uint8]
    probabilities: NDArray[np.floating]
    top: int
    heatmap: NDArray[np.floating] | None


def truths(reference: Reference, spec: ModelSpec, pictures: Pictures) -> list[Truth]:
    """Run the torch model; graphs with masks get one set of masks, here and in ``compare``."""
    found = []
    for picture in pictures:
        said = reference.run(graph_input(_batch(picture, spec), spec), _classes(spec, -1), draw_masks(spec, np.random.default_rng(0)))
        probabilities = said["probabilities"][0]
        heatmap = said["heatmap"][0, 0] if "heatmap" in spec.outputs else None
        found.append(Truth(picture, probabilities, int(probabilities.argmax()), heatmap))
    return found


def compare(engine: Engine, expected: Sequence[Truth]) -> Fidelity:
    """Run the file on the same pictures."""
    spec = engine.spec
    kept, errors, pearsons, spearmans, overlaps, shifts = [], [0.0], [], [], [], []
    for truth in expected:
        said = engine.run(
            graph_input(_batch(truth.picture, spec), spec), _classes(spec, truth.top), draw_masks(spec, np.random.default_rng(0))
        )
        scores = next((said[name][0] for name in ("probabilities", "logits") if name in said), None)
        if scores is not None and truth.probabilities.max() >= CONFIDENT:
            kept.append(int(scores.argmax()) == truth.top)
        if "probabilities" in said:
            errors.append(float(np.abs(said["probabilities"][0] - truth.probabilities).max()))
        if truth.heatmap is None or not truth.heatmap.std() > 0:
            continue
        heat = said["heatmap"][0, 0]
        pearsons.append(pearson(heat, truth.heatmap))
        spearmans.append(spearman(heat, truth.heatmap))
        overlaps.append(overlap_of_hottest(heat, truth.heatmap))
        shifts.append(peak_shift(heat, truth.heatmap))
    means = [float(np.mean(values)) if values else math.nan for values in (kept, pearsons, spearmans, overlaps, shifts)]
    worst = min(pearsons, default=math.nan)
    return Fidelity(len(expected), len(kept), means[0], max(errors), means[1], worst, *means[2:])


def _batch(picture: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.uint8]:
    return np.repeat(picture[None], spec.batch[0], axis=0)


def _classes(spec: ModelSpec, number: int) -> NDArray[np.int64]:
    return np.full(spec.explain or 1, number, np.int64)
