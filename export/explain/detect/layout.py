"""What a detector's outputs mean, and which raw scores they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dkcam.errors import ExportError
from dkcam.export.explain.detect.trace import Index, Piece, per_picture, trace
from dkcam.printable import printable


@dataclass(frozen=True)
class Columns:
    """Some columns of a table of boxes: value [B, A, m] (axis 2) or [B, m, A] (axis 1), of m columns ``count`` from ``start`` on."""

    value: ir.Value
    axis: int
    start: int
    count: int

    @property
    def anchors(self) -> int:
        """A, how many boxes the network computes."""
        return self._shape[2 - self.axis]

    @property
    def _shape(self) -> tuple[int, ...]:
        shape = per_picture(self.value)
        assert shape is not None and len(shape) == 2
        return shape

    def elements(self) -> Index:
        """Where each number lies in one picture's table, flat: int64 [A, count]."""
        anchors, columns = np.arange(self.anchors)[:, None], self.start + np.arange(self.count)[None, :]
        rows = (anchors, columns) if self.axis == 2 else (columns, anchors)
        return np.ravel_multi_index(np.broadcast_arrays(*rows), self._shape).astype(np.int64)

    def narrowed(self, start: int, count: int) -> Columns:
        """Some of these columns."""
        return Columns(self.value, self.axis, self.start + start, count)


@dataclass(frozen=True)
class Layout:
    """name: as ``--decode`` takes it. scores: a column for each class. objectness: one column, or None. boxes: four columns.

    form: "xyxy", or "xywh" (centre and size). unit: "pixels", "picture" (0..1), or "cells" (of a YOLOX head that leaves the grid to
    its user). squash: "", "Sigmoid" or "Softmax", what the network leaves to be done with its scores. background: the column that is no
    class, None without one. first: the label of the first class. suppress: whether boxes that overlap are still to be dropped; without
    it, each box and class is a detection of its own where ``paired``. conf, iou: thresholds of scores and overlap.
    """

    name: str
    scores: Columns
    boxes: Columns
    objectness: Columns | None = None
    form: str = "xywh"
    unit: str = "pixels"
    squash: str = ""
    background: int | None = None
    first: int = 0
    suppress: bool = True
    paired: bool = False
    conf: float = 0.25
    iou: float = 0.45

    @property
    def classes(self) -> Columns:
        """The scores without the background."""
        if self.background is None:
            return self.scores
        return self.scores.narrowed(1 if self.background == 0 else 0, self.scores.count - 1)


@dataclass(frozen=True)
class Level:
    """Raw scores of one level. scores: before squashing, [B, C, h, w] or any other shape. objectness: likewise, or None. step: between
    an anchor's classes in ``scores``, flat.
    """

    scores: ir.Value
    objectness: ir.Value | None
    step: int


@dataclass(frozen=True)
class Raw:
    """Where each box's raw scores are. level [A]: a number of ``levels``. start [A]: of its first class in the level's scores, flat in
    one picture; class c is at start + c · step. objectness [A]: likewise, zeros without one. classes: how many.
    """

    levels: tuple[Level, ...]
    level: Index
    start: Index
    objectness: Index
    classes: int


def raw(layout: Layout) -> Raw:
    """The raw scores behind a layout. Errors: ExportError where they cannot be followed to the values that hold them."""
    columns = layout.classes
    elements = columns.elements()
    pieces, products = _factors(trace(columns.value, elements.ravel()), elements.shape)
    if layout.objectness is not None:
        products = trace(layout.objectness.value, layout.objectness.elements().ravel())
    anchors, count = elements.shape
    level, start, objectness = (np.full(anchors, -1, np.int64) for _ in range(3))
    levels: list[Level] = []
    for piece in sorted(pieces, key=lambda piece: int(piece.order.min())):
        whole = piece.order.reshape(-1, count) if piece.order.size % count == 0 else np.zeros((0, count), np.int64)
        if not whole.size or (whole != whole[:, :1] + np.arange(count)).any():
            raise _untraceable(layout, "the classes of a box come from several values")
        at = whole[:, 0] // count
        index = piece.index.reshape(-1, count)
        step = int(index[0, 1] - index[0, 0]) if count > 1 else 0
        if (index != index[:, :1] + step * np.arange(count)).any():
            raise _untraceable(layout, "the classes of a box are not in a row")
        level[at], start[at] = len(levels), index[:, 0]
        behind = [one for one in products if np.isin(one.order, at).any()]
        if products and (len(behind) != 1 or not np.isin(at, behind[0].order).all()):
            raise _untraceable(layout, "objectness and classes do not belong together")
        if behind:
            objectness[behind[0].order] = behind[0].index
        levels.append(Level(piece.value, behind[0].value if behind else None, step))
    return Raw(tuple(levels), level, start, np.maximum(objectness, 0), count)


def _untraceable(layout: Layout, why: str) -> ExportError:
    name = printable(layout.scores.value.name or "")
    return ExportError(
        f"--decode {layout.name}: the raw scores behind {name} cannot be found: {why}; expected one map of raw scores a level"
    )


def _factors(pieces: list[Piece], shape: tuple[int, ...]) -> tuple[list[Piece], list[Piece]]:
    """(pieces of classes, pieces of objectness by anchor) where the network multiplies them itself, else (pieces, nothing)."""
    classes: list[Piece] = []
    objectness: list[Piece] = []
    for piece in pieces:
        split = None if piece.squash else _product(piece, shape[1])
        if split is None:
            classes.append(piece)
        else:
            classes += split[0]
            objectness += split[1]
    return classes, objectness


def _product(piece: Piece, count: int) -> tuple[list[Piece], list[Piece]] | None:
    node = piece.value.producer()
    if node is None or node.op_type != "Mul" or piece.order.size % count:
        return None
    found: list[list[Piece]] = []
    shape = per_picture(piece.value)
    for source in node.inputs:
        inner = per_picture(source) if source is not None else None
        if source is None or inner is None or shape is None or len(inner) != len(shape):
            return None
        places = [np.where(d == 1, 0, p) for d, p in zip(inner, np.unravel_index(piece.index, shape), strict=True)]
        index = np.ravel_multi_index(places, inner).astype(np.int64)
        parts = trace(source, index)
        if any(not part.squash for part in parts):
            return None
        found.append([Piece(p.value, piece.order[p.order], p.index, p.squash) for p in parts])
    for classes, other in (found, found[::-1]):
        even = all((p.index.reshape(-1, count) == p.index.reshape(-1, count)[:, :1]).all() for p in other if p.order.size % count == 0)
        # of one class, either factor can stand for it: the logit of their product is the same
        if even and (count == 1 or any((p.index.reshape(-1, count) != p.index.reshape(-1, count)[:, :1]).any() for p in classes)):
            return classes, [Piece(p.value, p.order[::count] // count, p.index[::count], p.squash) for p in other]
    return None
