"""Heatmaps of K boxes at their level's map, from windows of gradient.

The gradient of a box's score is zero outside its window, so every method's sums over positions are sums over the window, and its
map is zero elsewhere or, where channels are weighted (gradcam, gradcam++, xgradcam), covers the level's whole map.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.export.derivative.rule import Step
from dkcam.export.derivative.space import Windows, windows_of
from dkcam.export.explain.cam import ratio
from dkcam.export.explain.detect.heads import Head, Window
from dkcam.export.explain.detect.patches import Cells, gathered, gradients, inside, space_of
from dkcam.export.writer import Writer, shape_of


def heat(writer: Writer, head: Head, cells: Cells, seeds: Mapping[ir.Value, ir.Value], boxes: ir.Value, method: str) -> ir.Value:
    """float32 [B, K, h, w], ReLU'd, of N = B · K scores. boxes: any value [B, K], for its shape. method: as ``cam.METHODS``."""
    features = writer.float32(head.features)
    rows, columns = space_of(features)
    if method == "gradcam":
        weights = writer.mul(sums(writer, head, cells, seeds), writer.number(1 / (rows * columns)))
        return _weighted(writer, features, weights, boxes)
    _, found = gradients(writer, head, cells, seeds)
    gradient = found[head.features]
    assert head.windows is not None
    window = head.windows[head.features]
    own = writer.float32(gathered(writer, head.features, cells, window))
    if method in ("hirescam", "layercam"):
        kept = writer.op("Relu", gradient) if method == "layercam" else gradient
        product = writer.op("Relu", writer.sum(writer.mul(kept, own), 1, keep=False))
        return writer.reshape(_placed(writer, product, cells, window, rows, columns), writer.dims(boxes), [rows, columns])
    total = writer.sum(features, 2, 3, keep=False)  # [B, C]
    if shape_of(boxes)[1] != 1:
        total = writer.expand(writer.unsqueeze(total, 1), 1, writer.dims(boxes, 1, 2), writer.dims(features, 1, 2))
    total = writer.reshape(total, writer.dims(gradient, 0, 2))
    if method == "xgradcam":
        weights = ratio(writer, writer.sum(writer.mul(gradient, own), 2, 3, keep=False), total)
    else:
        below = writer.add(writer.mul(writer.unsqueeze(total, 2, 3), gradient), writer.number(2.0))
        weights = writer.sum(ratio(writer, writer.op("Relu", gradient), below), 2, 3, keep=False)
    return _weighted(writer, features, weights, boxes)


def _weighted(writer: Writer, features: ir.Value, weights: ir.Value, boxes: ir.Value) -> ir.Value:
    """ReLU(Σ_c α_c A_c) for weights [N, C]."""
    flat = writer.reshape(features, writer.dims(features, 0, 2), -1)
    by_picture = writer.reshape(weights, writer.dims(boxes), writer.dims(features, 1, 2))
    made = writer.op("Relu", writer.op("MatMul", by_picture, flat))
    return writer.reshape(made, writer.dims(boxes), writer.dims(features, 2, 4))


def _placed(writer: Writer, product: ir.Value, cells: Cells, window: Window, rows: int, columns: int) -> ir.Value:
    """Windows [N, r, s] put back where they were: [N, rows, columns]. What lies outside goes nowhere."""
    to_rows = _selector(writer, cells, 0, np.arange(window.top, window.bottom + 1), rows)  # [N, rows, r]
    to_columns = writer.transpose(_selector(writer, cells, 1, np.arange(window.left, window.right + 1), columns), 0, 2, 1)
    return writer.op("MatMul", writer.op("MatMul", to_rows, product), to_columns)


def _selector(writer: Writer, cells: Cells, axis: int, places: NDArray[np.int64], size: int) -> ir.Value:
    """float32 [N, size, places]: 1 where a row of the window is a row of the map."""
    moved = writer.add(writer.unsqueeze((cells.row, cells.column)[axis], 1, 2), writer.constant(places[None, None], np.int64))
    equal = writer.op("Equal", moved, writer.constant(np.arange(size)[None, :, None], np.int64))
    return writer.op("Cast", equal, to=int(ir.DataType.FLOAT))


def sums(writer: Writer, head: Head, cells: Cells, seeds: Mapping[ir.Value, ir.Value]) -> ir.Value:
    """The gradient's sum over all positions of the map, float32 [N, C].

    Where convolutions alone read the map, their transposes are not needed: Σ_x Σ_p g_p W_(x−p) is one product of the weights with
    what each tap saw, a fraction of the work.
    """
    readers = [node for node in head.nodes if head.features in node.inputs]
    if any(node.op_type != "Conv" for node in readers) or any(node.outputs[0] not in (head.windows or {}) for node in readers):
        _, found = gradients(writer, head, cells, seeds)
        return writer.sum(found[head.features], 2, 3, keep=False)
    _, found = gradients(writer, head, cells, seeds, [node.outputs[0] for node in readers])
    total: ir.Value | None = None
    for node in readers:
        one = _through(writer, node, found[node.outputs[0]], cells, head)
        total = one if total is None else writer.add(total, one)
    assert total is not None
    return total


def _through(writer: Writer, node: ir.Node, gradient: ir.Value, cells: Cells, head: Head) -> ir.Value:
    """Σ over positions of what a convolution pulls back of a gradient [N, O, P, Q] at its output: [N, C]."""
    step = Step(writer, node, [])
    weight, groups = step.input(1), step.attribute("group", 1)
    outer, inner, *kernel = (int(size) for size in shape_of(weight))
    windows = windows_of(step, kernel)
    assert head.windows is not None
    taps = _taps(writer, gradient, windows, cells, head.windows[node.outputs[0]], head.features)  # [N, O, T]
    count = kernel[0] * kernel[1]
    if inner == 1 and groups > 1:
        each = writer.mul(taps, writer.reshape(weight, 1, outer, count))
        each = writer.sum(each, 2, keep=False)
        return writer.sum(writer.reshape(each, -1, groups, outer // groups), 2, keep=False) if outer != groups else each
    flat = writer.transpose(weight, 0, 2, 3, 1)
    if groups == 1:
        return writer.op("MatMul", writer.reshape(taps, -1, outer * count), writer.reshape(flat, outer * count, inner))
    flat = writer.reshape(flat, groups, outer // groups * count, inner)
    each = writer.transpose(writer.reshape(taps, -1, groups, outer // groups * count), 1, 0, 2)
    return writer.reshape(writer.transpose(writer.op("MatMul", each, flat), 1, 0, 2), -1, groups * inner)


def _taps(writer: Writer, gradient: ir.Value, windows: Windows, cells: Cells, window: Window, features: ir.Value) -> ir.Value:
    """[N, O, P, Q] → [N, O, T]: for each tap of the kernel, the sum of the gradient where that tap lies on the map."""
    outer = shape_of(gradient)[1]
    assert isinstance(outer, int)
    (p, q), count = window.size, windows.kernel[0] * windows.kernel[1]
    if count == 1 and not any(windows.pads):
        return writer.unsqueeze(writer.sum(gradient, 2, 3, keep=False), 2)
    masks = []
    for axis, (first, size) in enumerate(((window.top, p), (window.left, q))):
        taps = np.arange(windows.kernel[axis]) * windows.dilations[axis] - windows.begins[axis]
        places = np.arange(first, first + size)[:, None] + taps  # [P, k]
        shape = (size, 1, len(taps), 1) if axis == 0 else (1, size, 1, len(taps))
        masks.append(inside(writer, cells, axis, places.reshape(shape), space_of(features)[axis]))
    both = writer.mul(*masks)  # [N, P, Q, k, l]
    return writer.op("MatMul", writer.reshape(gradient, -1, outer, p * q), writer.reshape(both, -1, p * q, count))
