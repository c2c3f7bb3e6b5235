"""Which axes of a value are rows and columns of the picture, followed from the image.

Sizes alone do not tell: convolutions without padding take the same number of pixels from both sides, so that a small map of a wide
picture keeps no ratio (PilotNet's last, 1×18 of 66×200).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from dkcam.export.writer import UnknownShape, shape_of

Axes = tuple[int, int]
SPATIAL = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "DepthToSpace", "SpaceToDepth"})  # rows and columns last
KEEPS = frozenset({"InstanceNormalization", "GroupNormalization", "LRN", "Resize", "Pad", "Slice", "Split"})  # of one map


def places(nodes: Sequence[ir.Node], image: ir.Value) -> Mapping[ir.Value, Axes]:
    """(axis of rows, axis of columns) of the image, and of each value with four axes that convolutions, pools, transposes and what
    works on every number by itself make of it. nodes: in the order they run.
    """
    shape = _shape(image)
    found = {image: (1, 2) if shape is not None and len(shape) == 4 and shape[3] in (1, 3) else (2, 3)}
    for node in nodes:
        axes = _axes(node, found)
        if axes is not None:
            found.update((output, axes) for output in node.outputs if _rank(output) == 4)
    return found


def _axes(node: ir.Node, found: Mapping[ir.Value, Axes]) -> Axes | None:
    known = [(value, found[value]) for value in node.inputs if value is not None and value in found]
    if not known:
        return None
    (source, axes), kind = known[0], node.op_type
    if kind in SPATIAL:
        return axes if axes == (2, 3) and source is node.inputs[0] else None
    if kind == "Transpose" and "perm" in node.attributes:
        turned = list(node.attributes["perm"].as_ints())
        return turned.index(axes[0]), turned.index(axes[1])
    if kind == "Concat":
        return axes if node.attributes["axis"].as_int() % 4 not in axes else None
    if kind in KEEPS:
        return axes
    # by number: the output has the sides of one of its inputs
    return next((axes for value, axes in known if len(node.outputs) == 1 and _sides(value, axes) == _sides(node.outputs[0], axes)), None)


def _sides(value: ir.Value, axes: Axes) -> tuple[object, ...] | None:
    shape = _shape(value)
    return (shape[axes[0]], shape[axes[1]]) if shape is not None and len(shape) == 4 else None


def _rank(value: ir.Value) -> int:
    shape = _shape(value)
    return len(shape) if shape is not None else 0


def _shape(value: ir.Value) -> list[int | str] | None:
    try:
        return list(shape_of(value))
    except UnknownShape:
        return None
