"""A network's boxes as corners in 0..1 of its input."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dkcam.export.explain.detect.layout import Layout
from dkcam.export.explain.detect.select import column, take
from dkcam.export.writer import Writer


def corners(writer: Writer, layout: Layout, anchor: ir.Value, picture: tuple[int, int], grid: np.ndarray | None) -> ir.Value:
    """x1, y1, x2, y2 float32 [B, M, 4] of boxes ``anchor`` int64 [B, M], not cut off at the edges.

    picture: (height, width). grid: float32 [A, 4] for boxes in cells: column and row of each box's cell, columns and rows of its level.
    """
    axis = layout.boxes.axis
    rows = take(writer, column(writer, layout.boxes), 3 - axis, anchor)
    rows = writer.transpose(rows, 0, 2, 1) if axis == 1 else rows
    if layout.form == "xyxy":
        return _scaled(writer, layout, rows, picture)
    centre, size = writer.ops("Split", rows, outputs=2, axis=2, num_outputs=2)
    if layout.unit == "cells":
        assert grid is not None
        cells = writer.op("Gather", writer.constant(grid.astype(np.float32)), anchor, axis=0)  # [B, M, 4]
        place, count = writer.ops("Split", cells, outputs=2, axis=2, num_outputs=2)
        centre = writer.div(writer.add(centre, place), count)
        size = writer.div(writer.op("Exp", size), count)
    half = writer.mul(size, writer.number(0.5))
    both = writer.op("Concat", writer.sub(centre, half), writer.add(centre, half), axis=2)
    return _scaled(writer, layout, both, picture)


def _scaled(writer: Writer, layout: Layout, rows: ir.Value, picture: tuple[int, int]) -> ir.Value:
    if layout.unit != "pixels":
        return rows
    height, width = picture
    return writer.mul(rows, writer.constant(1 / np.array([width, height, width, height]), np.float32))


def shown(writer: Writer, found: ir.Value, there: ir.Value) -> ir.Value:
    """Corners [B, K, 4] cut off at the picture's edges, zeros where ``there`` float32 [B, K] is 0."""
    inside = writer.op("Clip", found, writer.number(0.0), writer.number(1.0))
    return writer.mul(inside, writer.unsqueeze(there, 2))
