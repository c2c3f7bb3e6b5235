"""Detectors: the boxes that suppression keeps, and what raises the score of each.

plan    reads the network: layout of its outputs, raw scores, heads; writes nothing
write   adds boxes, scores, explained and, where heads have windows, the heatmap
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.errors import ExportError
from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.sweep import sweep
from dkcam.export.explain import cam
from dkcam.export.explain.detect import boxes, layouts, select
from dkcam.export.explain.detect.heads import Head, between, head_of, last_maps
from dkcam.export.explain.detect.heat import heat
from dkcam.export.explain.detect.layout import Layout, Raw, raw
from dkcam.export.explain.detect.seeds import Chosen, Places, Seed, by_channel, cells_of, chosen, places_of, seeds, whole
from dkcam.export.explain.layers import Layer
from dkcam.export.explain.scores import Explained
from dkcam.export.writer import Writer, shape_of

MOST = 1024  # candidates for suppression; more boxes above the threshold than this are left out
RANKS = 10  # boxes that −1, −2, … can ask for


@dataclass(frozen=True)
class DetectPlan:
    """layout: what the outputs mean. raw, places: where raw scores are. heads: of each level, or none at all where one is not found.
    layers: where the heat is taken: the map that enters each level's head, or without heads the last maps there are. picture: (height,
    width) of the network's input. ranks: how many boxes can be asked for by rank.
    """

    layout: Layout
    raw: Raw
    places: Places
    heads: tuple[Head, ...]
    layers: tuple[Layer, ...]
    picture: tuple[int, int]
    ranks: int = RANKS

    @property
    def features(self) -> list[ir.Value]:
        """The maps that enter the heads."""
        return [head.features for head in self.heads]

    @property
    def scores(self) -> tuple[ir.Value, ...]:
        """All raw scores."""
        return tuple(value for level in self.raw.levels for value in (level.scores, level.objectness) if value is not None)

    def anew(self, graph: ir.Graph) -> DetectPlan:
        """The plan after passes over the network, which write its heads otherwise."""
        return replace(self, heads=tuple(between(graph, head.features, head.scores) for head in self.heads))

    @property
    def settings(self) -> dict[str, str | float | int]:
        """What the file says of how its boxes are picked."""
        kept = {"iou": self.layout.iou, "candidates": MOST} if self.layout.suppress else {}
        return {"decode": self.layout.name, "conf": self.layout.conf, **kept, "ranks": self.ranks}


def plan(
    model: ir.Model,
    outputs: Sequence[ir.Value],
    picture: tuple[int | str, int | str],
    *,
    labels: int = 0,
    decode: str | None = None,
    sample: Mapping[str, NDArray[np.generic]] | None = None,
    ranks: int = RANKS,
) -> DetectPlan:
    """Read a detector. Nothing is written.

    outputs: the network's own. picture: (height, width) of its input. labels: how many classes are known to be, 0 for unknown. decode: what
    ``--decode`` names. sample: the outputs for any picture, by name: tells boxes in pixels from boxes in 0..1 where nothing else does.
    Errors: ExportError listing the outputs and the names ``--decode`` takes; for a free size; for raw scores that are not found.
    """
    height, width = picture
    if not isinstance(height, int) or not isinstance(width, int):
        raise ExportError(f"detectors are explained at one size, the network's is {height}x{width}; give --size HxW")
    layout = layouts.find(outputs, labels, decode, sample)
    found = raw(layout)
    places = places_of(found)
    if layout.unit == "cells" and any(size[1:] == (1, 1) for size in places.size):
        raise ExportError(f"--decode {layout.name}: boxes are in cells, but their scores come from no maps; apply the grid in the network")
    heads = [_head(model.graph, found, number) for number in range(len(found.levels))]
    known = tuple(head for head in heads if head is not None)
    if len(known) == len(heads):
        layers = tuple(Layer(head.features, (2, 3), 1) for head in known)
    else:
        known, layers = (), last_maps(model.graph, (height, width), [level.scores for level in found.levels])
    return DetectPlan(layout, found, places, known, layers, (height, width), min(ranks, _most(layout)))


def _most(layout: Layout) -> int:
    return min(select.PAIRS if layout.paired else MOST, layout.scores.anchors)


def _head(graph: ir.Graph, found: Raw, number: int) -> Head | None:
    level = found.levels[number]
    values = [level.scores] if level.objectness in (None, level.scores) else [level.scores, level.objectness]
    return head_of(graph, [value for value in values if value is not None], _shared(found, number))


def _shared(found: Raw, number: int) -> bool:
    """Whether a level's raw scores hold more than scores: the boxes, then, are the same convolution's."""
    level, boxes = found.levels[number], int((found.level == number).sum())
    numbers = int(np.prod([d for d in shape_of(level.scores)[1:] if isinstance(d, int)]))
    return numbers > boxes * (found.classes + (level.objectness is level.scores))


def write(writer: Writer, plan: DetectPlan, classes: ir.Value, method: str = "gradcam", windows: bool = True) -> Explained:
    """boxes float32 [B, K, 4], scores float32 [B, K] and explained int64 [B, K] for ``classes`` int64 [K] or [B, K].

    windows: take the heat where the heads begin, box by box; heatmap float32 [B, K, h, w] is then among the outputs, on the finest
    level's grid. Without, and where the plan has no heads, the seeds of a sweep of whole maps are given, for any layer.
    A rank or a class without a box has score 0, a box of zeros, −1 or the class asked for, and no heat.
    """
    layout = plan.layout
    writer.part = "boxes"
    found = select.candidates(writer, layout, MOST)
    corners = boxes.corners(writer, layout, found.anchor, plan.picture, _grid(plan) if layout.unit == "cells" else None)
    score = select.certain(writer, found, corners, layout.conf)
    if layout.suppress:
        kept = select.suppress(writer, found, score, corners, layout.iou, plan.ranks)
    else:
        kept = select.ranked(writer, score, plan.ranks)
    picked = select.pick(writer, found, score, kept, classes)
    there = select.certainty(writer, picked)
    outputs = {
        "boxes": boxes.shown(writer, select.take(writer, corners, 1, picked.number), there),
        "scores": picked.score,
        "explained": select.explained(writer, found, picked, classes),
    }
    label = select.shifted(writer, select.take(writer, found.label, 1, picked.number), -layout.first)
    anchor = select.take(writer, found.anchor, 1, picked.number)
    places = chosen(writer, plan.places, anchor, label, there)
    by_level = seeds(writer, plan.raw, plan.places, places)
    if windows and plan.heads:
        writer.part = "heatmap"
        maps = [_level(writer, plan, number, found, places, method) for number, found in enumerate(by_level)]
        return Explained({**outputs, "heatmap": together(writer, maps)}, {})
    return Explained(outputs, _everywhere(writer, plan, by_level, places))


def _grid(plan: DetectPlan) -> NDArray[np.float32]:
    """Of each box: column and row of its cell, columns and rows of its level."""
    table, sizes = plan.places.table, np.array(plan.places.size)
    return np.stack([table[:, 2], table[:, 1], sizes[table[:, 0], 2], sizes[table[:, 0], 1]], 1).astype(np.float32)


def _level(writer: Writer, plan: DetectPlan, number: int, found: list[Seed], places: Chosen, method: str) -> ir.Value:
    """Heat [B, K, h, w] of one level, zeros for boxes of the others."""
    head = plan.heads[number]
    if head.windows is not None and plan.places.size[number][1:] != (1, 1):
        cells = cells_of(writer, places, plan.places.size[number][1:])
        return heat(writer, head, cells, by_channel(writer, found), places.boxes, method)
    arrived = sweep(writer, whole(writer, plan.places, number, found, places), [head.features])
    if head.features not in arrived:
        raise ExportError(f"no gradient of the scores reaches {head.features.name}, which the head reads; name another --layer")
    return cam.explain(writer, plan.layers[number], arrived[head.features], method).heatmap


def _everywhere(writer: Writer, plan: DetectPlan, by_level: list[list[Seed]], places: Chosen) -> dict[ir.Value, Cotangent]:
    given: dict[ir.Value, Cotangent] = {}
    for number, found in enumerate(by_level):
        given |= whole(writer, plan.places, number, found, places)
    return given


def together(writer: Writer, maps: Sequence[ir.Value]) -> ir.Value:
    """Maps [B, K, h, w] of the levels, of which one is not zero, on the finest grid.

    Coarse ones are interpolated linearly, as a viewer spreads any heatmap over the picture: so a box of a coarse level looks as if its
    own map were shown.
    """
    finest = max(maps, key=lambda one: int(np.prod([d for d in shape_of(one)[2:] if isinstance(d, int)])))
    total: ir.Value | None = None
    for one in maps:
        if shape_of(one)[2:] != shape_of(finest)[2:]:
            target = writer.join(writer.dims(one, 0, 2), writer.dims(finest, 2, 4))
            sized = writer.op("Resize", one, None, None, target, mode="linear")
            sized.shape = finest.shape
            one = sized
        total = one if total is None else writer.add(total, one)
    assert total is not None
    return total
