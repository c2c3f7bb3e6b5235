"""Boxes and their heat by plain code and autograd, in float64 or float32: the reference of ``explain.detect``.

The network runs in the interpreter as it was before anything was written into it; suppression is the textbook's loop; the raw score
of a box comes from its place in the plan, whole maps and autograd from there on.
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

from dkcam.export.checking.graph_reference import positions, together
from dkcam.export.checking.interpreter import evaluate
from dkcam.export.explain.detect.layout import Columns, Layout
from dkcam.export.explain.detect.plan import MOST, DetectPlan
from dkcam.export.explain.detect.select import PAIRS
from dkcam.export.explain.layers import Layer
from dkcam.export.reference import Answer, terms

Array = NDArray[Any]


@dataclass(frozen=True)
class Boxes:
    """Of K questions for B pictures. anchor, label int64 [B, K]: the box's number and class, from 0. score [B, K], 0 where there is no
    box. corners [B, K, 4]. explained int64 [B, K].
    """

    anchor: Array
    label: Array
    score: Array
    corners: Array
    explained: Array


@dataclass
class DetectReference:
    """One detector. model: with its input in place and nothing explained. layers: where the heat is taken, one or all of the plan's. seen:
    what the finished file's run gave for inputs of operators with kinks; see ``interpreter``.
    """

    model: ir.Model
    plan: DetectPlan
    layers: Sequence[Layer]
    method: str
    dtype: torch.dtype = torch.float64
    seen: Mapping[str, Tensor | Array] = field(default_factory=dict)

    def answer(self, feed: Mapping[str, Array], classes: Array, tables: Mapping[str, Array] | None = None) -> Answer:
        """boxes, scores, explained and heatmap of one batch.

        classes: int64 [K] or [B, K]. tables: the network's own scores and boxes of another run, by name, which boxes are then
        picked from: two runs that differ in the last digit may rank boxes differently.
        """
        names = [one.value.name or "" for one in self._columns()]
        leaves = [layer.name for layer in self.layers]
        raw = [value.name or "" for value in self.plan.scores]
        found = evaluate(self.model, feed, [*leaves, *raw, *names], dtype=self.dtype, leaves=leaves, seen=self.seen)
        own = {name: found[name].detach().numpy() for name in names} if tables is None else tables
        boxes = pick(self.plan, own, classes)
        heat, size = self._heat(found, boxes)
        values = {"boxes": boxes.corners, "scores": boxes.score, "explained": boxes.explained, "heatmap": heat}
        return Answer(values, {"heatmap": size, "scores": np.ones_like(boxes.score), "boxes": np.ones_like(boxes.score)})

    def _columns(self) -> list[Columns]:
        layout = self.plan.layout
        return [one for one in (layout.scores, layout.boxes, layout.objectness) if one is not None]

    def _heat(self, found: Mapping[str, Tensor], boxes: Boxes) -> tuple[Array, Array]:
        """(heat [B, K, h, w], the largest Σ|terms| [B, K])."""
        leaves = [found[layer.name] for layer in self.layers]
        maps = [positions(leaf.detach(), layer) for leaf, layer in zip(leaves, self.layers, strict=True)]
        finest = tuple(max((one.shape[2:] for one in maps), key=lambda size: size[0] * size[1]))
        batch, count = boxes.anchor.shape
        heat = [torch.zeros(batch, count, *one.shape[2:], dtype=self.dtype) for one in maps]
        size = torch.zeros(batch, count, dtype=self.dtype)
        for b in range(batch):
            for k in range(count):
                if boxes.score[b, k] <= 0:
                    continue
                score = score_of(self.plan, found, b, int(boxes.anchor[b, k]), int(boxes.label[b, k]))
                pulled = torch.autograd.grad(score, leaves, retain_graph=True, allow_unused=True)
                for own, one, layer, gradient in zip(heat, maps, self.layers, pulled, strict=True):
                    if gradient is None:
                        continue
                    each = terms(self.method, one[b : b + 1], positions(gradient, layer)[b : b + 1])
                    own[b, k] = each.sum(1).relu()[0]
                    size[b, k] = torch.maximum(size[b, k], each.abs().sum(1).max())
        if self.plan.heads and list(self.layers) == list(self.plan.layers):
            spread = [torch.nn.functional.interpolate(own, size=finest, mode="bilinear", align_corners=False) for own in heat]
            return torch.stack(spread).sum(0).numpy(), size.numpy()
        return (heat[0] if len(heat) == 1 else together(heat)).numpy(), size.numpy()


def score_of(plan: DetectPlan, values: Mapping[str, Tensor], picture: int, anchor: int, label: int) -> Tensor:
    """The scalar that is explained: a class's logit, or the logit of objectness times class."""
    level = plan.raw.levels[plan.raw.level[anchor]]
    own = values[level.scores.name or ""][picture].flatten()[plan.raw.start[anchor] + label * level.step]
    if level.objectness is None:
        return own
    other = values[level.objectness.name or ""][picture].flatten()[plan.raw.objectness[anchor]]
    either = torch.nn.functional.logsigmoid
    score = either(own) + either(other)  # log s; log(1 − s) as exact near 1 as near 0
    return score - torch.log(torch.sigmoid(-own) + torch.sigmoid(-other) - torch.sigmoid(-own) * torch.sigmoid(-other))


def pick(plan: DetectPlan, tables: Mapping[str, Array], classes: Array) -> Boxes:
    """The boxes that ``classes`` [K] or [B, K] ask for."""
    layout = plan.layout
    scores, corners = scores_of(layout, tables), corners_of(plan, tables)
    asked = np.broadcast_to(classes, (len(scores), classes.shape[-1]))
    shape = asked.shape
    found = Boxes(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape), np.zeros((*shape, 4)), np.maximum(asked, -1))
    for b in range(len(scores)):
        kept = _kept(plan, scores[b], corners[b])
        for k, wanted in enumerate(asked[b].tolist()):
            fitting = kept[: plan.ranks][-wanted - 1 :] if wanted < 0 else [one for one in kept if one[1] + layout.first == wanted]
            if not fitting:
                continue
            anchor, label = fitting[0]
            found.anchor[b, k], found.label[b, k] = anchor, label
            found.score[b, k] = scores[b, anchor, label]
            found.corners[b, k] = corners[b, anchor].clip(0, 1)
            found.explained[b, k] = label + layout.first
    return found


def _kept(plan: DetectPlan, scores: Array, corners: Array) -> list[tuple[int, int]]:
    """(box, class), the best first; of equal scores the lower number comes first."""
    layout = plan.layout
    area = _area(corners)
    if layout.paired:
        order = np.argsort(-scores.ravel(), kind="stable")[:PAIRS]
        pairs = [divmod(int(i), scores.shape[1]) for i in order]
    else:
        best = scores.argmax(1)
        pairs = [(int(i), int(best[i])) for i in np.argsort(-scores.max(1), kind="stable")[:MOST]]
    pairs = [(a, c) for a, c in pairs if scores[a, c] >= np.float32(layout.conf) and area[a] > 0]
    if not layout.suppress:
        return pairs
    kept: list[tuple[int, int]] = []
    for anchor, label in pairs:
        rivals = [other for other, its in kept if its == label]
        low = np.maximum(corners[rivals, :2], corners[anchor, :2])
        high = np.minimum(corners[rivals, 2:], corners[anchor, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        if not (common > layout.iou / (1 + layout.iou) * (area[rivals] + area[anchor])).any():
            kept.append((anchor, label))
    return kept


def _area(corners: Array) -> Array:
    found: Array = np.prod(np.maximum(corners[..., 2:] - corners[..., :2], 0), axis=-1)
    return found


def rows(columns: Columns, tables: Mapping[str, Array]) -> Array:
    """Columns of a table as [B, A, count]."""
    table = np.asarray(tables[columns.value.name or ""])
    table = table if columns.axis == 2 else table.transpose(0, 2, 1)
    return table[..., columns.start : columns.start + columns.count]


def scores_of(layout: Layout, tables: Mapping[str, Array]) -> Array:
    """Each box's score of each class, [B, A, n]."""
    found = rows(layout.scores, tables)
    if layout.squash == "Softmax":
        found = np.exp(found - found.max(2, keepdims=True))
        found = found / found.sum(2, keepdims=True)
    elif layout.squash == "Sigmoid":
        found = 1 / (1 + np.exp(-found))
    start = layout.classes.start - layout.scores.start
    found = found[..., start : start + layout.classes.count]
    if layout.objectness is not None:
        own = rows(layout.objectness, tables)
        found = found * (1 / (1 + np.exp(-own)) if layout.squash == "Sigmoid" else own)
    return found


def corners_of(plan: DetectPlan, tables: Mapping[str, Array]) -> Array:
    """Each box's corners in 0..1, [B, A, 4]."""
    layout, (height, width) = plan.layout, plan.picture
    found = rows(layout.boxes, tables)
    if layout.unit == "cells":
        table, sizes = plan.places.table, np.array(plan.places.size)[plan.places.table[:, 0]]
        grid = sizes[:, [2, 1]]
        found = np.concatenate([(found[..., :2] + table[:, [2, 1]]) / grid, np.exp(found[..., 2:]) / grid], 2)
    elif layout.unit == "pixels":
        found = found / np.array([width, height, width, height], found.dtype)
    if layout.form == "xyxy":
        return found
    return np.concatenate([found[..., :2] - found[..., 2:] / 2, found[..., :2] + found[..., 2:] / 2], 2)
