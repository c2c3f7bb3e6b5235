"""A detector's boxes and the heat of each by plain NumPy and autograd: what its file is compared with.

Suppression is written as published, box by box; gradients are autograd's, of the whole network, at the maps that the heads read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkcam.export.checking.graph_reference import EPSILON, positions, together
from dkcam.export.checking.interpreter import Interpreter
from dkcam.export.explain.detect.layout import Columns
from dkcam.export.explain.detect.plan import MOST, DetectPlan
from dkcam.export.explain.detect.select import PAIRS, THIN
from dkcam.export.explain.layers import Layer
from dkcam.export.reference import Answer, terms

Array = NDArray[Any]


@dataclass(frozen=True)
class Detection:
    """anchor, label: numbers of a box and its class. score: 0..1. box: corners in 0..1 of the input, not cut off."""

    anchor: int
    label: int
    score: float
    box: Array


@dataclass
class DetectReference:
    """One detector. model: with its input ``image`` in place and nothing explained. layers: where the heat is taken, by default the maps
    that the heads read; other maps are brought together as any network's. See ``GraphReference``.
    """

    model: ir.Model
    plan: DetectPlan
    layers: Sequence[Layer]
    method: str
    dtype: torch.dtype = torch.float64
    seen: Mapping[str, Tensor] = field(default_factory=dict)
    moved: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._interpreter = Interpreter(self.model, dtype=self.dtype)
        layout = self.plan.layout
        tables = [columns for columns in (layout.scores, layout.boxes, layout.objectness) if columns is not None]
        self._elements = {columns: torch.from_numpy(columns.elements()) for columns in tables}

    def values(self, image: NDArray[np.generic], names: Sequence[str]) -> dict[str, Tensor]:
        """Values of the network for one batch, by name."""
        return self._interpreter.evaluate({"image": torch.from_numpy(np.ascontiguousarray(image)).to(self.dtype)}, names)

    def answer(
        self,
        image: NDArray[np.generic],
        classes: NDArray[np.int64],
        chosen: Sequence[Sequence[Detection | None]],
        nudge: int = 0,
    ) -> Answer:
        """boxes, scores, explained and heatmap of chosen boxes [B][K], the answers to ``classes``."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.dtype)
        if nudge:
            signs = torch.randint(-1, 2, pixels.shape, generator=torch.Generator().manual_seed(nudge))
            pixels = pixels * (1 + signs * EPSILON)
        layout = self.plan.layout
        tables = [columns.value.name or "" for columns in (layout.scores, layout.boxes, layout.objectness) if columns is not None]
        raw = [value.name or "" for value in self.plan.scores]
        leaves = [layer.name for layer in self.layers]
        wanted = [*leaves, *dict.fromkeys([*tables, *raw])]
        found = self._interpreter.evaluate({"image": pixels}, wanted, leaves=leaves, seen=self.seen, moved=self.moved)
        shape = len(image), len(classes)
        boxes, scores = np.zeros((*shape, 4)), np.zeros(shape)
        explained = np.tile(np.maximum(classes, -1), (len(image), 1))
        for at, k in np.ndindex(*shape):
            one = chosen[at][k]
            if one is not None:
                again = self.detection(found, at, one.anchor, one.label)
                boxes[at, k], scores[at, k], explained[at, k] = np.clip(again.box, 0, 1), again.score, one.label
        maps = [[self._maps(found, at, one) for one in chosen[at]] for at in range(len(image))]
        layers = [torch.stack([torch.stack([one[0][i] for one in row]) for row in maps]) for i in range(len(self.layers))]
        sizes = torch.stack([torch.stack([one[1] for one in row]) for row in maps])
        if len(layers) > 1 and not self._levels():
            sizes = torch.ones_like(sizes)  # maps over their own largest values
        values = {"boxes": boxes, "scores": scores, "explained": explained, "heatmap": self._together(layers).numpy()}
        return Answer(values, {"heatmap": sizes.numpy()})

    def chosen(self, found: Mapping[str, Tensor], at: int, classes: NDArray[np.int64]) -> list[Detection | None]:
        """The answers to ``classes`` of one picture: −r the r-th box that suppression keeps, c ≥ 0 the best of class c."""
        layout, ranks = self.plan.layout, self.plan.ranks
        scores = self._scores(found, at)
        if layout.paired:
            best = np.argsort(-scores.ravel(), kind="stable")[:PAIRS]
            pairs = [(int(i) // scores.shape[1], int(i) % scores.shape[1]) for i in best]
        else:
            pairs = [(int(a), int(scores[a].argmax())) for a in np.argsort(-scores.max(1), kind="stable")[:MOST]]
        pairs = [pair for pair in pairs if scores[pair] >= layout.conf]
        kept: list[Detection] = []
        for anchor, label in pairs:
            if len(kept) == ranks:
                break
            one = self.detection(found, at, anchor, label + layout.first)
            if not thin(one.box) and not (layout.suppress and any(overlaps(one, other, layout.iou) for other in kept)):
                kept.append(one)
        answers: list[Detection | None] = []
        for wanted in classes.tolist():
            mine = [pair for pair in pairs if pair[1] + layout.first == wanted]
            options = kept[-wanted - 1 :] if wanted < 0 else (self.detection(found, at, a, wanted) for a, _ in mine)
            answers.append(next((one for one in options if not thin(one.box)), None))
        return answers

    def detection(self, found: Mapping[str, Tensor], at: int, anchor: int, label: int) -> Detection:
        """The box of an anchor, and its score as this class (a label, as the file counts them)."""
        score = float(self._scores(found, at, anchor)[0, label - self.plan.layout.first])
        return Detection(anchor, label, score, self._box(found, at, anchor))

    def nearest(self, image_values: Mapping[str, Tensor], at: int, label: int, box: Array, score: float) -> Detection:
        """The anchor that gives a box and score most like these."""
        layout = self.plan.layout
        scores = self._scores(image_values, at)[:, label - layout.first]
        near = np.argsort(np.abs(scores - score), kind="stable")[:16]
        options = [self.detection(image_values, at, int(anchor), label) for anchor in near]
        return min(options, key=lambda one: float(np.abs(np.clip(one.box, 0, 1) - box).max()) + abs(one.score - score))

    def _scores(self, found: Mapping[str, Tensor], at: int, anchor: int | None = None) -> Array:
        """[A, n] or of one anchor [1, n]: squashed, times objectness, without the background."""
        layout = self.plan.layout
        rows = self._columns(found, layout.scores, at, anchor)
        if layout.squash:
            rows = rows.softmax(1) if layout.squash == "Softmax" else rows.sigmoid()
        start = layout.classes.start - layout.scores.start
        rows = rows[:, start : start + layout.classes.count]
        if layout.objectness is not None:
            own = self._columns(found, layout.objectness, at, anchor)
            rows = rows * (own.sigmoid() if layout.squash == "Sigmoid" else own)
        return rows.detach().double().numpy()

    def _columns(self, found: Mapping[str, Tensor], columns: Columns, at: int, anchor: int | None) -> Tensor:
        """Rows [A, count] of a table, or of one box [1, count]."""
        elements = self._elements[columns]
        return found[columns.value.name or ""][at].reshape(-1)[elements if anchor is None else elements[anchor : anchor + 1]]

    def _box(self, found: Mapping[str, Tensor], at: int, anchor: int) -> Array:
        layout, (height, width) = self.plan.layout, self.plan.picture
        a, b, c, d = self._columns(found, layout.boxes, at, anchor)[0].detach().double().tolist()
        if layout.unit == "cells":
            level, row, column = (int(v) for v in self.plan.places.table[anchor, :3])
            _, rows, columns = self.plan.places.size[level]
            a, b, c, d = (a + column) / columns, (b + row) / rows, np.exp(c) / columns, np.exp(d) / rows
        box = np.array([a, b, c, d] if layout.form == "xyxy" else [a - c / 2, b - d / 2, a + c / 2, b + d / 2])
        return box / [width, height, width, height] if layout.unit == "pixels" else box

    def _maps(self, found: Mapping[str, Tensor], at: int, one: Detection | None) -> tuple[list[Tensor], Tensor]:
        """(heat [h, w] of each layer, the largest Σ|terms|)."""
        largest = torch.zeros((), dtype=self.dtype)
        maps = [torch.zeros([int(d) for d in layer.size], dtype=self.dtype) for layer in self.layers]
        if one is None:
            return maps, largest
        leaves = [found[layer.name] for layer in self.layers]
        gradients = torch.autograd.grad(self._logit(found, at, one), leaves, retain_graph=True, allow_unused=True)
        for index, (layer, leaf, gradient) in enumerate(zip(self.layers, leaves, gradients, strict=True)):
            if gradient is not None:
                features, g = (positions(value[at : at + 1].detach(), layer) for value in (leaf, gradient))
                each = terms(self.method, features, g)
                maps[index] = each.sum(1).relu()[0]
                largest = torch.maximum(largest, each.abs().sum(1).max())
        return maps, largest

    def _levels(self) -> bool:
        """Whether the layers are the maps that the heads read."""
        return [layer.name for layer in self.layers] == [value.name for value in self.plan.features]

    def _together(self, maps: list[Tensor]) -> Tensor:
        """[B, K, h, w] of each layer on the finest grid: levels' maps, of which one is not zero, as they are."""
        if len(maps) == 1 or not self._levels():
            return maps[0] if len(maps) == 1 else together(maps)
        finest = list(max(maps, key=lambda one: one.shape[2] * one.shape[3]).shape[2:])
        spread = [torch.nn.functional.interpolate(one, size=finest, mode="bilinear", align_corners=False) for one in maps]
        return torch.stack(spread).sum(0)

    def _logit(self, found: Mapping[str, Tensor], at: int, one: Detection) -> Tensor:
        """What the gradient is of: the class's logit, or of objectness times class the logit of their product."""
        raw, c = self.plan.raw, one.label - self.plan.layout.first
        level = raw.levels[int(raw.level[one.anchor])]
        score = found[level.scores.name or ""][at].reshape(-1)[int(raw.start[one.anchor]) + c * level.step]
        if level.objectness is None:
            return score
        other = found[level.objectness.name or ""][at].reshape(-1)[int(raw.objectness[one.anchor])]
        log = torch.nn.functional.logsigmoid(score) + torch.nn.functional.logsigmoid(other)
        return log - torch.log(-torch.expm1(log))


def thin(box: Array) -> bool:
    """Whether a box is a line or a point."""
    return bool((box[2:] - box[:2]).min() <= THIN)


def area(box: Array) -> float:
    return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))


def overlaps(one: Detection, other: Detection, iou: float) -> bool:
    """Whether two boxes of one class share more than ``iou`` of their union."""
    if one.label != other.label:
        return False
    low, high = np.maximum(one.box[:2], other.box[:2]), np.minimum(one.box[2:], other.box[2:])
    wide, tall = np.maximum(high - low, 0)
    common = float(wide * tall)
    return common > iou * (area(one.box) + area(other.box) - common)
